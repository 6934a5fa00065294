"""Where weights lie on this machine and whether they are whole, from headers alone: nothing here reads gigabytes.

Looked for, in this order: below the weights folder (--engine_opt weights=DIR or --weights DIR, else the environment variable
BOKEHFLOW_WEIGHTS, else the current folder) under the registry's name, there under its last part, and in the cache of the
Hugging Face hub (HF_HUB_CACHE, or hub/ below HF_HOME).
"""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.hints import command
from pipeline.storage.bounded import JSON_LIMIT, one_line, open_regular, read_bounded
from pipeline.storage.files import parse_json
from pipeline.weights.registry import Weights

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "BOKEHFLOW_WEIGHTS"
_NAMED = 4  # differences of a kind that an error names
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")

_OLD_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch.serialization.MAGIC_NUMBER, pickled

Shapes = dict[str, tuple[int, ...]]  # of tensors, by name


class DamagedWeightsError(UsageError):
    """A file is there and cannot be what it should be; the message says what is wrong with it."""


class Condition(StrEnum):
    """Of weights on this machine."""

    THERE = "there"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a look at the disk says: `path` is where the weights lie, or should be put; `size_bytes` is 0 without them."""

    weights: Weights
    path: Path
    condition: Condition
    size_bytes: int = 0
    reason: str = ""


def weights_folder(given: str | Path = "") -> Path:
    """The folder that was asked for, or the environment's, or the current one."""
    return Path(given or os.environ.get(VARIABLE) or ".")


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def user_cache() -> Path:
    """Where this project keeps what can be made again: bokehflow/ below XDG_CACHE_HOME, by default ~/.cache."""
    return _cache_home() / "bokehflow"


def hub_cache() -> Path:
    """Where the Hugging Face hub's client keeps what it downloads."""
    home = os.environ.get("HF_HOME") or _cache_home() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _places(weights: Weights, folder: Path) -> Iterator[Path]:
    yield folder / weights.name
    yield folder / weights.title
    if not weights.repo:
        return
    cached = hub_cache() / f"models--{weights.repo.replace('/', '--')}"
    main = cached / "refs" / "main"
    if main.is_file():
        snapshot = cached / "snapshots" / main.read_text().strip()
        yield snapshot if weights.folders else snapshot / weights.title


def find(weights: Weights, folder: Path) -> Found:
    """Look for weights and read their headers."""
    places = list(_places(weights, folder))
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return Found(weights=weights, path=places[0], condition=Condition.MISSING)
    try:
        check(weights, path)
        size = sum(file.stat().st_size for file in content_files(weights, path))
    except (DamagedWeightsError, OSError) as error:
        return Found(weights=weights, path=path, condition=Condition.DAMAGED, reason=str(error))
    return Found(weights=weights, path=path, condition=Condition.THERE, size_bytes=size)


def find_all(wanted: Iterable[Weights], folder: Path) -> list[Found]:
    return [find(weights, folder) for weights in wanted]


def content_files(weights: Weights, path: Path) -> list[Path]:
    """The files that decide what the weights compute: the file itself, or a folder's models and settings, sorted."""
    if not weights.folders:
        return [path]
    inner = [
        file
        for name in (*weights.folders, *weights.configs)
        for file in (path / name).glob("*")
        if _matters(path, file)
    ]
    return sorted([path / "model_index.json", *inner])


def _matters(folder: Path, file: Path) -> bool:
    return file.is_file() and file.suffix in (".safetensors", ".json", ".txt", ".model")


def check(weights: Weights, path: Path) -> None:
    """Read headers.

    Raises:
        DamagedWeightsError: truncated, of another format, or with names of tensors that do not belong there.
    """
    if weights.folders:
        _check_folder(weights, path)
        return
    if not path.is_file():
        raise DamagedWeightsError(f"{path} is not a file")
    names = list(safetensors_shapes(path) if path.suffix == ".safetensors" else read_torch(path))
    strange = [name for name in names if not re.fullmatch(weights.keys, name)]
    if strange or not names:
        shown = f"the first of {len(strange)} that do not belong is {strange[0]!r}" if strange else "it is empty"
        raise DamagedWeightsError(f"{path} holds {len(names)} tensors and is not {weights.title}: {shown}")


