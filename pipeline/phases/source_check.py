"""What lies under a raw root, and whether each source can be worked with: phase 1 without its index.

Special: nothing under the root is passed over in silence. What is no scene is named, and where a folder was given that is not a
root, the command that would work is.
"""

import hashlib
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.checkout import checkout
from pipeline.errors import InputError, UsageError
from pipeline.media.delivered_depth import DeliveredDepth, check_delivered, depth_companions, find_delivered_depth
from pipeline.media.frame_folder import VIDEO_SUFFIXES, is_depth_name
from pipeline.media.geometry import check_frame_size
from pipeline.media.images import PICTURE_SUFFIXES
from pipeline.media.sources import RawSource, open_source
from pipeline.optics.estimate import BLURRED_SHARE, blurred_share
from pipeline.storage.scene import SceneEntry, unsafe_id_reason

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What phase 1 checks.

    Args:
        min_frames: a scene with fewer is rejected.
        seed: shuffles the scenes into splits.
        workers: scenes checked at once; changes nothing else.
        accept_truncated: take videos that were cut off up to their last whole frame.
        check_blur: note sources that already show optical blur; the pipeline takes every frame for all in focus.
    """

    min_frames: int = 16
    seed: int = 0
    workers: int = 2
    accept_truncated: bool = False
    check_blur: bool = False

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise UsageError(f"min_frames must be at least 1, got {self.min_frames}")
        if self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class RawRoot:
    """Scene id -> the names under the raw root that claim it, sorted; and names that are no scenes, for a line on them."""

    sources: dict[str, list[str]]
    skipped: tuple[str, ...]


def look_under(raw_root: Path) -> RawRoot:
    """List a raw root. Hidden names are passed over.

    Raises:
        UsageError: there is no such folder, it cannot be read, holds neither folders nor videos, or is itself a scene.
    """
    names = _names(raw_root)
    videos = {name for name in names if _is_video(raw_root / name)}
    folders = {name for name in names if (raw_root / name).is_dir() or (raw_root / name).is_symlink()} - videos
    taken = _depth_names(raw_root, videos, folders)
    _refuse_scene_as_root(raw_root, names, videos | folders - taken)
    sources: dict[str, list[str]] = {}
    for name in names:
        if name in videos | folders and name not in taken:
            sources.setdefault(Path(name).stem if name in videos else name, []).append(name)
    if not sources:
        others = f"; {_listed(names)} is not read" if names else ""
        raise UsageError(
            f"{raw_root} holds no scenes: neither folders of frames nor videos ({', '.join(VIDEO_SUFFIXES)}){others}"
        )
    skipped = [name for name in names if name not in videos | folders | taken and name.lower() != "license"]
    return RawRoot(sources=sources, skipped=tuple(skipped))


def find_sources(raw_root: Path) -> dict[str, list[str]]:
    """The sources of `look_under`."""
    return look_under(raw_root).sources


def _names(raw_root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in raw_root.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        made = shlex.join(["python", "scripts/make_demo_scenes.py", "--raw_root", str(raw_root)])
        demo = f", or make demo scenes there: {made}" if checkout() else ""
        raise UsageError(f"there is no folder {raw_root}; give one with --raw_root{demo}") from None
    except NotADirectoryError:
        hint = shlex.join(["--raw_root", str(raw_root.parent), "--scene", raw_root.stem])
        raise UsageError(
            f"--raw_root {raw_root} cannot be read: it is a file, and a root is a folder of scenes: {hint}"
        ) from None
    except OSError as error:
        raise UsageError(f"--raw_root {raw_root} cannot be read: {error.strerror}") from None


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _depth_names(raw_root: Path, videos: set[str], folders: set[str]) -> set[str]:
    """Names that are depth of a source beside them."""
    taken: set[str] = set()
    for name in videos | folders:
        taken |= {path.name for path in depth_companions(raw_root / name)}
    for name in videos:
        folder = raw_root / Path(name).stem
        if folder.name in folders and folder.is_dir() and _holds_only_depth(folder):
            taken.add(folder.name)
    return taken


def _holds_only_depth(folder: Path) -> bool:
    try:
        inner = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return False
    return bool(inner) and all(is_depth_name(name) for name in inner)


def _refuse_scene_as_root(raw_root: Path, names: list[str], sources: set[str]) -> None:
    """A scene given as the root would be indexed as nonsense: its frames unseen, its disparity a video."""
    frames = [name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    scenes = {name for name in sources if not is_depth_name(name)}
    if frames and not scenes:
        resolved = raw_root.resolve()
        raise UsageError(
            f"{raw_root} is itself a scene ({len(frames)} frames: {_listed(frames)}), not a root of scenes; "
            f"give the folder around it: --raw_root {resolved.parent} --scene {resolved.name}"
        )


def check_source(raw_root: Path, scene_id: str, names: list[str], settings: IndexSettings) -> SceneEntry:
    """Decode everything one source has. Never raises for bad data: the reasons are in the entry."""
    base = SceneEntry(scene_id=scene_id, source=names[0], accepted=False)
    reason = unsafe_id_reason(scene_id)
    if reason:
        return replace(base, reasons=(reason,))
    if len(names) > 1:
        return replace(base, reasons=(f"several sources have this id: {', '.join(names)}; keep one",))
    try:
        return _check(raw_root, base, settings)
    except InputError as error:
        return replace(base, reasons=(str(error),))
    except OSError as error:
        return replace(base, reasons=(f"{error.filename or raw_root / names[0]} cannot be read: {error.strerror}",))


def _check(raw_root: Path, base: SceneEntry, settings: IndexSettings) -> SceneEntry:
    source = open_source(raw_root / base.source, accept_truncated=settings.accept_truncated)
    sizes: dict[tuple[int, int], int] = {}
    notes: dict[str, int] = {}
    count = 0
    shares: list[float] = []
    looked_at = {0, settings.min_frames // 2, settings.min_frames - 1} if settings.check_blur else set()
    for index, picture, converted in source.decode():
        count += 1
        if index in looked_at:
            shares.append(blurred_share(np.asarray(picture / 255, np.float32)))
        size = (picture.shape[1], picture.shape[0])
        if size not in sizes:
            check_frame_size(*size, base.source)
            sizes[size] = index
        for note in converted:
            notes[note] = notes.get(note, 0) + 1
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height} from frame {first}" for (width, height), first in sizes.items())
        raise InputError(f"frames have different sizes: {listed} ({base.source})")
    if count < settings.min_frames:
        raise InputError(f"{base.source} has {count} frames, needs at least {settings.min_frames} (--min_frames)")
    ((width, height),) = sizes
    depth = find_delivered_depth(source.path, count)
    depth_notes: tuple[str, ...] = ()
    if depth:
        checked = check_delivered(depth, (width, height), count)
        bad = f"the delivered depth cannot be used, phase 3 would need another engine: {checked.problem}"
        depth_notes = (*((bad,) if checked.problem else ()), *checked.notes)
    blur_notes: tuple[str, ...] = ()
    if shares and float(np.median(shares)) > BLURRED_SHARE:
        blur_notes = (
            f"{np.median(shares):.0%} of the edges are out of focus or smeared while others are sharp: frames are taken for "
            "all in focus, so this blur would stay in pictures and be missing in labels",
        )
    said = (f"{text} ({number} of {count} frames)" for text, number in sorted(notes.items()))
    return replace(
        base,
        accepted=True,
        notes=(*said, *source.notes, *blur_notes, *depth_notes),
        num_frames=count,
        width=width,
        height=height,
        content_hash=_hash_files(source.files()),
        depth_kind=depth.kind if depth else None,
        depth_hash=_hash_files(depth.all_files()) if depth else "",
        files=tuple(_stamp(raw_root, path) for path in _files(source, depth)),
    )


def _files(source: RawSource, depth: DeliveredDepth | None) -> list[Path]:
    return [*source.files(), *(depth.all_files() if depth else [])]


def _hash_files(files: list[Path]) -> str:
    """Contents in order; names may change without changing a pixel."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _stamp(raw_root: Path, path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return os.path.relpath(path, raw_root), found.st_size, found.st_mtime_ns


def is_unchanged(raw_root: Path, entry: SceneEntry, name: str) -> bool:
    """Whether an accepted source still has the files, sizes and times it was indexed with. Rejected ones are looked at
    again, since mending them is what people do next."""
    if not entry.accepted or entry.source != name:
        return False
    try:
        source = open_source(raw_root / name)
        depth = find_delivered_depth(source.path, entry.num_frames)
        return tuple(_stamp(raw_root, path) for path in _files(source, depth)) == entry.files
    except (InputError, OSError):
        return False
