"""Checkpoints: the network that people use, and everything a run needs to go on as if it had not stopped.

    <out_dir>/checkpoints/step_000500/
      model.safetensors          averaged weights; see network_file.py
      resume/weights.safetensors optimizer.safetensors average.safetensors
      resume/state.json          step, family, fingerprint and its fields, scores, and the digest of every file

A folder appears under its name when it is complete: it is written beside it, synced and renamed. Digests tell a damaged one
from a whole one. Everything is safetensors or JSON; nothing executes on loading. Several optimisers share one file, since no
parameter belongs to two.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, as_tensor

from model.errors import CheckpointError
from model.training.families import DEFAULT_FAMILY
from model.training.log import LOG_NAME, PICTURES_NAME
from model.training.network_file import (
    BEST_NAME,
    FORMAT,
    MODEL_NAME,
    digest_of,
    network_bytes,
    step_folders,
    tensor_bytes,
)
from model.training.optim import Ema
from model.training.task import Task
from pipeline.errors import UsageError
from pipeline.storage.bounded import one_line
from pipeline.storage.completion import Fields, fingerprint, first_difference
from pipeline.storage.files import (
    Fence,
    dump_json,
    no_fence,
    read_json,
    remove_leftovers,
    sync_folder,
    write_bytes,
    write_if_changed,
    write_json,
)

SETTINGS_NAME = "settings.json"
# A run that was told to stop leaves this file until it goes on: torchrun turns every exit code into 1, and whoever started it
# may want to know that it can be resumed.
STOPPED_NAME = "stopped.json"
RUN_FILES = frozenset(
    (SETTINGS_NAME, STOPPED_NAME, BEST_NAME, LOG_NAME)
)  # what is replaced as a whole beside the checkpoints


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """What state.json holds. `best_score` is the best validation so far, None before the first."""

    step: int
    samples: int
    fields: Fields
    data: str
    family: str = DEFAULT_FAMILY
    best_score: float | None = None
    best_step: int | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)


def step_folder(out_dir: Path, step: int) -> Path:
    return out_dir / "checkpoints" / f"step_{step:06d}"


def save_checkpoint(out_dir: Path, task: Task[Any], ema: Ema, state: ResumeState, fence: Fence = no_fence) -> Path:
    """Write a checkpoint folder, atomically; one of the same step is replaced.

    Raises:
        OSError: as the disk says; nothing half-written stays under a checkpoint's name.
        LeaseLostError: the fence is a lease's, and the lease was lost.
    """
    target = step_folder(out_dir, state.step)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "resume").mkdir(parents=True)
    files = _files(task, ema, state)
    try:
        for name, data in files.items():
            write_bytes(partial / name, data)
        stored = {
            "format": FORMAT,
            "family": state.family,
            "step": state.step,
            "samples": state.samples,
            "fingerprint": state.fingerprint,
            "fields": state.fields,
            "data": state.data,
            "best_score": state.best_score,
            "best_step": state.best_step,
            "digests": {name: digest_of(data) for name, data in files.items()},
        }
        write_json(partial / "resume" / "state.json", stored)
        sync_folder(partial / "resume")
        sync_folder(partial)
        fence()
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_folder(target.parent)
    except OSError:
        fence()  # what a successor swept looks like a failing disk
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _files(task: Task[Any], ema: Ema, state: ResumeState) -> dict[str, bytes]:
    """Name in the checkpoint's folder -> content, of everything but state.json."""
    kept = {name: tensor for name, tensor in task.net.state_dict().items() if task.keeps(name)}
    buffers = dict(task.net.named_buffers())
    averaged = {name: ema.weights.get(name, tensor) for name, tensor in kept.items()}
    assert all(name in ema.weights or name in buffers for name in averaged), "the average holds every parameter"
    published = task.published(averaged)
    training = state.fields | ({"trained_on": dict(task.trained_on())} if task.trained_on() else {})
    return {
        MODEL_NAME: network_bytes(
            state.family, task.network_config(), task.conventions, published, state.step, training
        ),
        "resume/weights.safetensors": tensor_bytes(kept),
        "resume/average.safetensors": tensor_bytes(ema.weights),
        "resume/optimizer.safetensors": tensor_bytes(_optimizer_tensors(task)),
    }


