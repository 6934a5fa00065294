"""vae.ckpt: the three parts of SDXL's encoder that were trained along, and nothing else."""

from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.weights import differences, read_torch

_PARTS = ("encoder.conv_in.", "encoder.mid_block.", "encoder.conv_out.")
# Attention layers as diffusers named them before 0.18, where they were convolutions of 1 x 1 in some files.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def trained_shapes(vae: nn.Module) -> dict[str, tuple[int, ...]]:
    """The tensors of an AutoencoderKL that the file must hold."""
    return {name: tuple(value.shape) for name, value in vae.state_dict().items() if name.startswith(_PARTS)}


def read_trained(path: Path, vae: nn.Module) -> dict[str, Tensor]:
    """The file's tensors under today's names, mapped from the disk.

    Args:
        path: written by torch.save; nothing in it is executed.
        vae: on any device, meta included.

    Raises:
        UsageError: damaged, or not exactly the expected tensors; the message names the differences.
    """
    needed = trained_shapes(vae)
    found: dict[str, Tensor] = {}
    for name, value in read_torch(path).items():
        name, value = _today(name, value)
        if name in found:
            raise UsageError(f"{path} holds {name} twice, by its old name and by today's; fetch the file again")
        found[name] = value
    text = differences(needed, {name: tuple(value.shape) for name, value in found.items()})
    if text:
        raise UsageError(f"{path} is not the trained part of this VAE's encoder ({len(needed)} tensors): {text}")
    return found


def _today(name: str, value: Tensor) -> tuple[str, Tensor]:
    parts = name.split(".")
    if "attentions" not in parts or len(parts) < 2 or parts[-2] not in _OLD_NAMES:
        return name, value
    today = ".".join([*parts[:-2], _OLD_NAMES[parts[-2]], parts[-1]])
    return today, value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def load_trained(vae: nn.Module, path: Path) -> None:
    """Put them into the VAE. Raises what `read_trained` raises."""
    vae.load_state_dict(read_trained(path, vae), strict=False)  # exactly the expected ones, as was checked
