"""Where everything is: the only module that knows the paths of the output contract (docs/output_contract.md)."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, PipelineError, UsageError
from pipeline.optics import CocModel, Lens
from pipeline.storage.bounded import one_line, read_bounded
from pipeline.storage.files import dump_json, read_json, write_shared

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
INDEX_SCHEMA = 1
MAX_FRAMES = 1_000_000  # of a scene, and pixels of a side: what is larger is no number that this pipeline wrote
MAX_SETS = 100
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]+")
_SHARP, _DEPTH, _FOCUS, _BOKEH = "frame_{:04d}.png", "depth_{:04d}.npz", "focus_{:04d}.npz", "bokeh_{:04d}.png"


def unsafe_id_reason(scene_id: str) -> str | None:
    """Why a name cannot be a scene id (it becomes a folder name and a command-line argument), or None."""
    if not _SAFE_ID.fullmatch(scene_id):
        return f"scene id {scene_id!r} may only have letters, digits, '.', '_' and '-'; rename the source"
    if ".." in scene_id or scene_id.startswith((".", "-")):
        return f"scene id {scene_id!r} must not contain '..' or start with '.' or '-'; rename the source"
    return None


@dataclass(frozen=True, kw_only=True)
class SceneEntry:
    """One scene of the index: accepted with a split, or rejected with reasons.

    `files` are (path relative to the raw root, bytes, modification time in ns), for the cheap check that the raw data is
    still what was indexed; `content_hash` covers the frames' bytes and `depth_hash` those of delivered depth.
    """

    scene_id: str
    source: str
    accepted: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: Split | None = None
    num_frames: int = 0
    width: int = 0
    height: int = 0
    content_hash: str = ""
    depth_kind: str | None = None
    depth_hash: str = ""
    files: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SceneIndex:
    """`scene_index.json`: every source found under the raw root, and the settings it was checked with."""

    raw_root: str
    settings: dict[str, Any]
    entries: dict[str, SceneEntry] = field(default_factory=dict)

    @property
    def accepted(self) -> dict[str, SceneEntry]:
        return {name: entry for name, entry in self.entries.items() if entry.accepted}

    def save(self, path: Path) -> None:
        stored = {
            "schema": INDEX_SCHEMA,
            "raw_root": self.raw_root,
            "settings": self.settings,
            "scenes": {name: asdict(entry) for name, entry in sorted(self.entries.items())},
        }
        write_shared(path, dump_json(stored).encode())

    @classmethod
    def load(cls, path: Path) -> "SceneIndex":
        """Read an index.

        Raises:
            UsageError: there is none yet.
            PipelineError: it is damaged; splits are safe in the scenes' split.txt.
        """
        try:
            stored = read_json(path, "the scene index")
            if stored.get("schema") != INDEX_SCHEMA:
                raise InputError(f"the scene index {path} has schema {stored.get('schema')!r}, needs {INDEX_SCHEMA}")
            entries = {name: _entry(name, value) for name, value in stored["scenes"].items()}
            return cls(raw_root=stored["raw_root"], settings=stored["settings"], entries=entries)
        except FileNotFoundError:
            raise UsageError(f"there is no {path}; run: python scripts/01_validate_dataset.py") from None
        except Exception as error:  # InputError from the file, anything from what is in it
            raise PipelineError(
                f"{error if isinstance(error, InputError) else f'the scene index {path} lacks or garbles {one_line(error)}'}; "
                f"remove it and run python scripts/01_validate_dataset.py again "
                f"(every scene keeps its split, which its split.txt remembers)"
            ) from None


def _entry(name: str, value: dict[str, Any]) -> SceneEntry:
    entry = SceneEntry(
        **{
            **value,
            "reasons": tuple(value["reasons"]),
            "notes": tuple(value["notes"]),
            "files": tuple((str(path), int(size), int(mtime)) for path, size, mtime in value["files"]),
        }
    )
    sizes = (entry.num_frames, entry.width, entry.height)
    if (
        not all(type(size) is int and 0 <= size <= MAX_FRAMES for size in sizes)
        or entry.scene_id != name
        or (entry.accepted and entry.split not in SPLITS)
        or (unsafe_id_reason(name) and entry.accepted)
    ):
        raise KeyError(f"scene {name!r}")
    return entry


@dataclass(frozen=True, kw_only=True)
class LensSet:
    """One set of lens parameters as metadata.json stores it, and the saturation it was rendered with."""

    lens: Lens
    max_coc_m: float


class Scene:
    """The paths of one scene under the output root. Making one touches no disk."""

    def __init__(self, out_root: Path, scene_id: str) -> None:
        reason = unsafe_id_reason(scene_id)
        if reason:
            raise UsageError(reason)
        self.scene_id = scene_id
        self.dir = out_root / scene_id
        self.split_path = self.dir / "split.txt"
        self.metadata_path = self.dir / "metadata.json"
        self.sharp_dir = self.dir / "frames_sharp"
        self.depth_dir = self.dir / "depth_maps"
        self.stats_path = self.depth_dir / "stats.json"
        self.focus_dir = self.dir / "focus_maps"
        self.bokeh_dir = self.dir / "bokeh_renders"
        self.private_dir = self.dir / ".pipeline"  # journals, leases, failures: ours, not the contract's

    def __repr__(self) -> str:
        return f"Scene({str(self.dir)!r})"

    def sharp_path(self, frame: int) -> Path:
        return self.sharp_dir / _SHARP.format(frame)

    def depth_path(self, frame: int) -> Path:
        return self.depth_dir / _DEPTH.format(frame)

    def focus_path(self, set_index: int, frame: int) -> Path:
        return self.focus_dir / f"set_{set_index:02d}" / _FOCUS.format(frame)

    def bokeh_path(self, set_index: int, frame: int) -> Path:
        return self.bokeh_dir / f"set_{set_index:02d}" / _BOKEH.format(frame)

    def outputs(self, phase: str, num_frames: int, num_sets: int = 0) -> list[Path]:
        """Every file that "deblur", "depth" or "render" must have written.

        For "render" the label and the picture of each pair stand next to each other, frame by frame and set by set.
        """
        frames = range(num_frames)
        if phase == "deblur":
            return [self.sharp_path(frame) for frame in frames]
        if phase == "depth":
            return [*(self.depth_path(frame) for frame in frames), self.stats_path]
        assert phase == "render", f"{phase!r} is no per-scene phase"
        pairs = [(number, frame) for frame in frames for number in range(num_sets)]
        files = [path(number, frame) for number, frame in pairs for path in (self.focus_path, self.bokeh_path)]
        return [*files, self.metadata_path]

    def output_names(self, phase: str, num_frames: int, num_sets: int = 0) -> dict[Path, frozenset[str]]:
        """`outputs` as folder -> names: what is compared with listings of thousands of scenes, where a path each costs."""
        if phase == "deblur":
            return {self.sharp_dir: _names(_SHARP, num_frames)}
        if phase == "depth":
            return {self.depth_dir: _names(_DEPTH, num_frames) | {self.stats_path.name}}
        assert phase == "render", f"{phase!r} is no per-scene phase"
        kinds = ((self.focus_path, _FOCUS), (self.bokeh_path, _BOKEH))
        pairs = {path(number, 0).parent: _names(name, num_frames) for number in range(num_sets) for path, name in kinds}
        return {**pairs, self.dir: frozenset({self.metadata_path.name})}

    def read_split(self) -> Split | None:
        """The scene's split as its own folder remembers it; None when it never had one."""
        try:
            text = read_bounded(self.split_path, 100).decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError, InputError):
            return None
        return next((split for split in SPLITS if split == text), None)

    def read_metadata(self) -> dict[str, Any]:
        """metadata.json; InputError when it is damaged."""
        try:
            return read_json(self.metadata_path, "the scene's metadata")
        except FileNotFoundError:
            raise InputError(f"there is no {self.metadata_path}; phase 5 writes it") from None

    def lens_sets(self) -> list[LensSet]:
        """The lens sets of metadata.json.

        Raises:
            InputError: a set lacks a key or holds a lens that cannot exist.
        """
        metadata = self.read_metadata()
        try:
            sets = metadata["sets"][: MAX_SETS + 1]
            if len(sets) > MAX_SETS:
                raise ValueError(f"more than {MAX_SETS}")
            return [lens_set_from_json(value, metadata.get("coc_model", "contract")) for value in sets]
        except Exception as error:
            raise InputError(
                f"{self.metadata_path}: {one_line(error)} in sets; each needs f, N, S_focus, max_coc"
            ) from None


