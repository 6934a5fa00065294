"""Where consecutive frames come from: folders of pictures (DAVIS, X4K1000FPS, GoPro, Vimeo-90K ... as they unpack), videos,
scenes of the pipeline, and ray-traced clips with exact flow (docs/motion_scenes.md)."""

import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, UsageError
from pipeline.media.frame_folder import VIDEO_SUFFIXES
from pipeline.media.images import PICTURE_SUFFIXES, Picture, natural_key, read_picture
from pipeline.media.sources import open_source
from pipeline.storage.bounded import MIB, load_npz, one_line, read_bounded
from pipeline.storage.files import read_json

_VIDEO_BYTES = 1 << 30  # a decoded video stays in memory
_FLOW_MIB = 256
_LISTED = 3  # of a list's missing clips, in a message

Flow = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]  # (H, W, 2) pixels and (H, W) occluded


@dataclass(frozen=True, kw_only=True)
class FrameSequence:
    """Consecutive frames.

    Args:
        name: for messages and seeds.
        num_frames: how many.
        read: frame number -> (H, W, 3) uint8 sRGB.
        flow: two frame numbers -> exact flow of the first towards the second, with occlusion, or None; None without any.
        phenomenon: what the clip is there to show; may be empty.
    """

    name: str
    num_frames: int
    read: Callable[[int], Picture]
    flow: Callable[[int, int], Flow | None] | None = None
    phenomenon: str = ""


def folder_sequence(folder: Path, name: str = "") -> FrameSequence:
    """The pictures of a folder in natural order; InputError where there are fewer than two."""
    files = picture_files(folder)
    if len(files) < 2:
        raise InputError(f"{folder} holds {len(files)} pictures; a clip needs two or more")
    return FrameSequence(name=name or folder.name, num_frames=len(files), read=lambda n: read_picture(files[n])[0])


def picture_files(folder: Path) -> list[Path]:
    """Pictures of a folder in natural order."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda p: natural_key(p.name))


@dataclass
class _Decoded:
    """A video's frames, decoded when the first is asked for."""

    path: Path
    frames: list[Picture] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, number: int) -> Picture:
        with self.lock:
            if not self.frames:
                self.frames = read_video(self.path)
        return self.frames[number]


def read_video(path: Path) -> list[Picture]:
    """All frames of a video.

    Raises:
        InputError: it does not decode, or is larger than memory should hold.
    """
    frames: list[Picture] = []
    for _, frame, _ in open_source(path).decode():
        frames.append(frame)
        if frame.nbytes * len(frames) > _VIDEO_BYTES:
            raise InputError(
                f"{path} is over {_VIDEO_BYTES >> 20} MiB when decoded; give its frames as a folder of pictures"
            )
    return frames


def video_sequence(path: Path) -> FrameSequence:
    """A video file, decoded once into memory."""
    decoded = _Decoded(path)
    decoded.read(0)
    return FrameSequence(name=path.stem, num_frames=len(decoded.frames), read=decoded.read)


def motion_sequence(folder: Path) -> FrameSequence:
    """A ray-traced clip with exact flow.

    Raises:
        InputError: its clip.json is damaged.
    """
    facts = read_json(folder / "clip.json", "a moving scene's description")
    try:
        count, name, phenomenon = int(facts["num_frames"]), str(facts["clip_id"]), str(facts["phenomenon"])
        pairs = {(int(a), int(b)) for a, b in facts["flow_pairs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'clip.json'} does not describe a clip: {one_line(error)}") from None
    if facts.get("format") != "motion-clip" or facts.get("version") != 1:
        raise InputError(
            f"{folder / 'clip.json'} must be motion-clip version 1, got {facts.get('format')!r} "
            f"{facts.get('version')!r}"
        )

    def flow(first: int, second: int) -> Flow | None:
        return read_flow(folder / "flow" / f"{first:04d}_{second:04d}.npz") if (first, second) in pairs else None

    return FrameSequence(
        name=name, num_frames=count, phenomenon=phenomenon, flow=flow,
        read=lambda n: read_picture(folder / f"frame_{n:04d}.png")[0],
    )  # fmt: skip


def read_flow(path: Path) -> Flow:
    """One exact flow file; InputError where it is damaged."""
    try:
        stored = io.BytesIO(read_bounded(path, _FLOW_MIB * MIB))
        flow, occluded = (load_npz(stored, key, str(path), _FLOW_MIB * MIB) for key in ("flow", "occluded"))
        flow, occluded = np.asarray(flow, np.float32), np.asarray(occluded, bool)
    except Exception as error:  # zip, zlib and numpy raise whatever they like
        raise InputError(f"{path} is no flow: {one_line(error)}") from None
    if flow.ndim != 3 or flow.shape[2] != 2 or occluded.shape != flow.shape[:2]:
        raise InputError(f"{path} must hold flow (H, W, 2) and occluded (H, W), got {flow.shape} and {occluded.shape}")
    return flow, occluded


def find_motion(root: Path) -> list[FrameSequence]:
    """The ray-traced clips of a split's folder, sorted; UsageError when there is none."""
    folders = (
        sorted(p.parent for p in root.glob("*/clip.json") if not p.parent.name.startswith(".")) if root.is_dir() else []
    )
    if not folders:
        raise UsageError(f"{root} holds no moving scene; make some with scripts/make_motion_scenes.py")
    return [motion_sequence(folder) for folder in folders]


def find_clips(root: Path, listed: Path | None = None) -> list[FrameSequence]:
    """Every folder of two pictures or more below a root, and every video; or those that a split file lists.

    Args:
        root: of the data set, as it unpacks.
        listed: lines are folders relative to `root`, as in DAVIS's, Vimeo-90K's and GoPro's split files.

    Raises:
        UsageError: there is nothing, or a listed clip is missing.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder of clips {root}")
    if listed is not None:
        names = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
        missing = [name for name in names if not (root / name).is_dir()]
        if missing or not names:
            raise UsageError(
                f"{listed}: {len(missing)} of {len(names)} clips are not in {root}: {', '.join(missing[:_LISTED])}"
            )
        return [folder_sequence(root / name, name) for name in names]
    found = [_below(root, folder) for folder in sorted({root, *(p for p in root.rglob("*") if p.is_dir())})]
    clips = [clip for clip in found if clip is not None]
    clips += [video_sequence(p) for p in sorted(root.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    if not clips:
        raise UsageError(f"{root} holds neither a folder of two pictures or more nor a video")
    return clips


def _below(root: Path, folder: Path) -> FrameSequence | None:
    if len(picture_files(folder)) < 2:
        return None
    return folder_sequence(folder, str(folder.relative_to(root)) if folder != root else folder.name)


def find_scene_frames(root: Path) -> list[FrameSequence]:
    """`frames_sharp` of every scene of the pipeline's output; UsageError when there is none."""
    folders = sorted(root.glob("*/frames_sharp"))
    found = [folder_sequence(f, f.parent.name) for f in folders if len(picture_files(f)) >= 2]
    if not found:
        raise UsageError(f"{root} holds no scene with frames_sharp; run the pipeline's first phases")
    return found


def read_text(path: Path) -> str:
    """A small text file; UsageError when it cannot be read."""
    try:
        return read_bounded(path, 64 * MIB).decode()
    except (OSError, InputError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read: {one_line(error)}") from None


def digest_names(clips: list[FrameSequence]) -> str:
    """What a run's digest says about clips: names and lengths."""
    facts: Any = [[clip.name, clip.num_frames] for clip in clips]
    return json.dumps(facts)
