"""A model folder against the class that will read it: every name and shape, from headers alone.

diffusers fills a tensor that a file lacks with random numbers and a warning; here it is an error before anything is read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipeline.engines.genfocus.libraries import diffusers
from pipeline.errors import UsageError

_NAMED_IN_ERRORS = 6


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json.

    Raises:
        UsageError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); fetch the folder again") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a safetensors file.

    Raises:
        UsageError: it is missing, cut short, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None


def check_model(folder: Path, class_name: str) -> None:
    """Compare a folder's tensors with those of the diffusers class its config describes.

    Args:
        folder: config.json and one or several safetensors files.
        class_name: e.g. "AutoencoderKL".

    Raises:
        UsageError: names or shapes differ; the message says which.
    """
    config = read_config(folder)
    if config.get("_class_name", class_name) != class_name:
        raise UsageError(f"{folder} holds a {config['_class_name']}, needed is a {class_name}")
    with torch.device("meta"):
        model = getattr(diffusers(), class_name).from_config(config)
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= header_shapes(path)
    text = differences(needed, found)
    if text:
        raise UsageError(f"the weights in {folder} do not fit its config.json: {text}")


def differences(needed: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """In words, what is missing, too many or of another shape; empty when nothing is."""
    missing, extra = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
    wrong = [
        f"{name} is {found[name]}, needed {needed[name]}"
        for name in sorted(needed.keys() & found.keys())
        if found[name] != needed[name]
    ]
    parts = []
    for what, names in (("missing", missing), ("too many", extra), ("of another shape", wrong)):
        if names:
            dots = ", ..." if len(names) > _NAMED_IN_ERRORS else ""
            parts.append(f"{len(names)} tensors {what}: {', '.join(names[:_NAMED_IN_ERRORS])}{dots}")
    return "; ".join(parts)
