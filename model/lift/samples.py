"""Training samples: a target, its context, and exact flow where there is any. Sample n is a function of the settings and n."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.lift.config import LiftConfig
from model.lift.layouts import Layout, dense, uniform
from model.lift.overlays import draw_overlay
from model.lift.photographs import PhotographSettings, draw_clip
from model.lift.sequences import FrameSequence
from pipeline.errors import InputError
from pipeline.media.images import Picture
from pipeline.seeds import stable_seed

_MASKED_SHARE = 0.2  # of samples whose context ends early, as at a clip's end or a cut
_NOISY_SHARE, _NOISE_LEVELS = 0.4, 4.0  # of jittered samples; standard deviation at most, in 8-bit levels


@dataclass(frozen=True, kw_only=True)
class LiftSample:
    """One target.

    Args:
        name: for messages.
        frames: (N, 3, H, W) float32 in [0, 1]; offsets (N,), present (N,) bool and t as the network takes them.
        target: (3, H, W).
        flow: (4, H, W) pixels, to the neighbour before (x, y) and after (x, y); visible (2, H, W) float. None if not known.
    """

    name: str
    frames: Tensor
    offsets: Tensor
    present: Tensor
    t: float
    target: Tensor
    flow: Tensor | None = None
    visible: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LiftBatch:
    """Samples stacked; contexts of fewer frames are filled up with absent ones. `known` (B,) says which flows are exact."""

    names: tuple[str, ...]
    frames: Tensor
    offsets: Tensor
    present: Tensor
    t: Tensor
    target: Tensor
    flow: Tensor
    visible: Tensor
    known: Tensor

    def to(self, device: torch.device | str) -> "LiftBatch":
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def collate(samples: Sequence[LiftSample]) -> LiftBatch:
    """A micro-batch; InputError when the samples differ in size."""
    sizes = {tuple(sample.target.shape) for sample in samples}
    if len(sizes) > 1:
        raise InputError(f"samples of one batch must have one size, got {sorted(sizes)}")
    most = max(len(sample.frames) for sample in samples)
    shape = samples[0].target.shape
    frames = torch.zeros(len(samples), most, *shape)
    offsets, present = torch.full((len(samples), most), 99.0), torch.zeros(len(samples), most, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.frames)
        frames[row, :count], offsets[row, :count], present[row, :count] = sample.frames, sample.offsets, sample.present
    no_flow, no_view = torch.zeros(4, *shape[1:]), torch.zeros(2, *shape[1:])
    return LiftBatch(
        names=tuple(sample.name for sample in samples),
        frames=frames,
        offsets=offsets,
        present=present,
        t=torch.tensor([sample.t for sample in samples]),
        target=torch.stack([sample.target for sample in samples]),
        flow=torch.stack([no_flow if s.flow is None else s.flow for s in samples]),
        visible=torch.stack([no_view if s.visible is None else s.visible for s in samples]),
        known=torch.tensor([sample.flow is not None for sample in samples]),
    )


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What a sample is.

    Args:
        network: whose layouts and instants are drawn.
        crop: pixels a side.
        dense_share: of samples with one frame taken out; the others keep every second frame, or, `any_t_share` of them,
            have their target anywhere that the network is trained for.
        jitter: mild changes of colour, equal over the clip, and now and then noise on the context.
        overlay_share: of samples with a caption that stands still over them.
        photographs_share: of samples made of photographs, where there are clips too.
        motion: of these.
        seed: of the run.
    """

    network: LiftConfig
    crop: int
    dense_share: float
    any_t_share: float
    jitter: bool
    overlay_share: float = 0.0
    photographs_share: float
    motion: PhotographSettings
    seed: int


