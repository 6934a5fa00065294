"""A model folder against the class that will read it: every name and shape, from headers alone.

diffusers fills a tensor that a file lacks with random numbers and a warning; here it is an error before anything is read.
"""

from pathlib import Path
from typing import Any

import torch

from pipeline.engines.genfocus.libraries import diffusers
from pipeline.errors import InputError, UsageError
from pipeline.storage.bounded import MIB, read_bounded
from pipeline.storage.files import parse_json
from pipeline.weights import Shapes, differences, safetensors_shapes


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json.

    Raises:
        UsageError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        value = parse_json(read_bounded(path, MIB), "the config", path)
    except (OSError, InputError) as error:
        raise UsageError(f"{path} cannot be read ({error}); fetch the folder again") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


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
    found: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= safetensors_shapes(path)
    text = differences(needed, found)
    if text:
        raise UsageError(f"the weights in {folder} do not fit its config.json: {text}")
