"""Depth that came with a scene: where it lies, which map belongs to which frame, and what is wrong with it.

Special: maps and frames are paired by the numbers in their names; where those disagree nothing is paired. What this is not: an
estimator, or a guesser of units.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.media.depth_files import Depth
from pipeline.media.depth_readers import MAP_SUFFIXES, ArrayStack, Stack, Stored, VideoStack, read_map
from pipeline.media.depth_statement import EXAMPLES, DepthStatement, Kind, read_statement
from pipeline.media.frame_folder import VIDEO_SUFFIXES, look_at, numbers_of
from pipeline.media.images import natural_key

DELIVERED_KINDS: tuple[Kind, ...] = ("depth", "disparity")
_ARRAY_NAMES = ("{base}.depth.npz", "{base}.depths.npz", "{base}_depths.npz", "{base}_depth.npz", "{base}.depth.npy")
_ASPECT_TOLERANCE = 0.02  # of a map that is scaled to its frame: what rounding of small sides makes
_PLAUSIBLE_M = (0.5, 50.0)
_TOLD_SHARE = 0.01
_SAMPLES = 4096  # values of a map that its median is taken over


class DeliveredDepth:
    """One map per frame, in metres.

    Args:
        statement: how to read the numbers.
        files: one per frame in the frames' order, or the one file that holds all maps.
        stack: that one file's reader.
        described: the depth.json, if there is one.
        notes: what was skipped or not understood.
    """

    def __init__(
        self,
        statement: DepthStatement,
        files: list[Path],
        *,
        stack: Stack | None = None,
        described: Path | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.statement, self.described, self.notes = statement, described, tuple(notes)
        self._files, self._stack = files, stack

    @property
    def kind(self) -> str:
        return self.statement.kind

    def __len__(self) -> int:
        return self._stack.count() if self._stack else len(self._files)

    def files(self) -> list[Path]:
        """The files with maps."""
        return self._files

    def all_files(self) -> list[Path]:
        """The same and, last, the depth.json."""
        return [*self._files, *([self.described] if self.described else [])]

    def read(self, index: int) -> Depth:
        """(H, W) float32 metres as delivered: NaN where unknown, +inf where infinitely far.

        Raises:
            InputError: the file is damaged or has another form; the message names it.
        """
        return self.statement.metres(self._stored(index))

    def _stored(self, index: int) -> Stored:
        if self._stack:
            return self._stack.read(index)
        path = self._files[index]
        values = read_map(path)
        if self.kind == "depth" and values.dtype == np.uint8 and not self.statement.scale:
            raise InputError(
                f"{path} must be a 16-bit {path.suffix[1:].lower()} in millimetres, got uint8; or state "
                f"unit and scale in depth.json"
            )
        return values

    def read_fitting(self, index: int, size: tuple[int, int]) -> Depth:
        """`read`, for a frame of this (width, height). A file that holds all maps may be smaller or larger than the frames.

        Raises:
            InputError: as `read`, or the map has another size, or another shape where it may be scaled.
        """
        depth = self.read(index)
        height, width = depth.shape
        if self._stack:
            if abs(width * size[1] / (height * size[0]) - 1) > _ASPECT_TOLERANCE:
                raise InputError(
                    f"{self._files[0]} has maps of {width}x{height}, which is not the shape of {size[0]}x{size[1]}"
                )
        elif (width, height) != size:
            raise InputError(f"{self._files[index]} is {width}x{height}, its frame is {size[0]}x{size[1]}")
        return depth


def find_delivered_depth(source: Path, num_frames: int) -> DeliveredDepth | None:
    """The depth of a scene, or None: beside the frames, or under the name of the folder or video with `.depth`.

    Args:
        source: the scene's folder of frames, or its video.
        num_frames: how many frames it has.

    Raises:
        InputError: there is more than one, maps and frames do not match, or a depth.json is missing or does not say how to read
            them.
    """
    places = list(_places(source))
    if not places:
        return None
    if len(places) > 1:
        kinds = {path.name for _, path in places}
        if kinds == set(DELIVERED_KINDS):
            raise InputError(f"{places[0][1].parent} has both depth/ and disparity/; keep the one that should be used")
        raise InputError(
            f"{source} has depth in several places ({', '.join(str(path) for _, path in places)}); keep one"
        )
    kind, place = places[0]
    return _at(kind, place, source, num_frames)


def depth_at(place: Path, source: Path, num_frames: int) -> DeliveredDepth:
    """The depth at a place that somebody names: a folder of maps, the folder around it, or one file with all maps.

    Args:
        place: where it is; whether it is disparity tells its name.
        source, num_frames: the frames it belongs to.

    Raises:
        InputError: as `find_delivered_depth`, or there is none.
    """
    if not place.exists():
        raise InputError(f"there is no depth at {place}")
    inner = [(kind, place / kind) for kind in DELIVERED_KINDS if (place / kind).is_dir()]
    if inner:
        kind, place = inner[0]
        return _at(kind, place, source, num_frames)
    return _at("disparity" if "disparity" in place.name.lower() else "depth", place, source, num_frames)


def _at(kind: Kind, place: Path, source: Path, num_frames: int) -> DeliveredDepth:
    described = _described(source, place)
    if place.is_dir():
        return _folder(source, kind, place, described, num_frames)
    return _one_file(kind, place, described, num_frames)


def has_delivered_depth(source: Path) -> bool:
    """Whether there is any, usable or not."""
    return next(_places(source), None) is not None


def depth_companions(source: Path) -> list[Path]:
    """What lies beside a source and is depth of it, depth.json included: names that are no scenes of their own."""
    base = _base(source)
    found = [place for _, place in _places(source) if place.parent == base.parent]
    told = base.parent / f"{base.name}.depth.json"
    return [*found, *([told] if told.is_file() else [])]


def _base(source: Path) -> Path:
    return source if source.is_dir() else source.with_suffix("")


def _places(source: Path) -> Iterator[tuple[Kind, Path]]:
    base = _base(source)
    for kind in DELIVERED_KINDS:
        for folder in (base / kind, base.parent / f"{base.name}.{kind}"):
            if os.path.isdir(folder):  # False, and no error, where nothing may be looked at
                yield kind, folder
        for suffix in VIDEO_SUFFIXES:
            for film in (base / f"{kind}{suffix}", base.parent / f"{base.name}.{kind}{suffix}"):
                if os.path.isfile(film):
                    yield kind, film
    inside = [base / name for name in ("depth.npz", "depths.npz")]
    beside = [base.parent / name.format(base=base.name) for name in _ARRAY_NAMES]
    for array in (*inside, *beside):
        if os.path.isfile(array):
            yield "depth", array


def _described(source: Path, place: Path) -> Path | None:
    base = _base(source)
    choices = [place / "depth.json"] if place.is_dir() else [place.with_suffix(".json")]
    choices += [place.parent / "depth.json", base.parent / f"{base.name}.depth.json", base / "depth.json"]
    return next((path for path in choices if path.is_file()), None)


def _statement(kind: Kind, place: Path, described: Path | None, needed: bool) -> tuple[DepthStatement, list[str]]:
    if described is None:
        if not needed:
            return DepthStatement(kind=kind), []
        expected = place.parent / "depth.json"
        raise InputError(f"{place} needs {expected} to say how to read it, e.g. {EXAMPLES['disparity']}")
    statement, notes = read_statement(described, kind)
    if kind == "disparity" and statement.kind == "depth":
        raise InputError(
            f"{described} must have kind 'disparity' for {place}, e.g. {EXAMPLES['disparity']}, or {EXAMPLES['disparity_px']}"
        )
    return statement, notes


def _folder(source: Path, kind: Kind, place: Path, described: Path | None, num_frames: int) -> DeliveredDepth:
    statement, notes = _statement(kind, place, described, kind == "disparity")
    files: list[Path] = []
    others: list[Path] = []
    for path in place.iterdir():
        if not path.name.startswith(".") and path != described:
            (files if path.suffix.lower() in MAP_SUFFIXES and path.is_file() else others).append(path)
    files.sort(key=lambda path: natural_key(path.name))
    if others:
        names = sorted(path.name for path in others)
        notes.append(f"{place.name}: not read: {len(names)} files or folders: {', '.join(names[:3])}")
    if len(files) != num_frames:
        raise InputError(
            f"{place} has {len(files)} files ({', '.join(MAP_SUFFIXES)}) for {num_frames} frames{_lacking(source, files)}"
        )
    return DeliveredDepth(statement, _paired(source, place, files), described=described, notes=notes)


def _one_file(kind: Kind, place: Path, described: Path | None, num_frames: int) -> DeliveredDepth:
    suffix = place.suffix.lower()
    film, picture = suffix in VIDEO_SUFFIXES, suffix in MAP_SUFFIXES and suffix not in (".npz", ".npy")
    statement, notes = _statement(kind, place, described, film or (picture and kind == "disparity"))
    if picture and num_frames == 1:  # of a photograph
        return DeliveredDepth(statement, [place], described=described, notes=notes)
    stack: Stack = VideoStack(place) if film else ArrayStack(place)
    if stack.count() != num_frames:
        raise InputError(f"{place} has {stack.count()} maps for {num_frames} frames")
    return DeliveredDepth(statement, [place], stack=stack, described=described, notes=notes)


def _frame_names(source: Path) -> list[str] | None:
    """Names of the frames; None for a video, whose frames are counted from 0 or from 1."""
    return [path.name for path in look_at(source).files] if source.is_dir() else None


def _lacking(source: Path, files: list[Path]) -> str:
    """Which numbers have no partner, for the message."""
    names = _frame_names(source) if source.is_dir() else None
    frames, maps = numbers_of(names) if names else None, numbers_of([path.name for path in files])
    if frames is None or maps is None:
        return ""
    without, surplus = sorted(set(frames) - set(maps)), sorted(set(maps) - set(frames))
    told = [f"{text} {', '.join(map(str, numbers[:5]))}{', ...' if len(numbers) > 5 else ''}"
            for text, numbers in (("no depth for", without), ("no frame for", surplus)) if numbers]  # fmt: skip
    return f": {'; '.join(told)}" if told else ""


def _paired(source: Path, place: Path, files: list[Path]) -> list[Path]:
    """The maps in the frames' order, by number or, without numbers, by equal names.

    Raises:
        InputError: they do not belong together one by one.
    """
    names = _frame_names(source)
    maps = numbers_of([path.name for path in files])
    if names is None:
        start = min(maps or [0])
        if len(files) == 1 or (maps and start in (0, 1) and sorted(maps) == list(range(start, start + len(files)))):
            return [path for _, path in sorted(zip(maps or [0], files, strict=True))]
        raise InputError(
            f"the names in {place} must be numbered from 0 or 1 without gaps, one for each frame of {source.name}"
        )
    frames = numbers_of(names)
    if frames and maps and sorted(frames) == sorted(maps):
        by_number = dict(zip(maps, files, strict=True))
        return [by_number[number] for number in frames]
    by_stem = {path.stem.lower(): path for path in files}
    stems = [Path(name).stem.lower() for name in names]
    if set(stems) == set(by_stem):
        return [by_stem[stem] for stem in stems]
    raise InputError(
        f"the numbers in {place} are not those of the frames{_lacking(source, files)}; name each map after its frame"
    )


@dataclass(frozen=True, kw_only=True)
class DepthCheck:
    """What a look at all maps of a scene tells.

    Args:
        problem: why phase 3 could not use them; None when it can.
        notes: what is odd about them.
    """

    problem: str | None
    notes: tuple[str, ...]


def check_delivered(depth: DeliveredDepth, size: tuple[int, int], num_frames: int) -> DepthCheck:
    """Read every map for frames of this (width, height): key, shape, dtype and numbers."""
    medians, unknown, far, pixels = [], 0, 0, 0
    try:
        for index in range(num_frames):
            values = depth.read_fitting(index, size)
            nan, infinite = np.isnan(values), np.isinf(values)
            unknown, far, pixels = unknown + int(nan.sum()), far + int(infinite.sum()), pixels + values.size
            known = values[~(nan | infinite)]
            if known.size:
                medians.append(float(np.median(known[:: max(1, known.size // _SAMPLES)])))
    except InputError as error:
        return DepthCheck(problem=str(error), notes=depth.notes)
    notes = list(depth.notes)
    if unknown > _TOLD_SHARE * pixels:
        notes.append(
            f"depth is unknown in {unknown / pixels:.0%} of the pixels (NaN, negative, or what is invalid: 0 unless depth.json "
            f'says otherwise) and takes the scene\'s median; if that is sky, say "far": [0] in depth.json'
        )
    if far > _TOLD_SHARE * pixels:
        notes.append(f"depth is infinite in {far / pixels:.0%} of the pixels")
    median = float(np.median(medians)) if medians else 0.0
    if medians and not _PLAUSIBLE_M[0] <= median <= _PLAUSIBLE_M[1]:
        notes.append(f"median depth is {median:.3g} m: is the unit right? State unit or scale in depth.json")
    return DepthCheck(problem=None, notes=tuple(notes))