class LiftSamples:
    """Samples by number, of clips and photographs."""

    def __init__(self, settings: SampleSettings, clips: Sequence[FrameSequence], photographs: Sequence[Path]) -> None:
        self.settings, self.clips, self.photographs = settings, list(clips), list(photographs)

    def __len__(self) -> int:
        return max(1, sum(clip.num_frames for clip in self.clips) or 1000)

    def __getitem__(self, number: int, /) -> LiftSample:
        rng = np.random.default_rng(stable_seed("lift sample", self.settings.seed, number))
        of_photographs = bool(self.photographs) and (not self.clips or rng.random() < self.settings.photographs_share)
        if of_photographs:
            return self._of_photographs(number, rng)
        clip = self.clips[int(rng.integers(len(self.clips)))]
        return self._of_clip(clip, rng)

    def _layout(self, rng: np.random.Generator, num_frames: int = 0) -> Layout:
        """A layout that fits into a clip; 0 for photographs, where any instant can be had."""
        network = self.settings.network
        before, after = network.frames_before, network.frames_after
        if rng.random() < self.settings.dense_share and network.t_min <= 0.5 <= network.t_max:
            return dense(before, after)
        if rng.random() >= self.settings.any_t_share:
            return uniform(before, after)
        if not num_frames:
            t = float(rng.uniform(network.t_min, network.t_max))
            offsets = (*(-t - n for n in reversed(range(before))), *(1 - t + n for n in range(after)))
            return Layout(places=(*range(-before, 0), *range(1, after + 1)), offsets=offsets, t=t)
        step = 4
        phases = [p for p in range(1, step) if network.t_min <= p / step <= network.t_max]
        if not phases or num_frames <= step:
            return uniform(before, after)
        return uniform(before, after, step, phases[int(rng.integers(len(phases)))])

    def _of_clip(self, clip: FrameSequence, rng: np.random.Generator) -> LiftSample:
        sign = -1 if rng.random() < 0.5 else 1  # time runs backward
        layout = self._layout(rng, clip.num_frames)
        places = [sign * place for place in layout.places]
        near = sorted((places[_last_before(layout)], places[_last_before(layout) + 1]))
        if clip.num_frames <= near[1] - near[0]:
            raise InputError(
                f"{clip.name} has {clip.num_frames} frames; a target and its neighbours need {near[1] - near[0] + 1}"
            )
        target = int(rng.integers(-near[0], clip.num_frames - near[1]))
        numbers = [target + place for place in places]
        kept = [n for n, number in enumerate(numbers) if 0 <= number < clip.num_frames]
        kept = _shortened(kept, layout, rng)
        truth = clip.read(target)
        window = self._window(clip, truth, rng)
        pictures = [clip.read(numbers[n])[window] for n in kept]
        pair = [numbers[_last_before(layout)], numbers[_last_before(layout) + 1]]
        known = [clip.flow(target, number) for number in pair] if clip.flow else [None]
        flow = visible = None
        if all(item is not None for item in known):
            flow = np.concatenate([item[0][window] for item in known if item is not None], -1)
            visible = np.stack([~item[1][window] for item in known if item is not None], -1)
        name = f"{clip.name} frame {target} of {[numbers[n] for n in kept]}"
        offsets = [layout.offsets[n] for n in kept]
        return self._sample(name, pictures, offsets, layout.t, truth[window], flow, visible, rng)

    def _window(self, clip: FrameSequence, picture: Picture, rng: np.random.Generator) -> tuple[slice, slice]:
        height, width = picture.shape[:2]
        crop = self.settings.crop
        if min(height, width) < crop:
            raise InputError(f"{clip.name} is {width}x{height}, smaller than data.crop = {crop}")
        y, x = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        return slice(y, y + crop), slice(x, x + crop)

    def _of_photographs(self, number: int, rng: np.random.Generator) -> LiftSample:
        crop = self.settings.crop
        clip = draw_clip(self.photographs, (crop, crop), self.settings.motion, rng)
        layout = self._layout(rng)
        last = _last_before(layout)
        gap = layout.offsets[last + 1] - layout.offsets[last]
        times = [offset / gap for offset in layout.offsets]
        kept = _shortened(list(range(len(times))), layout, rng)
        pictures = [clip.frame(times[n]) for n in kept]
        found = [clip.flow(0.0, times[n]) for n in (last, last + 1)]
        flow = np.concatenate([item[0] for item in found], -1)
        visible = np.stack([~item[1] for item in found], -1)
        offsets = [layout.offsets[n] for n in kept]
        name = f"photographs {number}"
        return self._sample(name, pictures, offsets, layout.t, clip.frame(0.0), flow, visible, rng)

    def _sample(
        self,
        name: str,
        pictures: Sequence[Picture],
        offsets: Sequence[float],
        t: float,
        truth: Picture,
        flow: npt.NDArray[np.float32] | None,
        visible: npt.NDArray[np.bool_] | None,
        rng: np.random.Generator,
    ) -> LiftSample:
        """Tensors, flipped and coloured alike."""
        images = torch.from_numpy(np.stack([*pictures, truth])).permute(0, 3, 1, 2).float() / 255
        if self.settings.jitter:
            gain = torch.from_numpy(rng.uniform(0.85, 1.15, 3).astype(np.float32)).view(3, 1, 1)
            images = (images * gain).clamp(0, 1) ** float(rng.uniform(0.8, 1.25))
            if rng.random() < _NOISY_SHARE:  # films have noise, and the target is what lies beneath it
                noise = rng.standard_normal(images[:-1].shape, np.float32) * rng.uniform(0, _NOISE_LEVELS / 255)
                images[:-1] = (images[:-1] + torch.from_numpy(noise.astype(np.float32))).clamp(0, 1)
        if rng.random() < self.settings.overlay_share:
            images, flow, visible = _captioned(images, flow, visible, rng)
        flows = None if flow is None else torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1))).float()
        views = None if visible is None else torch.from_numpy(visible.transpose(2, 0, 1).astype(np.float32))
        for axis in (-1, -2):
            if rng.random() < 0.5:
                images = images.flip(axis)
                if flows is not None and views is not None:
                    mirrored = torch.ones(4, 1, 1)
                    mirrored[(0, 2) if axis == -1 else (1, 3), :] = -1
                    flows, views = flows.flip(axis) * mirrored, views.flip(axis)
        return LiftSample(
            name=name,
            frames=images[:-1],
            offsets=torch.tensor(offsets),
            present=torch.ones(len(offsets), dtype=torch.bool),
            t=t,
            target=images[-1],
            flow=flows,
            visible=views,
        )


