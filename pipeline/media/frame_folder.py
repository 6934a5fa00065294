"""The one reader of frame folders: which files are frames, in which order, and what is wrong or missing among them.

Special: nothing is passed over in silence. What is not read is counted and named, a gap in the numbers too; what could be read
in two ways is refused.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.media.images import PICTURE_SUFFIXES, natural_key

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".3gp", ".mxf", ".wmv",
    ".flv", ".ogv",
)  # fmt: skip
UNREADABLE_PICTURES = {
    ".heic": "HEIC", ".heif": "HEIC", ".jxl": "JPEG XL", ".jp2": "JPEG 2000", ".gif": "GIF", ".exr": "EXR", ".hdr": "Radiance",
    ".dng": "camera raw", ".cr2": "camera raw", ".cr3": "camera raw", ".nef": "camera raw", ".arw": "camera raw",
    ".raf": "camera raw", ".orf": "camera raw", ".rw2": "camera raw",
}  # fmt: skip
COMPANION_NAMES = ("camera.json",)  # what the ray tracer tells of its scenes, known and not needed
DEPTH_NAMES = ("depth", "disparity", "depth.json", "depths.npz", "depth.npz")
_SHOWN = 3


class TwinFramesError(InputError):
    """Two files may be the same frame."""


@dataclass(frozen=True, kw_only=True)
class FrameFolder:
    """What a look at a folder's names tells.

    Args:
        files: the frames in natural order.
        notes: what was skipped, and gaps.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def look_at(folder: Path) -> FrameFolder:
    """List a folder of frames.

    Raises:
        InputError: it cannot be read, holds no frames or only what is not read, a frame is a broken link, or two files are one
            frame.
    """
    try:
        names = sorted((entry.name for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural_key)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    files = [folder / name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    broken = [path.name for path in files if not path.exists()]
    if broken:
        raise InputError(
            f"{folder}: {_listed(broken)} {_are(broken)} without content (a link to nothing); fetch or remove"
        )
    files = [path for path in files if path.is_file()]
    frames = set(files)
    others = [name for name in names if folder / name not in frames and not is_companion(name)]
    if not files:
        raise InputError(_nothing_to_read(folder, others))
    _refuse_twins(folder, files)
    return FrameFolder(files=tuple(files), notes=(*_skipped(folder, others), *_gaps(files)))


def is_depth_name(name: str) -> bool:
    """Whether a name beside the frames is that of delivered depth."""
    return name.lower() in DEPTH_NAMES or Path(name).stem.lower() in ("depth", "disparity")


def is_companion(name: str) -> bool:
    """Whether a name beside the frames is known, though no frame."""
    return is_depth_name(name) or name in COMPANION_NAMES


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _nothing_to_read(folder: Path, others: list[str]) -> str:
    allowed = ", ".join(PICTURE_SUFFIXES)
    videos = [name for name in others if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        return (
            f"{folder} holds no frames but videos ({_listed(videos)}): each video is a scene of its own, so give their folder "
            f"as the root: --raw_root {folder}"
        )
    inner = [name for name in others if (folder / name).is_dir() and _has_frames(folder / name)]
    if inner:
        return f"{folder} holds no frames of its own, but folders with some: {_listed(inner)}; --raw_root {folder}"
    named = "; ".join(_skipped(folder, others))
    return f"{folder} holds no frames; allowed are {allowed}" + (f" ({named})" if named else "")


def _has_frames(folder: Path) -> bool:
    try:
        return any(path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) for path in folder.iterdir())
    except OSError:
        return False


def _skipped(folder: Path, names: list[str]) -> list[str]:
    """One line for each kind of thing that is not read."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind = "folder" if (folder / name).is_dir() else Path(name).suffix.lower() or "without an ending"
        kinds.setdefault(kind, []).append(name)
    lines = []
    for kind, members in sorted(kinds.items()):
        known = UNREADABLE_PICTURES.get(kind)
        told = f" ({known}; convert to png or jpg)" if known else ""
        lines.append(f"not read: {len(members)} {kind}{told}: {_listed(members)}")
    return lines


def _refuse_twins(folder: Path, files: list[Path]) -> None:
    counted = Counter(path.stem.lower() for path in files)
    twins = [path.name for path in files if counted[path.stem.lower()] > 1]
    if twins:
        raise TwinFramesError(
            f"{folder} holds several pictures called {Path(twins[0]).stem} ({_listed(twins)}): one frame, or two? Keep one"
        )


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """The number in each name that tells the files apart, counted from the end of the name; None where no number does."""
    groups = [re.findall(r"\d+", Path(name).stem) for name in names]
    for place in range(1, 1 + min((len(found) for found in groups), default=0)):
        numbers = [int(found[-place]) for found in groups]
        if len(set(numbers)) == len(numbers):
            return numbers
    return None


def _gaps(files: list[Path]) -> list[str]:
    """Holes in the numbers, where most neighbours have one distance."""
    order = sorted(numbers_of([path.name for path in files]) or [])
    if len(order) < 3:
        return []
    steps = [after - before for before, after in itertools.pairwise(order)]
    usual, times = Counter(steps).most_common(1)[0]
    if times * 2 < len(steps):
        return []  # numbers that count something else, such as nanoseconds
    holes = [(before, step) for before, step in zip(order, steps, strict=False) if step > usual]
    count = sum(step // usual - (step % usual == 0) for _, step in holes)
    if not count:
        return []
    shown = ", ".join(str(before + usual) for before, _ in holes[:_SHOWN]) + (", ..." if len(holes) > _SHOWN else "")
    return [f"{count} frames are missing in {len(holes)} gaps of the numbers, from {shown} on: time jumps there"]
