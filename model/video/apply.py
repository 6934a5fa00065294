"""Run a trained network over a video: any length in constant memory, with the focus where it was asked for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.bokehflow import BokehFlow, BokehFlowOutput, BokehFlowState, LensBatch
from model.bokehflow.blocks import F_NUMBERS, FOCAL_M, FOCUS_M
from model.bokehflow.checkpoint import load_bokehflow
from model.errors import CheckpointError
from model.video.focus import FocusPull
from pipeline.device import resolve_device
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.media.cuts import CutDetector
from pipeline.media.images import Picture
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo, open_sink, open_timed
from pipeline.optics import SENSOR_WIDTH_MM, Lens, OpticsError, px_per_mm
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals

FOCAL_RANGE_MM = (FOCAL_M[0] * 1000, FOCAL_M[1] * 1000)
_PROBE_PX = 2  # a clicked pixel means the median of the 5x5 around it


@dataclass(frozen=True, kw_only=True)
class ApplySettings:
    """The lens, and how to look through it.

    Args:
        f_number, focal_mm: of the lens.
        focus: keyframes; None when a pixel says it.
        focus_px: (x, y) of a pixel of the first frame; what it shows is focused. Exactly one of the two is given.
        sensor_mm: width of the sensor along the frame's width; 24 for a full-frame camera held upright.
        device: auto, cpu, cuda or cuda:N.
        fps: of folders of pictures.
        audio: copy the sound.
        find_cuts: start with a fresh state at every cut of a film.
        overwrite: replace an existing output.
    """

    f_number: float
    focal_mm: float
    focus: FocusPull | None = None
    focus_px: tuple[int, int] | None = None
    sensor_mm: float = SENSOR_WIDTH_MM
    device: str = "auto"
    fps: float = 24.0
    audio: bool = True
    find_cuts: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in (("f_number", F_NUMBERS), ("focal_mm", FOCAL_RANGE_MM)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"--{name} must be in [{low:g}, {high:g}], got {getattr(self, name):g}")
        if not 1 <= self.sensor_mm <= 100:
            raise UsageError(f"--sensor_mm must be in [1, 100], got {self.sensor_mm:g}")
        if (self.focus is None) == (self.focus_px is None):
            raise UsageError("give exactly one of --focus, --focus_px and --focus_pull")

    def lens_batch(self, net: BokehFlow, focus_m: float, width: int) -> LensBatch:
        """The lens for a frame of this width; radii are limited in proportion to it, whatever the sensor.

        Raises:
            UsageError: this lens cannot focus there.
        """
        config = net.config
        try:
            lens = Lens(f_m=self.focal_mm / 1000, f_number=self.f_number, focus_m=focus_m, coc_model=config.coc_model)
        except OpticsError:
            raise UsageError(
                f"a lens of {self.focal_mm:g} mm focuses only beyond {self.focal_mm / 1000:g} m (this network learned of "
                f"real photographs), got a focus at {focus_m:g} m; focus farther away, or take a smaller --focal_mm"
            ) from None
        limit_px = config.max_radius_px * width / config.reference_width_px
        return LensBatch.of(lens, px_per_mm(width, self.sensor_mm), limit_px).to(next(net.parameters()).device)


def frame_tensor(picture: Picture, device: torch.device | str) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]; travels as bytes."""
    return image_to_tensor(picture, device)[None]


def _through(
    net: BokehFlow, picture: Picture, lens: LensBatch, state: BokehFlowState | None
) -> tuple[BokehFlowOutput, BokehFlowState]:
    try:
        return net(frame_tensor(picture, lens.f_m.device), lens, state)
    except OpticsError as error:  # the picture is bytes and the lens was checked: the network's own depth
        raise CheckpointError(
            f"this network's prediction cannot be rendered ({error}); take another checkpoint"
        ) from None


@torch.inference_mode()
def depth_at(net: BokehFlow, settings: ApplySettings, picture: Picture, pixel: tuple[int, int]) -> float:
    """Metres of what a pixel shows, as the network sees it, inside the range a lens can be focused to.

    Raises:
        UsageError: the pixel lies outside the frame.
        CheckpointError: the network's depth is not a number.
    """
    height, width = picture.shape[:2]
    x, y = pixel
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"--focus_px {x},{y} lies outside the {width}x{height} frame; x is 0 to {width - 1}, from the left"
        )
    # Depth hardly depends on the lens it is asked under; the middle of the range is a fair one.
    lens = settings.lens_batch(net, 2.0, width)
    out, _ = _through(net, picture, lens, None)
    around = out.depth_m[0, 0, max(0, y - _PROBE_PX) : y + _PROBE_PX + 1, max(0, x - _PROBE_PX) : x + _PROBE_PX + 1]
    return float(np.clip(float(around.median()), *FOCUS_M))


