"""Where everything is: the only module that knows the paths of the output contract (docs/output_contract.md)."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, PipelineError, UsageError
from pipeline.hints import phase_command
from pipeline.optics.lens import CocModel, Lens
from pipeline.storage.bounded import one_line, read_bounded
from pipeline.storage.files import dump_json, read_json, write_shared

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
INDEX_SCHEMA = 1
TRACED_TRUTH = "ray-traced photograph"  # "truth" in metadata.json where no renderer made the photographs
MAX_FRAMES = 1_000_000  # of a scene, and pixels of a side: what is larger is no number that this pipeline wrote
MAX_SETS = 100
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Modality:
    """A folder of a scene with one file per frame, or with one folder of them per lens set.

    Args:
        folder: its name in the scene's folder; it gets the `.done`.
        file: name of frame number i, for `str.format`.
        per_set: whether frames stand in set_00/, set_01/, ...
    """

    folder: str
    file: str
    per_set: bool = False


SHARP = Modality(folder="frames_sharp", file="frame_{:04d}.png")
DEPTH = Modality(folder="depth_maps", file="depth_{:04d}.npz")
FOCUS = Modality(folder="focus_maps", file="focus_{:04d}.npz", per_set=True)
BOKEH = Modality(folder="bokeh_renders", file="bokeh_{:04d}.png", per_set=True)
METADATA = "metadata.json"
DEPTH_STATISTICS = "depth_maps/stats.json"


def index_path(out_root: Path) -> Path:
    return out_root / "scene_index.json"


def calibration_path(out_root: Path) -> Path:
    return out_root / "coc_stats.json"


def validation_path(out_root: Path) -> Path:
    return out_root / "validation_report.json"


def page_path(out_root: Path) -> Path:
    return out_root / "report" / "index.html"


def histogram_path(out_root: Path) -> Path:
    return page_path(out_root).with_name("coc_histogram.png")


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
            raise UsageError(f"there is no {path}; run: {phase_command('index')}") from None
        except Exception as error:  # InputError from the file, anything from what is in it
            raise PipelineError(
                f"{error if isinstance(error, InputError) else f'the scene index {path} lacks or garbles {one_line(error)}'}; "
                f"every scene keeps its split, which its split.txt remembers; remove the index and run: "
                f"{phase_command('index')}"
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
    """One set of lens parameters as metadata.json stores it, and the saturation it was rendered with.

    Args:
        lens: of all frames; where the focus travels, of the first.
        max_coc_m: circle of confusion, metres, at which labels end.
        pull_m: focus distance of every frame, metres, where it travels; else empty.
    """

    lens: Lens
    max_coc_m: float
    pull_m: tuple[float, ...] = ()

    def lens_at(self, frame: int) -> Lens:
        """The lens of a frame."""
        return replace(self.lens, focus_m=self.pull_m[frame]) if self.pull_m else self.lens


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a phase writes into a scene: modalities, and single files by their path inside the scene's folder."""

    modalities: tuple[Modality, ...]
    files: tuple[str, ...] = ()

    @property
    def per_set(self) -> bool:
        return any(modality.per_set for modality in self.modalities)


# The output contract: what a finished scene holds, in the order in which it is made.
SHARP_OUTPUTS = Outputs(modalities=(SHARP,))
DEPTH_OUTPUTS = Outputs(modalities=(DEPTH,), files=(DEPTH_STATISTICS,))
RENDER_OUTPUTS = Outputs(modalities=(FOCUS, BOKEH), files=(METADATA,))
CONTRACT = (SHARP_OUTPUTS, DEPTH_OUTPUTS, RENDER_OUTPUTS)


