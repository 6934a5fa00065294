"""What a checkpoint says of its training, and whether to expect anything of its depth."""

from model.bokehflow import BokehFlow
from model.training.network_file import Loaded

# Below, a network knows the scenes it was trained on and hardly any others (docs/benchmarks.md: 18 scenes, an hour).
FEWEST_SCENES, FEWEST_STEPS = 200, 20_000


def describe_training(loaded: Loaded[BokehFlow]) -> str:
    """One line: size, steps, and how many scenes of what kind."""
    parameters = sum(parameter.numel() for parameter in loaded.net.parameters())
    seen = loaded.training.get("trained_on", {})
    number, kind = seen.get("scenes"), seen.get("kind", "scenes")
    what = f"{number} {kind}" if number is not None else f"{kind} it does not count"
    return f"network: {loaded.path}, {parameters / 1e6:.2f} M parameters, {loaded.step} steps on {what}"


def weakness(loaded: Loaded[BokehFlow]) -> str:
    """Why its depth should not be trusted on a film of one's own; empty where nothing speaks against it."""
    number = loaded.training.get("trained_on", {}).get("scenes")
    reasons = []
    if number is not None and number < FEWEST_SCENES:
        reasons.append(f"only {number} scenes were in its training")
    if loaded.step < FEWEST_STEPS:
        reasons.append(f"it took only {loaded.step} steps")
    if not reasons:
        return ""
    return (
        f"this network is weak: {' and '.join(reasons)}, so its depth means little on anything else; "
        f"--engine lens with delivered or estimated depth blurs better"
    )
