"""Checkpoints: the network that people use, and everything a run needs to go on as if it had not stopped.

    <out_dir>/checkpoints/step_000500/
      model.safetensors          averaged weights; metadata: config, conventions, step
      resume/weights.safetensors optimizer.safetensors average.safetensors
      resume/state.json          step, fingerprint and its fields, scores, and the digest of every file

A folder appears under its name when it is complete: it is written beside it, synced and renamed. Digests tell a damaged one
from a whole one. Everything is safetensors or JSON; nothing executes on loading.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from model.bokehflow import BokehFlow, BokehFlowConfig, BokehFlowError
from model.errors import CheckpointError
from model.training.optim import Ema
from pipeline.errors import InputError, UsageError
from pipeline.storage.completion import Fields, fingerprint, first_difference
from pipeline.storage.files import dump_json, read_json, sync_folder, write_bytes, write_json

FORMAT = "bokehflow-1"
MODEL_NAME = "model.safetensors"
BEST_NAME = "best.json"
# What the numbers mean, for whoever opens a file years later.
CONVENTIONS = {
    "frame": "sRGB in [0, 1], all in focus",
    "depth": "z-depth along the optical axis, metres",
    "lens": "f_m and focus_m in metres, f_number; coc_model as in the config",
    "px_per_mm": "pixels per millimetre of sensor of the FULL frame; a crop keeps it",
    "radius": "pixels of the full frame, half the circle of confusion",
}
_STEP_NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """What state.json holds. `best_db` is the best validation so far, None before the first."""

    step: int
    samples: int
    fields: Fields
    data: str
    best_db: float | None = None
    best_step: int | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def step_folder(out_dir: Path, step: int) -> Path:
    return out_dir / "checkpoints" / f"step_{step:06d}"


def step_folders(out_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint that is there, oldest first; whole or not."""
    folder = out_dir / "checkpoints"
    found = [(match, path) for path in (folder.iterdir() if folder.is_dir() else ()) if (match := _match(path))]
    return sorted((int(match[1]), path) for match, path in found)


def _match(path: Path) -> re.Match[str] | None:
    return _STEP_NAME.fullmatch(path.name) if path.is_dir() else None


