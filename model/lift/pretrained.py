"""A partial load: tensors of another network whose mapped name and shape are ours, and how many those were."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from model.evaluation.perceptual import read_tensors
from pipeline.errors import UsageError


def load_partial(net: nn.Module, path: Path, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Take what fits.

    Args:
        net: takes the tensors.
        path: a .pth or .safetensors file of tensors.
        pairs: (how their names begin, how ours do); the first that fits counts, a name without one stays as it is.

    Returns:
        Names of our tensors that were taken, sorted.

    Raises:
        UsageError: the file cannot be read, or not one tensor fits.
    """
    if not path.is_file():
        raise UsageError(f"pretrained.weights: there is no file {path}")
    ours, found = net.state_dict(), {}
    theirs = read_tensors(path)
    for name, tensor in theirs.items():
        prefix, ending = next(((a, b) for a, b in pairs if name.startswith(a)), ("", ""))
        mapped = ending + name.removeprefix(prefix)
        if mapped in ours and ours[mapped].shape == tensor.shape:
            found[mapped] = tensor.float()
    if not found:
        raise UsageError(
            f"pretrained.weights: none of the {len(theirs)} tensors of {path} has a name and shape of this network"
        )
    net.load_state_dict(found, strict=False)
    return sorted(found)
