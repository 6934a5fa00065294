"""Training samples of FocusMamba: consecutive photographs, what is to be found in them, and what follows from frame to frame.

Sample n is the same on every machine and after every resume: all that is random about it comes from (seed, n).

Shape letters: B = samples; T = frames of a clip; H, W = crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.data.sampling import ClipSettings, draw_window, item_of, sample_rng
from model.data.scene_manifest import find_scenes
from model.evaluation.eval_clips import EvalClip, EvalFrame, scene_clips
from model.evaluation.photographs import find_photographs
from model.focusmamba.augment import (
    AugmentSettings,
    degraded,
    draw_focus,
    draw_lenses,
    draw_opening,
    log_uniform,
    recoloured,
    resized,
)
from model.focusmamba.occluders import Scene, occluded
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import tensor_to_image
from pipeline.media.flow import flow_pair
from pipeline.optics import Aperture, Lens, render_lens_blur
from pipeline.optics.labels import signed_label_px
from pipeline.optics.visible import EXPECTED_SATURATION
from pipeline.storage.completion import fingerprint

MARGIN_PX = 8  # around the crop while it is photographed anew: blur from outside comes in
SUPERVISED_RADIUS_PX = 48.0  # labels beyond are compared at this radius


@dataclass(frozen=True, kw_only=True)
class FocusClip:
    """T frames of one scene.

    Args:
        name: for people who look for a bad sample.
        photos: (T, 3, H, W) what the network sees.
        clean: (T, 3, H, W) the same before motion, noise and compression: what re-rendering has to give.
        frames: (T, 3, H, W) all in focus.
        signed_px: (T, 1, H, W) the label, radius in pixels of this picture, negative in front of the focus plane.
        flow: (T - 1, 2, H, W) from frame t + 1 back to t, pixels; trusted (T - 1, 1, H, W), 1 where it can be believed.
        map_radius_px: radius at which the focus map is 0.
        aperture: of the opening that `clean` was taken with.
    """

    name: str
    photos: Tensor
    clean: Tensor
    frames: Tensor
    signed_px: Tensor
    flow: Tensor
    trusted: Tensor
    map_radius_px: float
    aperture: Aperture


@dataclass(frozen=True, kw_only=True)
class FocusBatch:
    """B clips of one size."""

    names: tuple[str, ...]
    photos: Tensor  # (B, T, 3, H, W)
    clean: Tensor
    frames: Tensor
    signed_px: Tensor  # (B, T, 1, H, W)
    flow: Tensor  # (B, T - 1, 2, H, W)
    trusted: Tensor  # (B, T - 1, 1, H, W)
    map_radius_px: Tensor  # (B,)
    apertures: tuple[Aperture, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "FocusBatch":
        moved: dict[str, Any] = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)


def collate(clips: Sequence[FocusClip]) -> FocusBatch:
    """Stack clips of one size."""
    stacked = {
        name: torch.stack([getattr(clip, name) for clip in clips])
        for name in ("photos", "clean", "frames", "signed_px", "flow", "trusted")
    }
    return FocusBatch(
        names=tuple(clip.name for clip in clips),
        apertures=tuple(clip.aperture for clip in clips),
        map_radius_px=torch.tensor([clip.map_radius_px for clip in clips]),
        **stacked,
    )


def map_radius(clip: EvalClip, width: int) -> float:
    """The radius at which a clip's focus map is 0: where its photographs saturate, or where a calibration would end up."""
    return EXPECTED_SATURATION * width if clip.max_radius_px is None else clip.max_radius_px


