"""What is measured: targets of whole clips, with the context that a network is given and exact flow where there is any."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from model.lift.layouts import Layout, has_neighbours
from model.lift.samples import LiftSample
from model.lift.sequences import FrameSequence
from pipeline.media.convert import image_to_tensor


@dataclass(frozen=True, kw_only=True)
class Target:
    """A frame to make.

    Args:
        clip: its clip's name; number: its frame number.
        phenomenon: of the clip; may be empty.
        full: the whole context is there.
        load: reads it.
    """

    clip: str
    number: int
    phenomenon: str
    full: bool
    load: Callable[[], LiftSample]


def targets_of(clip: FrameSequence, layout: Layout, *, every: int = 1, first: int = 0) -> list[Target]:
    """The targets of a clip that have both neighbours: frames first, first + every, ..."""
    found = []
    for target in range(first, clip.num_frames, every):
        numbers = layout.numbers(target, clip.num_frames)
        if has_neighbours(numbers, layout.places):
            found.append(
                Target(
                    clip=clip.name,
                    number=target,
                    phenomenon=clip.phenomenon,
                    full=None not in numbers,
                    load=partial(load_target, clip, layout, target),
                )
            )
    return found


def load_target(clip: FrameSequence, layout: Layout, target: int) -> LiftSample:
    """Whole frames; absent ones are left out of the context."""
    numbers = layout.numbers(target, clip.num_frames)
    kept = [n for n, number in enumerate(numbers) if number is not None]
    frames = [image_to_tensor(clip.read(number)) for number in numbers if number is not None]
    last = max(n for n, place in enumerate(layout.places) if place < 0)
    flow = visible = None
    if clip.flow is not None:
        pairs = [clip.flow(target, target + layout.places[n]) for n in (last, last + 1)]
        if all(pair is not None for pair in pairs):
            known = [pair for pair in pairs if pair is not None]
            flow = torch.from_numpy(np.concatenate([pair[0] for pair in known], -1)).permute(2, 0, 1).float()
            visible = torch.from_numpy(np.stack([~pair[1] for pair in known])).float()
    return LiftSample(
        name=f"{clip.name} frame {target}",
        frames=torch.stack(frames),
        offsets=torch.tensor([layout.offsets[n] for n in kept]),
        present=torch.ones(len(kept), dtype=torch.bool),
        t=layout.t,
        target=image_to_tensor(clip.read(target)),
        flow=flow,
        visible=visible,
    )


def spread(targets: Sequence[Target], count: int) -> list[Target]:
    """At most `count` of them, evenly over all; 0 for all."""
    if not count or len(targets) <= count:
        return list(targets)
    return [targets[int((n + 0.5) * len(targets) / count)] for n in range(count)]


def by_clip(targets: Sequence[Target]) -> Iterator[tuple[str, list[Target]]]:
    """Targets of one clip together, in the order of first appearance."""
    names = list(dict.fromkeys(target.clip for target in targets))
    for name in names:
        yield name, [target for target in targets if target.clip == name]