def _optimizer_tensors(task: Task[Any]) -> dict[str, Tensor]:
    """The optimisers' state by parameter name: "<parameter>/exp_avg" ..."""
    names = {id(parameter): name for name, parameter in task.net.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": as_tensor(value)
        for item in task.optimizers
        for parameter, values in item.optimizer.state.items()
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
            if digest_of((folder / name).read_bytes()) != digest:
                raise CheckpointError(f"{folder / name} is damaged: it is not what was written")
        state = ResumeState(
            **{key: stored[key] for key in ("step", "samples", "fields", "data", "best_step")},
            family=stored.get("family", DEFAULT_FAMILY),
            # written as best_db when the only score there was were decibels
            best_score=stored["best_score"] if "best_score" in stored else stored["best_db"],
        )
        if state.fingerprint != stored["fingerprint"]:
            raise CheckpointError(f"{folder}/resume/state.json is damaged: its fields are not its fingerprint's")
        return state
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{folder} is no whole checkpoint: {error.filename}: {error.strerror}") from None
    except Exception as error:
        raise CheckpointError(f"{folder} is no whole checkpoint: {one_line(error)}") from None


def find_resume(
    out_dir: Path, fields: Fields, say: Callable[[str], None], family: str = DEFAULT_FAMILY
) -> tuple[Path, ResumeState] | None:
    """The newest whole checkpoint of this very run; damaged ones are skipped with a message.

    Raises:
        UsageError: the newest whole one was made with another family or settings; the first difference is named.
    """
    for _, folder in reversed(step_folders(out_dir)):
        try:
            state = read_state(folder)
        except CheckpointError as error:
            say(f"skipped: {error}")
            continue
        if state.family != family:
            difference: tuple[str, Any, Any] | None = ("task.name", state.family, family)
        else:
            difference = first_difference(state.fields, json.loads(dump_json(fields)))
        if difference:
            name, before, now = difference
            raise UsageError(
                f"{folder} was trained with other settings: {name} is {now!r} now and was {before!r}; give the run another "
                f"run.out_dir (run.init_from={folder} starts from its weights), or go back to the old value"
            )
        return folder, state
    return None


def load_resume(folder: Path, task: Task[Any], ema: Ema) -> None:
    """Put weights, average and optimisers back as they were; `read_state` has checked the files.

    Raises:
        CheckpointError: the files hold other parameters than the task keeps.
    """
    weights = load_file(folder / "resume" / "weights.safetensors")
    kept = {name for name in task.net.state_dict() if task.keeps(name)}
    if weights.keys() != kept:
        name = min(weights.keys() ^ kept)
        where = "is missing in" if name in kept else "is not the network's, and is in"
        raise CheckpointError(f"{name} {where} {folder}/resume/weights.safetensors")
    task.net.load_state_dict(weights, strict=False)  # a frozen base is not in the file, and is as its source gave it
    average = load_file(folder / "resume" / "average.safetensors")
    ema.weights = {name: average[name].to(live.device) for name, live in ema.weights.items()}
    stored: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / "resume" / "optimizer.safetensors").items():
        parameter, _, key = name.rpartition("/")
        stored.setdefault(parameter, {})[key] = tensor
    names = {id(parameter): name for name, parameter in task.net.named_parameters()}
    for item in task.optimizers:
        for group in item.optimizer.param_groups:
            for p in group["params"]:
                values = stored.get(names[id(p)])
                if values is not None:  # AdamW keeps its step counter on the CPU
                    item.optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in values.items()}


def prune(out_dir: Path, keep_last: int, step: int, best_step: int | None, fence: Fence = no_fence) -> None:
    """Remove all checkpoints but the last few and the best, and what killed writers left.

    Args:
        keep_last: how many to keep, counted back from `step`.
        step: of the checkpoint just written. Those of later steps were damaged, or the run would have gone on from them;
            counted among the last they would push out the whole ones, so they go.
        best_step: kept whatever its age.

    Raises:
        LeaseLostError: the fence is a lease's, and the lease was lost.
    """
    fence()
    folders = step_folders(out_dir)
    kept = {best_step, *[found for found, _ in folders if found <= step][-keep_last:]}
    for found, folder in folders:
        if found not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    sweep(out_dir)


def sweep(out_dir: Path) -> None:
    """Remove what killed or superseded writers left, in the whole run's folder; from then on none of them can finish a write.
    Only the holder of the run's lease may call this."""
    for leftover in (out_dir / "checkpoints").glob(".step_*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_leftovers(out_dir, RUN_FILES.__contains__)
    remove_leftovers(out_dir / PICTURES_NAME, lambda name: name.startswith("step_"))


def note_best(out_dir: Path, score_name: str, state: ResumeState, fence: Fence = no_fence) -> None:
    """best.json, from what the newest checkpoint knows. Also after a resume: a kill may have come between the two."""
    path = out_dir / BEST_NAME
    if state.best_step is None:
        fence()
        path.unlink(missing_ok=True)
        return
    write_if_changed(path, dump_json({"step": state.best_step, score_name: state.best_score}).encode(), fence)
