"""Where the lens is focused at each moment: a distance, what a pixel shows, a pull, or a point that is followed."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

FOCUS_M = (0.05, 1000.0)  # beyond is as good as infinity for these lenses
_MEDIAN_FRAMES = 5  # one or two frames on the wrong surface move nothing


def check_focus_m(focus_m: float, where: str, allowed: tuple[float, float] = FOCUS_M) -> float:
    """The distance, if it is allowed; UsageError with the allowed range otherwise."""
    near, far = allowed
    if not near <= focus_m <= far:
        raise UsageError(f"{where} must be in [{near:g}, {far:g}] m, got {focus_m:g}")
    return focus_m


@dataclass(frozen=True, kw_only=True)
class FocusPull:
    """Keyframes (seconds, metres), ascending in time; before the first and after the last the focus stays.

    Between two, the *inverse* distance is linear: that is how a focus ring feels even, and blur is linear in it.
    """

    keys: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.keys:
            raise UsageError("a focus pull needs at least one keyframe")
        times = [time_s for time_s, _ in self.keys]
        if times != sorted(set(times)):
            raise UsageError(f"the times of a focus pull must rise, got {', '.join(f'{t:g}' for t in times)}")
        for time_s, focus_m in self.keys:
            check_focus_m(focus_m, f"the focus at {time_s:g} s")

    def at(self, time_s: float | Fraction) -> float:
        """Focus distance in metres at a time in seconds."""
        after = bisect_right([key[0] for key in self.keys], time_s)
        if after == 0:
            return self.keys[0][1]
        if after == len(self.keys):
            return self.keys[-1][1]
        (t0, focus0), (t1, focus1) = self.keys[after - 1], self.keys[after]
        share = (float(time_s) - t0) / (t1 - t0)
        return 1 / ((1 - share) / focus0 + share / focus1)


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A point to follow from a time on: (x, y) in pixels of the film as it is; `pixel` None is the middle of the frame."""

    time_s: float
    pixel: tuple[int, int] | None


def steady(
    inverse_m: Sequence[float], times_s: Sequence[float], shots: Sequence[range], sigma_s: float
) -> npt.NDArray[np.float64]:
    """A measured focus as a focus puller would turn it: no jumps at single frames, no lag.

    Inverse distances, since blur is linear in them. Within each shot gaps are bridged from one measurement to the next, a
    median over five frames drops outliers, and a Gaussian looks both ways in time. A shot without any measurement keeps
    the distance before it.

    Args:
        inverse_m: (T,) 1/m, NaN where nothing was seen.
        times_s: (T,) when each frame is shown.
        shots: ranges of frames that are one shot each, together all frames.
        sigma_s: standard deviation of the Gaussian in seconds; 0 leaves its part out.

    Returns:
        (T,) 1/m, finite; NaN only before the first measurement of the whole film.
    """
    values, times = np.asarray(inverse_m, np.float64), np.asarray(times_s, np.float64)
    steadied = np.full(len(values), np.nan)
    for shot in shots:
        frames = np.arange(shot.start, shot.stop)
        seen = frames[np.isfinite(values[frames])]
        if not len(seen):
            if shot.start:
                steadied[frames] = steadied[shot.start - 1]
            continue
        bridged = np.interp(times[frames], times[seen], values[seen])
        if sigma_s > 0:
            from scipy.ndimage import median_filter  # half a second that --help need not wait for

            bridged = median_filter(bridged, _MEDIAN_FRAMES, mode="nearest")
            bridged = _gaussian(bridged, times[frames], sigma_s)
        steadied[frames] = bridged
    return steadied


def _gaussian(
    values: npt.NDArray[np.float64], times: npt.NDArray[np.float64], sigma_s: float
) -> npt.NDArray[np.float64]:
    """Weighted by time and not by frame number, so that a variable frame rate does no harm."""
    smooth = np.empty_like(values)
    for number, time in enumerate(times):
        first, last = np.searchsorted(times, (time - 3 * sigma_s, time + 3 * sigma_s))
        near = slice(first, max(last, first + 1))
        weights = np.exp(-0.5 * ((times[near] - time) / sigma_s) ** 2)
        smooth[number] = float(weights @ values[near] / weights.sum())
    return smooth


def parse_pull(text: str) -> FocusPull:
    """ "0:1.2,2.5:6" -> keyframes at 0 s and 2.5 s; UsageError shows the form."""
    keys = []
    for piece in text.split(","):
        time_text, colon, focus_text = piece.partition(":")
        try:
            if not colon:
                raise ValueError
            keys.append((float(time_text), float(focus_text)))
        except ValueError:
            raise UsageError(f"--focus_pull takes SECONDS:METRES,... for example 0:1.2,2.5:6, got {text!r}") from None
    return FocusPull(keys=tuple(keys))


def parse_pixel(text: str, flag: str = "--focus_px") -> tuple[int, int]:
    """ "410,220" -> (x, y); UsageError shows the form."""
    try:
        x, y = (int(piece) for piece in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} takes X,Y in pixels of the frame, for example 410,220, got {text!r}") from None
    return x, y


def parse_anchors(texts: Sequence[str]) -> tuple[Anchor, ...]:
    """ "410,220" and "3.2:300,180" -> points to follow from 0 s and from 3.2 s; UsageError shows the form."""
    anchors = []
    for text in texts:
        time_text, colon, pixel_text = text.rpartition(":")
        try:
            time_s = float(time_text) if colon else 0.0
        except ValueError:
            time_s = -1.0
        if not 0 <= time_s < float("inf"):
            raise UsageError(f"--focus_track takes X,Y or SECONDS:X,Y, for example 3.2:410,220, got {text!r}")
        anchors.append(Anchor(time_s=time_s, pixel=parse_pixel(pixel_text, "--focus_track")))
    times = [anchor.time_s for anchor in anchors]
    if times != sorted(set(times)):
        raise UsageError(f"the times of --focus_track must rise, got {', '.join(f'{t:g}' for t in times)}")
    return tuple(anchors)
