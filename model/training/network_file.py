"""model.safetensors, the network that people use: averaged weights, and in the metadata all that is needed to use them.

    format        of this file
    family        whose network it is, a folder of model/; a file without it is BokehFlow's
    config        JSON, what the family builds the network from
    conventions   JSON, what the numbers mean
    step          optimiser steps of the run
    training      JSON, the settings it was trained with, and under "trained_on" what data it saw

Nothing executes on loading.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from model.errors import CheckpointError
from model.training.families import DEFAULT_FAMILY, task_class
from pipeline.errors import InputError, UsageError
from pipeline.storage.bounded import one_line, open_regular
from pipeline.storage.files import read_json

FORMAT = "bokehflow-1"  # this project's, whichever the family
MODEL_NAME = "model.safetensors"
BEST_NAME = "best.json"
_STEP_NAME = re.compile(r"step_(\d{6,})")

Net = TypeVar("Net", bound=nn.Module, covariant=True)
Kind = TypeVar("Kind", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[Net]):
    """A network ready to use, and where it came from."""

    net: Net
    family: str
    config: dict[str, Any]
    path: Path
    step: int
    training: dict[str, Any]
    digest: str


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file; equal tensors and metadata give equal bytes.

    The library writes the metadata in the order of a hash that differs from process to process, so the header is written
    again, sorted. It is JSON behind eight bytes of length, padded with spaces to a multiple of eight.
    """
    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def network_bytes(
    family: str,
    config: Mapping[str, Any],
    conventions: Mapping[str, str],
    weights: Mapping[str, Tensor],
    step: int,
    training: Mapping[str, Any],
) -> bytes:
    """model.safetensors; the arguments are what the module's heading lists."""
    metadata = {
        "format": FORMAT,
        "family": family,
        "config": json.dumps(config, sort_keys=True),
        "conventions": json.dumps(conventions, sort_keys=True),
        "step": str(step),
        "training": json.dumps(training, sort_keys=True),
    }
    return tensor_bytes(weights, metadata)


def step_folders(out_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint that is there, oldest first; whole or not."""
    folder = out_dir / "checkpoints"
    found = ((_STEP_NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def find_model(path: Path) -> Path:
    """model.safetensors from itself, a checkpoint folder, or a run's folder (its best checkpoint, else its newest).

    Raises:
        UsageError: there is none.
    """
    if path.is_file():
        return path
    if (path / MODEL_NAME).is_file():
        return path / MODEL_NAME
    folders = dict(step_folders(path))
    if (path / BEST_NAME).is_file():
        best = read_json(path / BEST_NAME, "the record of the best checkpoint").get("step")
        if isinstance(best, int) and best in folders:
            return folders[best] / MODEL_NAME
    for step in sorted(folders, reverse=True):
        if (folders[step] / MODEL_NAME).is_file():
            return folders[step] / MODEL_NAME
    raise UsageError(f"{path} is neither a {MODEL_NAME} nor a checkpoint or run folder that holds one")


def family_of(path: Path) -> str:
    """Whose network a checkpoint holds; only the metadata are read.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be read, or is of another project.
    """
    file = find_model(path)
    try:
        open_regular(file).close()
        with safe_open(file, "pt") as opened:
            return _family(file, opened.metadata() or {})
    except (CheckpointError, UsageError):
        raise
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read, it is truncated or damaged: {one_line(error)}") from None


def _family(file: Path, metadata: Mapping[str, str]) -> str:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} is no checkpoint of this project: its format is {metadata.get('format')!r}, needed is {FORMAT!r}"
        )
    return metadata.get("family", DEFAULT_FAMILY)


def load_kind(path: Path, family: str, kind: type[Kind], device: torch.device | str = "cpu") -> Loaded[Kind]:
    """A family's network, which is of type `kind`, from a file, a checkpoint folder or a run's folder, in evaluation mode.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be used, or is a network of another family.
    """
    loaded = load_model(path, device)
    if not isinstance(loaded.net, kind):
        raise CheckpointError(f"{loaded.path} is a {loaded.family} network; this needs one of {family}")
    return cast(Loaded[Kind], loaded)


def take_weights(net: nn.Module, loaded: Loaded[nn.Module], fits: Callable[[Any, Any], bool]) -> None:
    """What run.init_from does for a family whose weights follow from its config: all of them, or none.

    Args:
        net: with a `config`; takes the weights.
        loaded: the checkpoint.
        fits: whether weights of a network of the first config fit one of the second.

    Raises:
        UsageError: the checkpoint is of another kind of network or of a config that does not fit.
    """
    if not isinstance(loaded.net, type(net)) or not fits(loaded.net.config, net.config):
        raise UsageError(f"run.init_from: {loaded.path} is a network of another config than [model]")
    net.load_state_dict(loaded.net.state_dict())


def load_model(path: Path, device: torch.device | str = "cpu") -> Loaded[nn.Module]:
    """The network of a checkpoint, of whichever family, in evaluation mode.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: truncated, foreign, of a family that is not here, or weights and config do not fit together.
    """
    file = find_model(path)
    try:
        open_regular(file).close()
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  safe_open is no dict
        family = _family(file, metadata)
        config = json.loads(metadata["config"])
        net = task_class(family).load_network(config, weights)
        training = json.loads(metadata["training"])
        step = int(metadata["step"])
    except CheckpointError:
        raise
    except (SafetensorError, OSError, InputError) as error:
        raise CheckpointError(f"{file} cannot be read, it is truncated or damaged: {one_line(error)}") from None
    except UsageError as error:  # a family that this version does not have
        raise CheckpointError(f"{file}: {error}") from None
    except RecursionError as error:
        raise CheckpointError(f"{file}: the metadata does not describe a network: {one_line(error)}") from None
    except RuntimeError as error:  # load_state_dict: names or shapes
        raise CheckpointError(f"{file}: the weights are not those of its config: {error}") from None
    except Exception as error:  # a config that is none, or one of a network that fits into no memory
        raise CheckpointError(f"{file}: the metadata does not describe a network: {error!r}"[:1000]) from None
    return Loaded(
        net=net.to(device).eval(),
        family=family,
        config=config,
        path=file,
        step=step,
        training=training,
        digest=digest_of(file.read_bytes()),
    )