def _check_folder(weights: Weights, path: Path) -> None:
    if not (path / "model_index.json").is_file():
        raise DamagedWeightsError(f"{path} has no model_index.json; it must be a folder in the layout of diffusers")
    for name in (*weights.folders, *weights.configs):
        if not any((path / name).glob("*.json")):
            raise DamagedWeightsError(f"{path / name} is missing or has no settings (*.json)")
        if name.startswith("tokenizer") and not any((path / name / file).is_file() for file in _VOCABULARIES):
            raise DamagedWeightsError(f"{path / name} has no vocabulary ({' or '.join(_VOCABULARIES)})")
    for name in weights.folders:
        listed = {file for index in (path / name).glob("*.index.json") for file in _listed(index)}
        present = {file.name for file in (path / name).glob("*.safetensors")}
        if listed - present:
            raise DamagedWeightsError(
                f"{path / name} lacks {', '.join(sorted(listed - present))}, which its index names"
            )
        if not present:
            raise DamagedWeightsError(f"{path / name} has no weights (*.safetensors)")
        for file in sorted(present):
            safetensors_shapes(path / name / file)


def _listed(index: Path) -> set[str]:
    try:
        names = set(parse_json(read_bounded(index, JSON_LIMIT), "the index", index)["weight_map"].values())
        return {str(name) for name in names}
    except Exception as error:
        raise DamagedWeightsError(f"{index} is not an index of safetensors files ({one_line(error)})") from None


def safetensors_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in a safetensors file; a file cut short is noticed, since the header says how long it is.

    Raises:
        DamagedWeightsError: it is not a whole safetensors file.
    """
    from safetensors import safe_open

    try:
        open_regular(path).close()
        with safe_open(path, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:
        raise DamagedWeightsError(f"{path} is not a whole safetensors file ({one_line(error)}); get it again") from None


def differences(needed: Shapes, found: Shapes) -> str:
    """In words, which tensors are missing, too many or of another shape; empty when none."""
    kinds = {
        "missing": [name for name in needed if name not in found],
        "too many": [name for name in found if name not in needed],
        "of another shape": [
            f"{name} is {found[name]}, needed {shape}"
            for name, shape in needed.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        for kind, names in kinds.items()
        if names
    )


def read_torch(path: Path) -> "dict[str, Tensor]":
    """The tensors of a file that torch.save wrote, mapped from the disk and read when they are used.

    Raises:
        DamagedWeightsError: cut short, another format, or something else inside than a flat dictionary of tensors.
    """
    import torch

    try:
        with open_regular(path) as file:
            whole = zipfile.is_zipfile(file)
            old = not whole and _is_old_format(file)
    except Exception:  # an archive that lies about its parts makes the look at it fail
        whole = old = False
    if not whole and not old:
        raise DamagedWeightsError(f"{path} is cut short or is no file of torch.save; get it again")
    try:
        stored = torch.load(path, map_location="cpu", mmap=whole, weights_only=True)
    except Exception as error:  # a pickle's own, and what a damaged archive raises
        raise DamagedWeightsError(f"{path} cannot be read without running code in it ({one_line(error)})") from None
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in stored.items()
    ):
        raise DamagedWeightsError(f"{path} must hold a flat dictionary of tensors by name")
    return stored


def _is_old_format(file: IO[bytes]) -> bool:
    """Whether torch.save wrote it before PyTorch 1.6: a pickle of a magic number, no archive. Read as a whole, never mapped."""
    file.seek(0)
    return file.read(len(_OLD_MAGIC)) == _OLD_MAGIC


def table(found: Iterable[Found]) -> str:
    """Plain text: who needs what, where it is or belongs, how large it is, its licence and condition."""
    rows = [("engine", "weights", "place", "size", "licence", "condition")]
    notes = []
    for item in found:
        size = (
            f"{item.size_bytes / 1e9:.2f} GB" if item.size_bytes else f"about {item.weights.about_bytes / 1e9:.2g} GB"
        )
        engines = ", ".join(item.weights.engines)
        rows.append((engines, item.weights.title, str(item.path), size, item.weights.licence, str(item.condition)))
        notes += [f"{item.weights.title}: {item.reason}"] if item.reason else []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *notes])


def download_command(titles: Sequence[str], folder: Path) -> str:
    """What a person types to get weights into a folder."""
    place = ("--weights", str(folder)) if folder != Path(".") else ()
    return command("pipeline", "weights", *titles, "--download", *place)


def require(wanted: Iterable[Weights], folder: Path) -> list[Found]:
    """The weights an engine is about to use.

    Raises:
        UsageError: some are missing or damaged; the message holds the table and says how to get them.
    """
    found = find_all(wanted, folder)
    lacking = [item for item in found if item.condition is not Condition.THERE]
    if lacking:
        names = [item.weights.title for item in lacking]
        raise UsageError(
            f"weights are missing or damaged:\n{table(found)}\n"
            f"Get them with: {download_command(names, folder)}\n"
            f"or say where they are: --engine_opt weights=DIR, or the environment variable {VARIABLE}"
        )
    return found