@torch.inference_mode()
def photographed(
    net: BokehFlow,
    frames: Iterable[TimedFrame],
    settings: ApplySettings,
    focus: FocusPull,
    on_cut: Callable[[TimedFrame], None] = lambda frame: None,
) -> Iterator[TimedFrame]:
    """The frames through the lens, one by one; nothing of a frame is kept but the network's state of constant size.

    Args:
        on_cut: called with the first frame of every shot but the first, where the state starts afresh.

    Raises:
        InputError: a frame has another size than the first.
        CheckpointError: the network's depth is not a number.
    """
    state: BokehFlowState | None = None
    size: tuple[int, int] | None = None
    cuts = CutDetector() if settings.find_cuts else None
    device = next(net.parameters()).device
    for frame in frames:
        height, width = frame.picture.shape[:2]
        if size is not None and (width, height) != size:
            raise InputError(f"{frame.name} is {width}x{height}, the frames before are {size[0]}x{size[1]}")
        size = (width, height)
        if cuts is not None and cuts.begins_shot(frame.picture):
            state = None
            on_cut(frame)
        lens = settings.lens_batch(net, focus.at(frame.time_s), width)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out, state = _through(net, frame.picture, lens, state)
        yield TimedFrame(time_s=frame.time_s, name=frame.name, picture=tensor_to_image(out.bokeh[0]))


def resolve_focus(net: BokehFlow, source: TimedVideo | TimedFolder, settings: ApplySettings) -> FocusPull:
    """The focus as keyframes; a clicked pixel is looked up in the first frame."""
    if settings.focus is not None:
        return settings.focus
    assert settings.focus_px is not None, "one of the two is given"
    frames = source.frames()
    first = next(iter(frames), None)
    frames.close()  # type: ignore[attr-defined]  # a generator: stop its thread
    if first is None:
        raise InputError(f"{source.path} holds no frames")
    return FocusPull(keys=((0.0, depth_at(net, settings, first.picture, settings.focus_px)),))


def apply_bokeh(input_path: Path, output_path: Path, checkpoint: Path, settings: ApplySettings) -> None:
    """Read, render, write, with a progress bar.

    Raises:
        UsageError, InputError, CheckpointError: what was given cannot be used.
        StoppedError: a signal came; nothing is left of a video, and nothing of a folder.
    """
    source = open_timed(input_path, settings.fps)
    if not settings.audio:
        source.has_audio = False
    sink = open_sink(output_path, source, overwrite=settings.overwrite)
    loaded = load_bokehflow(checkpoint, resolve_device(settings.device))
    focus = resolve_focus(loaded.net, source, settings)
    for _, focus_m in focus.keys:
        settings.lens_batch(loaded.net, focus_m, 1)  # a lens that cannot focus there is refused before any work
    with StopSignals() as signals, Reporter("apply_bokeh", None) as reporter:
        if settings.focus_px is not None:
            reporter.info(f"what pixel {settings.focus_px} shows is {focus.keys[0][1]:.2f} m away")
        reporter.begin_progress(output_path.name, source.count)
        count = 0
        cuts: list[float] = []
        with sink:
            for frame in photographed(
                loaded.net, source.frames(), settings, focus, on_cut=lambda frame: cuts.append(float(frame.time_s))
            ):
                sink.write(frame)
                count += 1
                reporter.advance()
                signals.safe_point()
            if count == 0:
                raise InputError(f"{input_path} holds no frames")
        reporter.end_progress()
        if cuts:
            reporter.info(f"started afresh where the film cuts, at {_times(cuts)}")
        reporter.info(f"apply_bokeh: {count} frames, {output_path}")


def _times(seconds: list[float], shown: int = 8) -> str:
    return ", ".join(f"{time:.2f} s" for time in seconds[:shown]) + (", ..." if len(seconds) > shown else "")
