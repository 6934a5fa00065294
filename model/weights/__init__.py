"""The trained networks that come with the code: one small safetensors file per family, and a model card beside each.

What asks for a checkpoint takes these where none is given. Nothing is downloaded; a copy without them says so.
"""

from pathlib import Path

from pipeline.errors import UsageError

LICENCE = "Apache-2.0"  # of the weights, as of the code
SHIPPED = {"bokehflow": "bokehflow_nano.safetensors", "focusmamba": "focus_nano.safetensors"}


def default_weights(family: str) -> Path:
    """The file of a family's weights, as `--checkpoint` takes it.

    Args:
        family: a name in `SHIPPED`, the folder of the network in model/.

    Raises:
        UsageError: none are made for this family, or this copy of the code came without them.
    """
    if family not in SHIPPED:
        raise UsageError(
            f"no weights come with the code for {family!r}, only for {', '.join(SHIPPED)}; give a checkpoint"
        )
    path = Path(__file__).resolve().parent / SHIPPED[family]
    if not path.is_file():
        raise UsageError(
            f"the weights that come with the code for {family} are not in this copy ({path} is missing); give a "
            "checkpoint (--checkpoint; in phases 3 and 5 --engine_opt checkpoint=PATH), or fetch the repository again"
        )
    return path
