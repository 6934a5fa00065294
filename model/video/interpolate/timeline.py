"""Which instants a film with more frames shows, and which film's end that is.

Every frame of the source owns the time until the next one, the last until the film's end; so a film becomes neither longer
nor shorter, and its sound stays in step. Behind the last frame of a shot there is nothing to interpolate to: it is held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from model.video.film import Look
from pipeline.errors import InputError
from pipeline.media.video_io import TimedFolder, TimedVideo
from pipeline.media.video_writer import Timing

_FINE_HZ = 10_000  # times that are no multiple of the output's frames (the film's end) are rounded to this or finer


@dataclass(frozen=True, kw_only=True)
class Instant:
    """One frame of the output.

    Args:
        time_s: when it is shown.
        before: the source frame at or before it.
        t: where it lies between that frame and the next, in [0, 1); 0 is the frame itself.
    """

    time_s: Fraction
    before: int
    t: Fraction


def film_end_s(source: TimedVideo | TimedFolder, look: Look) -> Fraction:
    """When the last frame ends: as the header says, else it stands as long as the one before.

    Raises:
        InputError: the file has no times, so that its length would be a guess.
    """
    times = look.times_s
    if not source.timed:
        raise InputError(
            f"{source.path} has no readable duration: it does not say when its frames are shown; "
            "put it into a container that does, as .mp4 or .mkv"
        )
    if source.end_s is not None and source.end_s > times[-1]:
        return source.end_s
    return times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / source.rate)


def instants(times_s: Sequence[Fraction], end_s: Fraction, shots: Sequence[range], factor: int) -> Iterator[Instant]:
    """`factor` instants for every frame, evenly spread over its time."""
    last = {shot.stop - 1 for shot in shots}
    for number, start in enumerate(times_s):
        stop = times_s[number + 1] if number + 1 < len(times_s) else end_s
        for part in range(factor):
            t = Fraction(part, factor)
            yield Instant(time_s=start + t * (stop - start), before=number, t=Fraction(0) if number in last else t)


def instants_at_rate(
    times_s: Sequence[Fraction], end_s: Fraction, shots: Sequence[range], fps: Fraction
) -> Iterator[Instant]:
    """Instants 1 / fps apart from the first frame to the film's end."""
    last = {shot.stop - 1 for shot in shots}
    before = 0
    for number in range(max(1, ceil((end_s - times_s[0]) * fps))):
        time_s = times_s[0] + number / fps
        while before + 1 < len(times_s) and times_s[before + 1] <= time_s:
            before += 1
        t = Fraction(0)
        if before not in last:
            t = (time_s - times_s[before]) / (times_s[before + 1] - times_s[before])
        yield Instant(time_s=time_s, before=before, t=t)


def timing_of(source: TimedVideo | TimedFolder, end_s: Fraction, factor: int | None, fps: Fraction | None) -> Timing:
    """Rate and tick of the output: every instant is a whole number of ticks."""
    if factor is not None:
        return Timing(rate=source.rate * factor, time_base=source.time_base / factor, end_s=end_s)
    assert fps is not None, "the settings hold one of the two"
    return Timing(rate=fps, time_base=1 / fps / max(1, ceil(_FINE_HZ / fps)), end_s=end_s)
