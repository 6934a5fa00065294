"""The cuts of a film, given in a file rather than looked for."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.bounded import JSON_LIMIT, read_bounded


def read_cuts(path: Path, times_s: Sequence[Fraction]) -> tuple[range, ...]:
    """Shots from a file with one line for each cut: the number of the first frame of the new shot (from 0), or its time as
    "12.48s"; empty lines and what follows a # are passed over.

    Args:
        times_s: of the film's frames; a time means the first frame at or behind it, to half a millisecond.

    Raises:
        InputError: it cannot be read, or a line is neither, or lies outside the film.
    """
    try:
        lines = read_bounded(path, JSON_LIMIT).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of cuts: {error}") from None
    starts = {0}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            starts.add(_start(text, times_s, f"{path}, line {number}"))
    ordered = sorted(starts)
    return tuple(range(one, other) for one, other in zip(ordered, [*ordered[1:], len(times_s)], strict=True))


def _start(text: str, times_s: Sequence[Fraction], where: str) -> int:
    try:
        frame = bisect_left(times_s, Fraction(text[:-1]) - Fraction(1, 2000)) if text.endswith("s") else int(text)
    except ValueError:
        raise InputError(f'{where}: a cut is a frame\'s number or a time as "12.48s", got {text!r}') from None
    if not 0 < frame < len(times_s):
        raise InputError(f"{where}: a cut lies behind the first frame of the film's {len(times_s)}, got {text}")
    return frame