class FocusClips:
    """Sample n of an endless, seeded stream; `len` is one epoch: every clip once.

    Args:
        clips: scenes through lenses, with depth.
        settings: frames and crop of a sample, and the seed.
        augment: what happens to it.

    Raises:
        UsageError: a clip has too few frames, or no depth.
    """

    def __init__(self, clips: Sequence[EvalClip], settings: ClipSettings, augment: AugmentSettings) -> None:
        self._clips, self._settings, self._augment = list(clips), settings, augment
        for clip in clips:
            if clip.num_frames < settings.clip_frames:
                raise UsageError(f"{clip.name} has {clip.num_frames} frames; a sample needs {settings.clip_frames}")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> FocusClip:
        """Read and photograph sample `number` (>= 0).

        Raises:
            InputError: a file is gone or damaged, or smaller than the crop; the message names sample and file.
        """
        s = self._settings
        clip = self._clips[item_of(s.seed, number, len(self._clips))]
        rng = sample_rng(s.seed, number)
        first = int(rng.integers(clip.num_frames - s.clip_frames + 1))
        name = f"{clip.name} frames {first}-{first + s.clip_frames - 1}"
        try:
            read = [clip.read(index) for index in range(first, first + s.clip_frames)]
        except InputError as error:
            raise InputError(f"sample {number} ({name}): {error}") from None
        return self._sample(clip, read, rng, name)

    def _sample(self, clip: EvalClip, read: Sequence[EvalFrame], rng: np.random.Generator, name: str) -> FocusClip:
        s, a = self._settings, self._augment
        full_height, full_width = read[0].frame.shape[-2:]
        width, height = s.crop_width or full_width, s.crop_height or full_height
        scale = log_uniform(rng, a.min_resize, a.max_resize) if rng.random() < a.resize else 1.0
        smallest = max((width + 1) / full_width, (height + 1) / full_height)
        scale = max(scale, min(1.0, smallest))  # never so small that the frame no longer holds the crop
        wanted = [int(np.ceil(side / scale)) + 2 * MARGIN_PX for side in (width, height)]
        taken = ClipSettings(
            clip_frames=s.clip_frames,
            crop_width=min(wanted[0], full_width),
            crop_height=min(wanted[1], full_height),
            flip=s.flip,
        )
        if width > full_width or height > full_height:
            raise InputError(f"{name}: frames are {full_width}x{full_height}, smaller than the {width}x{height} crop")
        window = draw_window(rng, taken, full_width, full_height)
        frames = torch.stack([window.cut(one.frame) for one in read])
        photos = torch.stack([window.cut(one.bokeh) for one in read])
        depth = torch.stack([window.cut(_depth(one, name)) for one in read])
        limit = float("inf") if clip.max_radius_px is None else clip.max_radius_px
        lenses, aperture = [one.lens for one in read], Aperture()
        anew = rng.random() < a.relens
        if anew:
            aperture = draw_opening(rng)
            pull = rng.random() < a.pull
            focus_m = draw_focus(rng, depth[0]) if a.refocus and rng.random() < a.refocus else None
            lenses = draw_lenses(rng, clip.lens, len(read), pull, focus_m)
            limit = 2 * map_radius(clip, full_width)
        signed = _labels(depth, lenses, clip.px_per_mm, min(limit, SUPERVISED_RADIUS_PX))
        if anew:
            photos = render_lens_blur(frames, signed, order=depth, aperture=aperture).clamp(0, 1)
        if a.occlude and rng.random() < a.occlude:
            scene = Scene(
                frames=frames,
                photos=photos,
                depth_m=depth,
                signed_px=signed,
                lenses=lenses,
                px_per_mm=clip.px_per_mm,
                limit_px=min(limit, SUPERVISED_RADIUS_PX),
                aperture=aperture,
            )
            frames, photos, signed = occluded(scene, rng)
        if scale != 1.0:
            frames, photos = resized(frames, scale).clamp(0, 1), resized(photos, scale).clamp(0, 1)
            # Picked, not averaged: a mean over an edge would invent radii that are not there.
            signed = nn.functional.interpolate(signed, size=frames.shape[-2:], mode="nearest-exact") * scale
        top, left = ((have - want) // 2 for have, want in zip(frames.shape[-2:], (height, width), strict=True))
        frames, photos, signed = (x[..., top : top + height, left : left + width] for x in (frames, photos, signed))
        if rng.random() < a.colour:
            frames, photos = recoloured(torch.cat([frames, photos]), rng).chunk(2)
        flow, trusted = flows(frames)
        return FocusClip(
            name=f"{name} {window}",
            photos=degraded(photos, a, rng),
            clean=photos.contiguous(),
            frames=frames.contiguous(),
            signed_px=signed.contiguous(),
            flow=flow,
            trusted=trusted,
            map_radius_px=map_radius(clip, full_width) * scale,
            aperture=aperture,
        )


def _depth(one: EvalFrame, name: str) -> Tensor:
    if one.depth_m is None:
        raise InputError(f"{name} has no depth, and so no label")
    return one.depth_m


def _labels(depth_m: Tensor, lenses: Sequence[Lens], per_mm: float, limit_px: float) -> Tensor:
    return torch.stack(
        [signed_label_px(depth, lens, per_mm, limit_px) for depth, lens in zip(depth_m, lenses, strict=True)]
    )


def flows(frames: Tensor) -> tuple[Tensor, Tensor]:
    """(T, 3, H, W) sharp frames -> flow from t + 1 back to t (T - 1, 2, H, W), and where it can be believed."""
    height, width = frames.shape[-2:]
    pictures = [tensor_to_image(frame) for frame in frames]
    pairs = [flow_pair(later, earlier)[0] for earlier, later in pairwise(pictures)]
    if not pairs:
        return torch.zeros(0, 2, height, width), torch.zeros(0, 1, height, width)
    flow = torch.stack([torch.from_numpy(pair.vectors).permute(2, 0, 1) for pair in pairs])
    return flow.contiguous(), torch.stack([torch.from_numpy(pair.trusted)[None].float() for pair in pairs])


@dataclass(frozen=True, kw_only=True)
class FocusData:
    """What was found for a run; see `FocusClips`. `seen` is what the weights learn from, `width` the widest training frame."""

    source: FocusClips
    clips: list[EvalClip]
    lines: tuple[str, ...]
    digest: str
    seen: dict[str, str | int]


def build_data(
    roots: Sequence[Path],
    train_split: str,
    val_split: str,
    photographs: Path | None,
    clip: ClipSettings,
    augment: AugmentSettings,
) -> FocusData:
    """Look at the training splits of all roots, the validation split of the first, and photographs where they are given.

    Raises:
        UsageError: a split is empty or holds nothing that fits; the message has the reasons.
    """
    clips: list[EvalClip] = []
    lines: list[str] = []
    names: dict[str, str] = {}
    count = 0
    for root in roots:
        train = find_scenes(
            root, train_split, min_frames=clip.clip_frames, min_size=clip.min_size, coc_model="contract"
        )
        clips += scene_clips(train)
        lines.append(train.describe())
        names |= {scene.scene_id: scene.fingerprint for scene in train.scenes}
        count += len(train.scenes)
    val = find_scenes(roots[0], val_split, coc_model="contract")
    lines.append(val.describe())
    if photographs is not None:
        traced = find_photographs(photographs)
        clips += traced.clips
        lines.append(traced.describe())
        count += traced.scenes
        names["photographs"] = fingerprint({str(i): one.name for i, one in enumerate(traced.clips)})
    return FocusData(
        source=FocusClips(clips, clip, augment),
        clips=scene_clips(val),
        lines=tuple(lines),
        digest=fingerprint(names),
        seen={"kind": "scenes", "scenes": count},
    )
