"""Lenses for photographs: the prior `visible` with targets that fill the range of radii, within a largest radius."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.optics import Lens, defocus_px, px_per_mm
from pipeline.optics.sampling import DrawnLens
from pipeline.optics.visible import draw_visible_lens
from pipeline.raytrace.geometry import F32
from pipeline.seeds import stable_seed

MAX_RADIUS_SHARE = 31 / 512  # of the frame's width: the network's renderer reaches 31 px at 512
# The 95th percentile of the radius is drawn up to 28 px at 512: what lies nearer or farther fills the rest of the range.
TARGET_SHARES = (0.005, 0.055)
LARGEST_PERCENTILE = 99.5
DRAWS = 8
SKY_M = 100.0
PULL_SHARE = 0.3  # of the scene's range of inverse distances: what a focus pull covers at least, if it can
STOPPED_DOWN_SHARES = (0.4, 1.0)  # of the largest radius


def draw_photograph_lens(scene_id: str, set_index: int, depth_m: F32, *, width_px: int, seed: int) -> DrawnLens:
    """The lens of one set: drawn again while its blur exceeds `MAX_RADIUS_SHARE`, at last stopped down to it.

    Args:
        scene_id, set_index, seed: seed the draw.
        depth_m: any sample of the scene's depth, metres, > 0.
        width_px: of the full frame.

    Returns:
        The lens and, where it was stopped down or the prior's rules were not met, the reason.
    """
    per_mm = px_per_mm(width_px)
    limit_px = MAX_RADIUS_SHARE * width_px

    def largest_px(lens: Lens) -> float:
        return _largest_px(lens, depth_m, per_mm)

    def draw(attempt: int) -> DrawnLens:
        return draw_visible_lens(
            scene_id,
            set_index + 100 * attempt,
            depth_m,
            px_per_mm=per_mm,
            width_px=width_px,
            project_seed=seed,
            target_shares=TARGET_SHARES,
        )

    first = draw(0)
    for one in (first, *(draw(attempt) for attempt in range(1, DRAWS))):
        if largest_px(one.lens) <= limit_px:
            return one
    # Something stands close to the lens: any of these would blur it beyond the limit. To a radius of its own each, or
    # all sets of such a scene would be one lens.
    rng = np.random.Generator(np.random.PCG64(stable_seed("stopped down", scene_id, set_index, seed)))
    wanted_px = limit_px * float(np.exp(rng.uniform(*np.log(STOPPED_DOWN_SHARES))))
    factor = largest_px(first.lens) / wanted_px
    return DrawnLens(
        replace(first.lens, f_number=first.lens.f_number * factor),
        f"none of {DRAWS} lenses keeps {LARGEST_PERCENTILE} % of the radii below {limit_px:.0f} px; "
        f"stopped down {factor:.2f} times, to {wanted_px:.1f} px",
    )


def draw_focus_pull(
    scene_id: str, set_index: int, depth_m: F32, lens: Lens, num_frames: int, *, width_px: int, seed: int
) -> tuple[Lens, tuple[float, ...]]:
    """A focus that travels from a drawn lens's distance to another one that the scene has, evenly in inverse distance.

    Args:
        scene_id, set_index, seed: seed the draw.
        depth_m: any sample of the scene's depth, metres, > 0.
        lens: of the first frame.
        num_frames: >= 1.
        width_px: of the full frame.

    Returns:
        The lens, stopped down as far as its largest blur on the way asks for, and the focus distance of every frame, metres.
    """
    rng = np.random.Generator(np.random.PCG64(stable_seed("focus pull", scene_id, set_index, seed)))
    seen = depth_m[depth_m < SKY_M] if (depth_m < SKY_M).any() else depth_m  # nobody focuses on the sky
    near, far = np.percentile(1 / seen, (95, 5)).tolist()
    start = 1 / lens.focus_m
    ends = [end for end in rng.uniform(far, near, DRAWS).tolist() if abs(end - start) > PULL_SHARE * (near - far)]
    end = ends[0] if ends else max((near, far), key=lambda one: abs(one - start))
    focus_m = (lens.focus_m, *(1 / (start + (end - start) * np.linspace(0, 1, num_frames)[1:])).tolist())
    # A pixel's radius is convex in 1 / S, so the largest is at one of the ends.
    worst = max(
        _largest_px(replace(lens, focus_m=one), depth_m, px_per_mm(width_px)) for one in (focus_m[0], focus_m[-1])
    )
    stop = max(1.0, worst / (MAX_RADIUS_SHARE * width_px))
    return replace(lens, f_number=lens.f_number * stop), focus_m


def _largest_px(lens: Lens, depth_m: F32, per_mm: float) -> float:
    radius = defocus_px(torch.from_numpy(np.ascontiguousarray(depth_m)).float(), lens, per_mm).abs()
    return float(np.percentile(radius.numpy(), LARGEST_PERCENTILE))


def traced_lens(lens: Lens, f_m: float) -> Lens:
    """The same blur at the focal length of the frames: f^2 / N is kept, so every circle of confusion is.

    The drawn focal length sets the blur, the scene's the field of view; a photograph of these frames needs both, and by
    the contract formula f^2 / (N S) |d - S| / d only the quotient f^2 / N counts.
    """
    return replace(lens, f_m=f_m, f_number=lens.f_number * (f_m / lens.f_m) ** 2)