class Scene:
    """The paths of one scene under the output root. Making one touches no disk."""

    def __init__(self, out_root: Path, scene_id: str) -> None:
        reason = unsafe_id_reason(scene_id)
        if reason:
            raise UsageError(reason)
        self.scene_id = scene_id
        self.dir = out_root / scene_id
        self.split_path = self.dir / "split.txt"
        self.metadata_path = self.dir / METADATA
        self.stats_path = self.dir / DEPTH_STATISTICS
        self.sharp_dir, self.depth_dir = self.folder(SHARP), self.folder(DEPTH)
        self.focus_dir, self.bokeh_dir = self.folder(FOCUS), self.folder(BOKEH)
        self.private_dir = self.dir / ".pipeline"  # journals, leases, failures: ours, not the contract's

    def __repr__(self) -> str:
        return f"Scene({str(self.dir)!r})"

    def folder(self, modality: Modality) -> Path:
        """The modality folder, whose `.done` says that it is finished."""
        return self.dir / modality.folder

    def frame_folder(self, modality: Modality, set_index: int = 0) -> Path:
        """Where a modality's frames stand: its folder, or that of one lens set."""
        return self.folder(modality) / f"set_{set_index:02d}" if modality.per_set else self.folder(modality)

    def frame_path(self, modality: Modality, frame: int, set_index: int = 0) -> Path:
        return self.frame_folder(modality, set_index) / modality.file.format(frame)

    def sharp_path(self, frame: int) -> Path:
        return self.frame_path(SHARP, frame)

    def depth_path(self, frame: int) -> Path:
        return self.frame_path(DEPTH, frame)

    def focus_path(self, set_index: int, frame: int) -> Path:
        return self.frame_path(FOCUS, frame, set_index)

    def bokeh_path(self, set_index: int, frame: int) -> Path:
        return self.frame_path(BOKEH, frame, set_index)

    def outputs(self, made: Outputs, num_frames: int, num_sets: int = 0) -> list[Path]:
        """Every file that a phase must have written.

        The files of one frame and set stand next to each other, frame by frame and set by set: the label and the image of
        each pair in phase 5.
        """
        rounds = [(frame, number) for frame in range(num_frames) for number in range(num_sets if made.per_set else 1)]
        files = [self.frame_path(modality, *where) for where in rounds for modality in made.modalities]
        return [*files, *(self.dir / name for name in made.files)]

    def output_names(self, made: Outputs, num_frames: int, num_sets: int = 0) -> dict[Path, frozenset[str]]:
        """`outputs` as folder -> names: what is compared with listings of thousands of scenes, where a path each costs."""
        names: dict[Path, frozenset[str]] = {}
        for number in range(num_sets if made.per_set else 1):
            for modality in made.modalities:
                names[self.frame_folder(modality, number)] = _names(modality.file, num_frames)
        for path in (self.dir / name for name in made.files):
            names[path.parent] = names.get(path.parent, frozenset()) | {path.name}
        return names

    def journal_path(self, phase: str) -> Path:
        return self.private_dir / f"{phase}.jsonl"

    def lease_path(self, phase: str) -> Path:
        return self.private_dir / f"{phase}.lease"

    def failure_path(self, phase: str) -> Path:
        """The note that a phase leaves when the scene fails."""
        return self.private_dir / f"{phase}.failed.json"

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

    def made_frames(self) -> tuple[int, ...]:
        """Frames whose photographs were interpolated and not rendered, by metadata.json; none where it says nothing.

        Raises:
            InputError: it is no ascending list of frames.
        """
        metadata = self.read_metadata()
        made, count = metadata.get("made_frames", []), metadata.get("num_frames", 0)
        whole = isinstance(made, list) and all(type(frame) is int for frame in [*made, count])
        if not whole or made != sorted(set(made)) or (made and not 0 < made[0] <= made[-1] < count - 1):
            raise InputError(
                f"{self.metadata_path}: made_frames must be ascending numbers of frames between the first and the last"
            )
        return tuple(made)

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
            found = [lens_set_from_json(value, metadata.get("coc_model", "contract")) for value in sets]
            for one in found:
                if one.pull_m and len(one.pull_m) != metadata["num_frames"]:
                    raise ValueError(f"S_focus_frames of {len(one.pull_m)} for {metadata['num_frames']} frames")
            return found
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
    pull_m = tuple(replace(lens, focus_m=float(focus_m)).focus_m for focus_m in value.get("S_focus_frames", ()))
    if pull_m and pull_m[0] != lens.focus_m:
        raise ValueError(f"S_focus must be the first of S_focus_frames, got {lens.focus_m} and {pull_m[0]}")
    return LensSet(lens=lens, max_coc_m=max_coc_m, pull_m=pull_m)


def lens_set_to_json(lens_set: LensSet) -> dict[str, Any]:
    """The contract's form of a set: f in metres, N, S_focus in metres, max_coc in metres; S_focus_frames where it travels."""
    lens = lens_set.lens
    fixed = {"f": lens.f_m, "N": lens.f_number, "S_focus": lens.focus_m, "max_coc": lens_set.max_coc_m}
    return fixed | ({"S_focus_frames": list(lens_set.pull_m)} if lens_set.pull_m else {})


def scene_folders(out_root: Path) -> Iterator[Scene]:
    """Every scene that has a folder under the output root, sorted by id."""
    if not out_root.is_dir():
        return
    for folder in sorted(out_root.iterdir()):
        if folder.is_dir() and unsafe_id_reason(folder.name) is None and (folder / "split.txt").exists():
            yield Scene(out_root, folder.name)