@cache
def _names(form: str, count: int) -> frozenset[str]:
    return frozenset(form.format(frame) for frame in range(count))


def lens_set_from_json(value: dict[str, Any], coc_model: CocModel) -> LensSet:
    """A set of metadata.json. Raises KeyError, TypeError, ValueError or OverflowError for what is none."""
    lens = Lens(f_m=value["f"], f_number=value["N"], focus_m=value["S_focus"], coc_model=coc_model)
    max_coc_m = float(value["max_coc"])
    if not (math.isfinite(max_coc_m) and max_coc_m > 0):
        raise ValueError(f"max_coc must be > 0 and finite, got {max_coc_m}")
    return LensSet(lens=lens, max_coc_m=max_coc_m)


def lens_set_to_json(lens_set: LensSet) -> dict[str, float]:
    """The contract's form of a set: f in metres, N, S_focus in metres, max_coc in metres."""
    lens = lens_set.lens
    return {"f": lens.f_m, "N": lens.f_number, "S_focus": lens.focus_m, "max_coc": lens_set.max_coc_m}


def scene_folders(out_root: Path) -> Iterator[Scene]:
    """Every scene that has a folder under the output root, sorted by id."""
    if not out_root.is_dir():
        return
    for folder in sorted(out_root.iterdir()):
        if folder.is_dir() and unsafe_id_reason(folder.name) is None and (folder / "split.txt").exists():
            yield Scene(out_root, folder.name)
