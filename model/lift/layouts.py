"""Which frames surround a target, and where in time: layouts, by frame numbers and never by places in a list.

dense       one frame of a clip is taken out: neighbours at -1 and +1, then -2 and +2, and so on. The published layout.
uniform     every step-th frame is kept and what lies between is made, as when a frame rate is multiplied: offsets in units of
            the kept frames' distance, -0.5 and +0.5, then -1.5 and +1.5 for the middle of a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.lift.config import LiftError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The context of one target.

    Args:
        places: frame numbers relative to the target, ascending, without 0.
        offsets: the same in the unit that the network is trained with.
        t: the target's instant between its two neighbours.
    """

    places: tuple[int, ...]
    offsets: tuple[float, ...]
    t: float

    def numbers(self, target: int, num_frames: int) -> list[int | None]:
        """Frame numbers of a clip, None for those that it does not have."""
        return [target + place if 0 <= target + place < num_frames else None for place in self.places]


def dense(before: int, after: int) -> Layout:
    """Neighbours at -1 and +1: `before` frames ahead of the target, `after` behind it."""
    places = (*range(-before, 0), *range(1, after + 1))
    return Layout(places=places, offsets=tuple(float(place) for place in places), t=0.5)


def uniform(before: int, after: int, step: int = 2, phase: int = 1) -> Layout:
    """Every `step`-th frame is kept, and the target lies `phase` frames after one of them.

    Raises:
        LiftError: the phase is not inside the step.
    """
    if not 1 <= phase < step:
        raise LiftError(f"phase must be in 1 .. step - 1, got {phase} for step {step}")
    places = (
        *(-phase - step * n for n in reversed(range(before))),
        *(step - phase + step * n for n in range(after)),
    )
    return Layout(places=places, offsets=tuple(place / step for place in places), t=phase / step)


def nearest(layout: Layout, before: int, after: int) -> Layout:
    """The nearest frames of a layout alone."""
    early = [n for n, place in enumerate(layout.places) if place < 0][-before:]
    late = [n for n, place in enumerate(layout.places) if place > 0][:after]
    kept = [*early, *late]
    return Layout(
        places=tuple(layout.places[n] for n in kept), offsets=tuple(layout.offsets[n] for n in kept), t=layout.t
    )


def has_neighbours(numbers: Sequence[int | None], places: Sequence[int]) -> bool:
    """Whether both neighbours of the target are there."""
    found = dict(zip(places, numbers, strict=True))
    early, late = max(p for p in places if p < 0), min(p for p in places if p > 0)
    return found[early] is not None and found[late] is not None
