"""Before the first photograph: where the lens is focused in every frame, and which lens has the strength asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.video.depth_source import DepthSource
from model.video.film import Film, Look, to_8_bit, worked_place
from model.video.focus import Anchor, steady
from model.video.settings import USUAL_F_NUMBER, USUAL_FOCAL_MM, ApplySettings
from model.video.track import PointTracker, Sight
from pipeline.errors import UsageError
from pipeline.media.depth_files import Depth
from pipeline.optics import Lens, px_per_mm

_PROBE_PX = 2  # a clicked pixel means the median of the 5x5 around it
_SAMPLES = 9  # frames that decide the strength and the colours of depth
MIDDLE = Anchor(time_s=0.0, pixel=None)


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What following a point came to: the focus of every frame and what to tell."""

    focus_m: list[float]
    lines: tuple[str, ...]


def check_pixel(pixel: tuple[int, int], size: tuple[int, int], flag: str) -> None:
    """UsageError unless the pixel (x, y) lies in a frame of this (width, height)."""
    (x, y), (width, height) = pixel, size
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"{flag} {x},{y} lies outside the {width}x{height} frame; x is 0 to {width - 1}, from the left"
        )


def depth_at(depth_m: Depth, place: tuple[float, float]) -> float:
    """Metres of what a place (x, y) shows: the median around it."""
    x, y = (round(value) for value in place)
    rows = slice(max(0, y - _PROBE_PX), y + _PROBE_PX + 1)
    return float(np.median(depth_m[rows, max(0, x - _PROBE_PX) : x + _PROBE_PX + 1]))


def follow(
    film: Film,
    look: Look,
    depth: DepthSource,
    anchors: tuple[Anchor, ...],
    temporal_s: float,
    on_frame: Callable[[], None],
) -> Followed:
    """Follow a point through the film, and steady its distance.

    Args:
        anchors: where it is, each from its time on; the first holds from the first frame if it says 0 s.
        temporal_s: see `ApplySettings`.
        on_frame: called once a frame.
    """
    starts = {shot.start for shot in look.shots}
    waiting = sorted(anchors, key=lambda anchor: anchor.time_s)
    tracker: PointTracker | None = None
    sights: list[Sight | None] = []
    for number, frame in enumerate(film.frames()):
        picture, depth_m = to_8_bit(frame.picture), depth.read(number)
        anchor = None
        while waiting and frame.time_s >= waiting[0].time_s:
            anchor = waiting.pop(0)
        if anchor is not None:
            pixel = anchor.pixel or (look.source_size[0] // 2, look.source_size[1] // 2)
            tracker = PointTracker()
            sights.append(tracker.begin(picture, depth_m, worked_place(pixel, look)))
        elif tracker is None:
            sights.append(None)
        else:
            sights.append(tracker.step(picture, depth_m, cut=number in starts))
        on_frame()
    if waiting:
        raise UsageError(
            f"--focus_track names a point at {waiting[0].time_s:g} s, and the film ends at {float(look.times_s[-1]):.2f} s"
        )
    inverse = [sight.inverse_m if sight is not None else float("nan") for sight in sights]
    times = [float(time) for time in look.times_s]
    steadied = steady(inverse, times, look.shots, temporal_s)
    before = np.isnan(steadied)  # nothing was named for the beginning: as the first thing named
    steadied[before] = steadied[~before][0]
    focus = [float(1 / value) for value in steadied]
    return Followed(focus_m=focus, lines=tuple(_report(look, np.isfinite(inverse), focus)))


def _report(look: Look, seen: npt.NDArray[np.bool_], focus_m: list[float]) -> Iterator[str]:
    """What happened to the point: how far away it was, where it was lost, and what a cut did."""
    yield (
        f"focus: followed through {int(seen.sum())} of {look.count} frames, {min(focus_m):.2f} to {max(focus_m):.2f} m away"
    )
    for shot in look.shots:
        here, begins = seen[shot.start : shot.stop], f"{float(look.times_s[shot.start]):.2f} s"
        if shot.start and not here.any():
            yield (
                f"focus: not found again behind the cut at {begins}: it stays at {focus_m[shot.start]:.2f} m there; "
                f"name it with --focus_track {float(look.times_s[shot.start]):.2f}:X,Y"
            )
        elif shot.start:
            found = shot.start + int(np.argmax(here))
            yield f"focus: found again behind the cut at {begins}, at {float(look.times_s[found]):.2f} s"
        for first, last in _gaps(here):
            if not shot.start and not here[:first].any():
                continue
            span = f"{float(look.times_s[shot.start + first]):.2f} to {float(look.times_s[shot.start + last]):.2f} s"
            back = here[last + 1 :].any()
            then = "passes from the distance before to the one after" if back else "stays where it was"
            if here[:first].any():
                yield f"focus: out of sight from {span}; the focus {then}"


def _gaps(seen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last number of every run of false."""
    edges = np.flatnonzero(np.diff(np.concatenate(([1], seen.astype(np.int8), [1]))))
    yield from ((int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True))


def sample_numbers(count: int) -> list[int]:
    """A few frames, evenly over the film."""
    return sorted({round(value) for value in np.linspace(0, count - 1, min(count, _SAMPLES))})


def lens_for(settings: ApplySettings, look: Look, depth: DepthSource, focus_m: list[float]) -> tuple[Lens, str]:
    """The lens of the lens engine, and what to say of it.

    Strength is free of the scale of depth: with radius = K |1/d - 1/S| (K = f^2 / (2 N) in px, docs/optics.md) the f-number
    follows from K, and K from the 95th percentile of |1/d - 1/S| over some frames.
    """
    f_mm, width = settings.focal_mm or USUAL_FOCAL_MM, look.size[0]
    scale, percent = px_per_mm(width, settings.sensor_mm), settings.wanted_strength
    numbers = sample_numbers(look.count)
    away = np.concatenate([np.abs(1 / depth.read(n)[::4, ::4] - 1 / focus_m[n]).ravel() for n in numbers])
    spread = float(np.percentile(away, 95))
    if percent is None:
        f_number = settings.f_number or USUAL_F_NUMBER
        why = ""
    else:
        wanted_px = percent / 100 * width
        f_number = (f_mm / 1000) ** 2 / 2 * scale * 1000 * spread / wanted_px if spread > 0 else USUAL_F_NUMBER
        asked = (
            "as --strength asks" if settings.strength_percent else "since no lens was named (--strength, --f_number)"
        )
        why = f", {asked}"
    lens = Lens(f_m=f_mm / 1000, f_number=max(f_number, 1e-3), focus_m=focus_m[0])
    blur = spread * (f_mm / 1000) ** 2 / (2 * lens.f_number) * scale * 1000
    said = (
        f"lens: {f_mm:g} mm, f/{lens.f_number:.3g}: 95 % of the film is blurred by a radius below {blur:.1f} px, "
        f"{blur / width:.2%} of the width{why}"
    )
    return lens, said
