"""Depth of one video outside the phases, with the options that users of the authors' program know.

Special: any length in the memory of a window; what is kept is on disk. The npz it writes is one that phase 3's engine `given`
and apply_bokeh read beside the video.
"""

import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.engines.base import Clip, SafePoint, StreamingDepth
from pipeline.errors import InputError, UsageError
from pipeline.media.arrays import Picture
from pipeline.media.sinks import lease_path, work_folder
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo
from pipeline.media.video_writer import VideoSink
from pipeline.storage.lease import Lease

_ENDS_PERCENT = (2, 98)  # of inverse depth, for colours
_SAMPLED = 16  # maps that the ends are taken from
_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class VideoDepthSettings:
    """The authors' names and meanings; -1 is no limit.

    Args:
        max_len: frames at most, after `target_fps`.
        target_fps: every n-th frame is taken, n the rounded ratio of the rates.
        max_res: longer side at most, px; sides stay even.
        save_exr: one float32 EXR a frame, channel Z, metres.
        colour_video: an mp4 of inverse depth, near is bright.
    """

    max_len: int = -1
    target_fps: float = -1
    max_res: int = 1280
    save_exr: bool = False
    colour_video: bool = True

    def __post_init__(self) -> None:
        if self.max_len != -1 and self.max_len < 1:
            raise UsageError(f"max_len must be at least 1 frame, or -1 for all, got {self.max_len}")
        if self.target_fps != -1 and not 0 < self.target_fps <= 1000:
            raise UsageError(f"target_fps must be in (0, 1000], or -1 for all frames, got {self.target_fps:g}")
        if self.max_res != -1 and self.max_res < 28:
            raise UsageError(f"max_res must be at least 28 px, or -1 for no limit, got {self.max_res}")

    def stride(self, rate: Fraction) -> int:
        """Every which frame is taken."""
        return 1 if self.target_fps == -1 else max(1, round(float(rate) / self.target_fps))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which frames are worked on and depth is given."""
        if self.max_res == -1 or max(width, height) <= self.max_res:
            return width, height
        scale = self.max_res / max(width, height)
        even_width, even_height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
        return even_width, even_height


def video_depth(
    engine: StreamingDepth,
    source: TimedVideo | TimedFolder,
    folder: Path,
    settings: VideoDepthSettings,
    safe_point: SafePoint,
) -> Path:
    """Estimate and write; returns the npz: `<name>_depths.npz`, key `depths`, (frames, H, W) float32 metres.

    Raises:
        InputError: the video cannot be read or holds no frames.
        LeaseHeldError: another command writes the same file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = _Chosen(source, settings)
    count = len(frames)
    size = settings.size(*source.size)
    target = folder / f"{source.path.stem}_depths.npz"
    with Lease(lease_path(target), safe_point) as lease, _emptied(work_folder(target)) as work:
        path = work / "depths.npy"
        depths: Any = np.lib.format.open_memmap(path, "w+", np.float32, (count, size[1], size[0]))
        clip = Clip(range(count), frames.read, None)
        for number, depth in enumerate(engine.stream(clip, safe_point)):
            depths[number] = depth
            if settings.save_exr:
                write_exr(folder / f"{source.path.stem}_exr" / f"frame_{number:05d}.exr", depth)
        depths.flush()
        if settings.colour_video:
            _write_colours(folder / f"{source.path.stem}_depth.mp4", source, frames.times_s, depths)
        partial = work / target.name
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(path, "depths.npy")
        lease.check()
        os.replace(partial, target)
    return target


@contextmanager
def _emptied(work: Path) -> Iterator[Path]:
    """A work folder: what a killed command left in it, gigabytes perhaps, goes first."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Chosen:
    """The frames that are taken, read in order by number; a few stay in memory for a reader's threads."""

    _KEPT = 32

    def __init__(self, source: TimedVideo | TimedFolder, settings: VideoDepthSettings) -> None:
        self._source, self._settings = source, settings
        self._stride = settings.stride(source.rate)
        limit = None if settings.max_len == -1 else settings.max_len
        with closing(source.frames()) as frames:  # type: ignore[type-var]  # a generator
            self.times_s = [frame.time_s for frame in islice(frames, 0, None, self._stride)][:limit]
        if not self.times_s:
            raise InputError(f"{source.path} holds no frames")
        self._recent: dict[int, Picture] = {}
        self._frames: Iterator[TimedFrame] = islice(source.frames(), 0, None, self._stride)
        self._next = 0

    def __len__(self) -> int:
        return len(self.times_s)

    def read(self, index: int) -> Picture:
        """(H, W, 3) uint8 at the working size."""
        with _LOCK:
            while index >= self._next:
                picture: Any = next(self._frames).picture
                size = self._settings.size(picture.shape[1], picture.shape[0])
                if size != picture.shape[1::-1]:
                    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                self._recent[self._next] = picture
                self._recent.pop(self._next - self._KEPT, None)
                self._next += 1
            return self._recent[index]


def write_exr(path: Path, depth_m: npt.NDArray[np.float32]) -> None:
    """One map, channel Z, float32, lossless."""
    import OpenEXR  # of an extra

    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Z": np.ascontiguousarray(depth_m, np.float32)}).write(str(path))


def _write_colours(path: Path, source: TimedVideo | TimedFolder, times_s: list[Fraction], depths: Any) -> None:
    step = max(1, len(depths) // _SAMPLED)
    sample = 1 / np.maximum(np.asarray(depths[::step, ::4, ::4]), 1e-3)
    low, high = np.percentile(sample, _ENDS_PERCENT)
    with VideoSink(path, source, (depths.shape[2], depths.shape[1]), sound=False) as sink:
        for number, (time_s, depth) in enumerate(zip(times_s, depths, strict=True)):
            share = np.clip((1 / np.maximum(depth, 1e-3) - low) / max(high - low, 1e-9), 0, 1)
            coloured = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
            picture = np.ascontiguousarray(coloured[..., ::-1])
            sink.write(TimedFrame(time_s=time_s, name=f"frame_{number:05d}.png", picture=picture))
