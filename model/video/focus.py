"""Where the lens is focused at each moment: one distance, what a pixel shows, or a pull from keyframe to keyframe."""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

from model.bokehflow.blocks import FOCUS_M
from pipeline.errors import UsageError


def check_focus_m(focus_m: float, where: str) -> float:
    """The distance, if the network knows such; UsageError with the allowed range otherwise."""
    near, far = FOCUS_M
    if not near <= focus_m <= far:
        raise UsageError(f"{where} must be in [{near}, {far:g}] m, got {focus_m:g}")
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


def parse_pixel(text: str) -> tuple[int, int]:
    """ "410,220" -> (x, y); UsageError shows the form."""
    try:
        x, y = (int(piece) for piece in text.split(","))
    except ValueError:
        raise UsageError(f"--focus_px takes X,Y in pixels of the frame, for example 410,220, got {text!r}") from None
    return x, y