def _captioned(
    images: Tensor,
    flow: npt.NDArray[np.float32] | None,
    visible: npt.NDArray[np.bool_] | None,
    rng: np.random.Generator,
) -> tuple[Tensor, npt.NDArray[np.float32] | None, npt.NDArray[np.bool_] | None]:
    """Under a caption nothing moves, and both neighbours show it. What slips beneath one is left as seen: a few pixels."""
    height, width = images.shape[-2:]
    opacity, colour = draw_overlay(height, width, rng)
    cover = torch.from_numpy(opacity)
    images = images + cover * (torch.tensor(colour).view(3, 1, 1) - images)
    solid = opacity[..., None] > 0.5
    return images, None if flow is None else np.where(solid, 0, flow), None if visible is None else visible | solid


def _last_before(layout: Layout) -> int:
    """Place in the layout of the neighbour before the target."""
    return max(n for n, place in enumerate(layout.places) if place < 0)


def _shortened(kept: list[int], layout: Layout, rng: np.random.Generator) -> list[int]:
    """Now and then fewer frames on both sides; the neighbours always stay."""
    if rng.random() >= _MASKED_SHARE:
        return kept
    early, late = (int(n) for n in rng.integers(1, len(layout.places) + 1, 2))
    first, second = _last_before(layout), _last_before(layout) + 1
    return [n for n in kept if first - early < n < second + late]


def share_known(batch: LiftBatch) -> Mapping[str, float]:
    """How much of a batch has exact flow, for the log."""
    return {"exact_flow": float(batch.known.float().mean())}