def model_bytes(config: BokehFlowConfig, weights: dict[str, Tensor], step: int, note: dict[str, Any]) -> bytes:
    """model.safetensors: float32 weights with everything needed to use them."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "conventions": json.dumps(CONVENTIONS, sort_keys=True),
        "step": str(step),
        "training": json.dumps(note, sort_keys=True),
    }
    return to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, metadata)


def save_checkpoint(
    out_dir: Path, net: BokehFlow, ema: Ema, optimizer: torch.optim.Optimizer, state: ResumeState
) -> Path:
    """Write a checkpoint folder, atomically; one of the same step is replaced.

    Raises:
        OSError: as the disk says; nothing half-written stays under a checkpoint's name.
    """
    target = step_folder(out_dir, state.step)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "resume").mkdir(parents=True)
    buffers = dict(net.named_buffers())
    averaged = {name: ema.weights.get(name, tensor) for name, tensor in net.state_dict().items()}
    assert all(name in ema.weights or name in buffers for name in averaged), "the average holds every parameter"
    files = {
        MODEL_NAME: model_bytes(net.config, averaged, state.step, state.fields),
        "resume/weights.safetensors": _tensor_bytes(net.state_dict()),
        "resume/average.safetensors": _tensor_bytes(ema.weights),
        "resume/optimizer.safetensors": _tensor_bytes(_optimizer_tensors(net, optimizer)),
    }
    try:
        for name, data in files.items():
            write_bytes(partial / name, data)
        stored = {
            "format": FORMAT,
            "step": state.step,
            "samples": state.samples,
            "fingerprint": state.fingerprint,
            "fields": state.fields,
            "data": state.data,
            "best_db": state.best_db,
            "best_step": state.best_step,
            "digests": {name: _digest(data) for name, data in files.items()},
        }
        write_json(partial / "resume" / "state.json", stored)
        sync_folder(partial / "resume")
        sync_folder(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    return to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _optimizer_tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: "<parameter>/exp_avg" ..."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def read_state(folder: Path) -> ResumeState:
    """Check every file of a checkpoint against its digest, and give what state.json says.

    Raises:
        CheckpointError: something is missing, damaged or foreign; the message names it.
    """
    try:
        stored = read_json(folder / "resume" / "state.json", "the checkpoint's state")
        if stored["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {stored['format']!r}, this version reads {FORMAT!r}")
        for name, digest in stored["digests"].items():
            if _digest((folder / name).read_bytes()) != digest:
                raise CheckpointError(f"{folder / name} is damaged: it is not what was written")
        state = ResumeState(
            **{key: stored[key] for key in ("step", "samples", "fields", "data", "best_db", "best_step")}
        )
        if state.fingerprint != stored["fingerprint"]:
            raise CheckpointError(f"{folder}/resume/state.json is damaged: its fields are not its fingerprint's")
        return state
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is no whole checkpoint: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{folder} is no whole checkpoint: {error.filename}: {error.strerror}") from None


def find_resume(out_dir: Path, fields: Fields, say: Callable[[str], None]) -> tuple[Path, ResumeState] | None:
    """The newest whole checkpoint of this very run; damaged ones are skipped with a message.

    Raises:
        UsageError: the newest whole one was made with other settings; the first difference is named.
    """
    for _, folder in reversed(step_folders(out_dir)):
        try:
            state = read_state(folder)
        except CheckpointError as error:
            say(f"skipped: {error}")
            continue
        difference = first_difference(state.fields, json.loads(dump_json(fields)))
        if difference:
            name, before, now = difference
            raise UsageError(
                f"{folder} was trained with other settings: {name} is {now!r} now and was {before!r}; give the run another "
                f"run.out_dir (run.init_from={folder} starts from its weights), or go back to the old value"
            )
        return folder, state
    return None


def load_resume(folder: Path, net: BokehFlow, ema: Ema, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, average and optimiser back as they were; `read_state` has checked the files."""
    device = next(net.parameters()).device
    net.load_state_dict(load_file(folder / "resume" / "weights.safetensors"))
    average = load_file(folder / "resume" / "average.safetensors")
    ema.weights = {name: average[name].to(device) for name in ema.weights}
    stored: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / "resume" / "optimizer.safetensors").items():
        parameter, _, key = name.rpartition("/")
        stored.setdefault(parameter, {})[key] = tensor
    for name, p in net.named_parameters():
        if name in stored:  # AdamW keeps its step counter on the CPU
            optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in stored[name].items()}


def prune(out_dir: Path, keep_last: int, step: int, best_step: int | None) -> None:
    """Remove all checkpoints but the last few and the best, and what killed writers left.

    Args:
        keep_last: how many to keep, counted back from `step`.
        step: of the checkpoint just written. Those of later steps were damaged, or the run would have gone on from them;
            counted among the last they would push out the whole ones, so they go.
        best_step: kept whatever its age.
    """
    folders = step_folders(out_dir)
    kept = {best_step, *[found for found, _ in folders if found <= step][-keep_last:]}
    for found, folder in folders:
        if found not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in (out_dir / "checkpoints").glob(".step_*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network ready to use, and where it came from."""

    net: BokehFlow
    path: Path
    step: int
    training: dict[str, Any]
    digest: str


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
        if best in folders:
            return folders[best] / MODEL_NAME
    for step in sorted(folders, reverse=True):
        if (folders[step] / MODEL_NAME).is_file():
            return folders[step] / MODEL_NAME
    raise UsageError(f"{path} is neither a {MODEL_NAME} nor a checkpoint or run folder that holds one")


def load_model(path: Path, device: torch.device | str = "cpu") -> Loaded:
    """The network of a checkpoint, in evaluation mode.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: truncated, foreign, or weights and config do not fit together.
    """
    file = find_model(path)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  safe_open is no dict
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{file} is no checkpoint of this project: its format is {metadata.get('format')!r}, needed is {FORMAT!r}"
            )
        net = BokehFlow(BokehFlowConfig.from_dict(json.loads(metadata["config"])))
        net.load_state_dict(weights)
        training = json.loads(metadata["training"])
        step = int(metadata["step"])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read, it is truncated or damaged: {error}") from None
    except (KeyError, ValueError, TypeError, BokehFlowError) as error:
        raise CheckpointError(f"{file}: the metadata does not describe a network: {error!r}") from None
    except RuntimeError as error:  # load_state_dict: names or shapes
        raise CheckpointError(f"{file}: the weights are not those of its config: {error}") from None
    digest = _digest(file.read_bytes())
    return Loaded(net=net.to(device).eval(), path=file, step=step, training=training, digest=digest)
