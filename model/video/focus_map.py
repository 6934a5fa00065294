"""Focus maps of a film or a photograph through a FocusMamba, frame by frame, in constant memory.

    OUT/maps/frame_0000.npz     radius_px, sigma_px, behind: float16 (h, w)
    OUT/focus.mp4               the maps as colours, beside the film, with its sound; focus.png for a photograph
    OUT/unfinished              there until the film is done: the same command starts over

Special: the network works at the width that it learned at, where blur is a few pixels; radii are given back in pixels of the
frame that came in. A radius below about one pixel of the working size cannot be seen.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from model.focusmamba import FocusMamba, FocusState
from model.focusmamba.checkpoint import FAMILY, load_focusmamba
from model.focusmamba.measure import colour_radius
from model.video.film import to_8_bit
from model.weights import default_weights
from pipeline.device import resolve_device
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.cuts import CutDetector
from pipeline.media.images import PICTURE_SUFFIXES, Picture, encode_png, read_picture
from pipeline.media.sinks import Sink
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo, open_timed
from pipeline.media.video_writer import VideoSink
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.files import write_bytes

UNFINISHED = "unfinished"
COLOUR_SHARE = 0.02  # of the width: the radius at which colours end

Map = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class FocusMapSettings:
    """How a film is looked at.

    Args:
        checkpoint: of a FocusMamba; None for the one that comes with the code.
        work_width: width the network works at, pixels; 0 for the film's own.
        max_frames: only so many; 0 for all.
        fps: of a folder of pictures.
        device: auto, cpu, cuda or cuda:N.
        overwrite: write into a folder that holds something; what an earlier film left there is removed.
    """

    checkpoint: Path | None = None
    work_width: int = 320
    max_frames: int = 0
    fps: float = 24.0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.work_width and self.work_width < 32:
            raise UsageError(f"--work_width must be 0 or at least 32, got {self.work_width}")
        if self.max_frames < 0:
            raise UsageError(f"--max_frames must be >= 0, got {self.max_frames}")


@dataclass(frozen=True, kw_only=True)
class FrameFocus:
    """What one frame shows, at the working size: radii and their standard deviation in pixels of the frame that came in."""

    radius_px: Map
    sigma_px: Map
    behind: Map

    def npz(self) -> bytes:
        data = io.BytesIO()
        np.savez_compressed(data, radius_px=self.radius_px, sigma_px=self.sigma_px, behind=self.behind)
        return data.getvalue()


class FocusReader:
    """A network and its state over the frames of one film; starts afresh at a cut.

    Args:
        net: in evaluation mode.
        device: it is on.
        work_width: pixels, 0 for the frames' own.
    """

    def __init__(self, net: FocusMamba, device: str, work_width: int) -> None:
        self._net, self._device, self._width = net, device, work_width
        self._cuts = CutDetector()
        self._state: FocusState | None = None

    @torch.inference_mode()
    def read(self, picture: Picture) -> FrameFocus:
        """(H, W, 3) uint8 -> its maps."""
        height, width = picture.shape[:2]
        if self._cuts.begins_shot(picture):
            self._state = None
        scale = min(1.0, self._width / width) if self._width else 1.0
        if scale < 1:
            size = (round(width * scale), max(4, round(height * scale)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        out, self._state = self._net(image_to_tensor(picture, self._device)[None], self._state)
        maps = (out.magnitude_px / scale, torch.exp(0.5 * out.log_variance) / scale, out.behind)
        radius, sigma, behind = (one[0, 0].float().cpu().numpy().astype(np.float16) for one in maps)
        return FrameFocus(radius_px=radius, sigma_px=sigma, behind=behind)


def picture_of(picture: Picture, found: FrameFocus) -> Picture:
    """The frame and its map as colours beside each other: bright is sharp, dark is blurred."""
    height, width = picture.shape[:2]
    coloured = colour_radius(found.radius_px.astype(np.float32), COLOUR_SHARE * width)
    return np.hstack([picture, np.asarray(cv2.resize(coloured, (width, height)), np.uint8)])


def focus_maps(input_path: Path, folder: Path, settings: FocusMapSettings) -> int:
    """Read, estimate, write; returns the number of frames.

    Raises:
        UsageError, InputError, CheckpointError: what was given cannot be used.
        StoppedError: a signal came; the maps so far are there, the video is not, and the same command starts over: a map
            follows from all frames before it, so there is no going on in the middle.
    """
    if folder.exists() and not settings.overwrite and any(folder.iterdir()) and not (folder / UNFINISHED).exists():
        raise UsageError(f"{folder} holds something already; give another -o, or --overwrite")
    device = resolve_device(settings.device)
    with StopSignals() as signals, Reporter("focus_map", None) as reporter:
        if settings.checkpoint is None:
            reporter.info("network: the one that comes with the code, since no --checkpoint was given")
        loaded = load_focusmamba(settings.checkpoint or default_weights(FAMILY), device)
        reader = FocusReader(loaded.net, device, settings.work_width)
        if input_path.suffix.lower() in PICTURE_SUFFIXES and input_path.is_file():
            _read_photograph(input_path, folder, reader)
            reporter.info(f"focus_map: {input_path.name}, {folder / 'focus.png'}")
            return 1
        source = open_timed(input_path, settings.fps)
        _begin(folder)
        count = _read_film(source, folder, reader, settings.max_frames, reporter, signals)
        if not count:
            raise InputError(f"{input_path} holds no frames")
        (folder / UNFINISHED).unlink()
        reporter.info(f"focus_map: {count} frames, {folder / 'focus.mp4'}")
        return count


def _read_photograph(path: Path, folder: Path, reader: FocusReader) -> None:
    picture, _ = read_picture(path)
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    found = reader.read(picture)
    write_bytes(folder / "maps" / f"{path.stem}.npz", found.npz())
    write_bytes(folder / "focus.png", encode_png(picture_of(picture, found)))


def _read_film(
    source: TimedVideo | TimedFolder,
    folder: Path,
    reader: FocusReader,
    limit: int,
    reporter: Reporter,
    signals: StopSignals,
) -> int:
    """Maps and video of at most `limit` frames, 0 for all; returns how many there were."""
    reporter.begin_progress("focus_map", min(source.count, limit or source.count))
    sink: Sink | None = None
    count = 0
    with ExitStack() as stack:
        for frame in _limited(source.frames(), limit):
            signals.safe_point()
            picture = to_8_bit(frame.picture)
            found = reader.read(picture)
            shown = picture_of(picture, found)
            if sink is None:
                size = (shown.shape[1], shown.shape[0])
                end_s = Fraction(limit) / source.rate if limit else None
                sink = stack.enter_context(VideoSink(folder / "focus.mp4", source, size, end_s=end_s))
            write_bytes(folder / "maps" / f"frame_{count:04d}.npz", found.npz())
            sink.write(TimedFrame(time_s=frame.time_s, name=frame.name, picture=shown))
            reporter.advance()
            count += 1
    reporter.end_progress()
    return count


def _begin(folder: Path) -> None:
    """Mark the folder as unfinished, and take out what an earlier film left: a longer one would show behind this one."""
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / UNFINISHED, b"")
    for path in (*(folder / "maps").glob("frame_*.npz"), folder / "focus.mp4"):
        path.unlink(missing_ok=True)


def _limited(frames: Iterator[TimedFrame], limit: int) -> Iterator[TimedFrame]:
    for number, frame in enumerate(frames):
        if limit and number >= limit:
            return
        yield frame
