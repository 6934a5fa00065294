"""Small bright lamps, sampled where they are instead of waiting for a ray to find them.

A bulb of radiance 50 and one pixel wide, thirty pixels out of focus, is met by one ray in a thousand: its disc would be
noise at any affordable number of rays. So lamps are black to the ordinary rays (they still hide what is behind them), and
every pixel of a lamp's disc sends its rays through just that part of the lens that can see the lamp, weighted by the
share of the opening which that part is. Both estimates have the same mean; this one has little noise.
"""

import numpy as np
import torch

from pipeline.optics import Aperture, Lens
from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32, NEAR_M, PLANE, SKY_DEPTH_M
from pipeline.raytrace.hits import trace_nearest
from pipeline.raytrace.lens_samples import inside, opening_area, strata, to_opening
from pipeline.raytrace.world import World
from pipeline.seeds import stable_seed


def add_lamps(
    picture: F32,
    world: World,
    camera: Camera,
    lens: Lens | None = None,
    aperture: Aperture | None = None,
    *,
    samples: int = 64,
    seed: int = 0,
) -> None:
    """Add the light of all lamps that the camera sees directly, in place.

    Args:
        picture: (H, W, 3) linear light in which lamps are still black.
        world, camera: the instant and the camera.
        lens, aperture: None for the pinhole.
        samples: rays per pixel of the rest of the picture; lamps get between 16 and four times as many.
        seed: picks the samples.
    """
    opening = aperture or Aperture()
    radius = 0.0 if lens is None else lens.f_m / lens.f_number / 2
    focus_m = 1.0 if lens is None else lens.focus_m
    box = (-radius, radius, -radius, radius)
    full = camera.rects(world.shapes, box, focus_m)
    nearest = ((world.shapes.corners - world.pose.position) @ world.pose.forward).min(axis=1)
    for p in np.flatnonzero(world.is_lamp).tolist():
        y0, y1, x0, x1 = full[p].tolist()
        if y1 <= y0 or x1 <= x0:
            continue
        area = (y1 - y0) * (x1 - x0)
        # A lamp in focus is all edge, steep and few pixels: it gets more rays per pixel than its neighbours.
        count = max(16, min(4 * samples, 600 * samples // area))
        window = (y0, y1, x0, x1)
        rng = np.random.Generator(np.random.PCG64(stable_seed("lamp", seed, p)))
        cells = strata(count)
        sub_x, sub_y = inside(cells, rng, (count, y1 - y0, x1 - x0))
        qx, qy = camera.tangents(sub_x, sub_y, window)
        points, weight = None, None
        if lens is not None:
            a, b = inside(cells[rng.permutation(count)], rng, (count, y1 - y0, x1 - x0))
            points, weight = _towards(world, p, lens, opening, (qx, qy), (a, b))
            if not weight.any():
                continue
        rays = camera.rays(qx, qy, points, focus_m)
        rects = np.clip(full - np.array([y0, y0, x0, x0]), 0, np.array([y1 - y0, y1 - y0, x1 - x0, x1 - x0]))
        rects[(nearest > nearest[p] + 2 * world.shapes.half[p].max()) & (world.shapes.kind != PLANE)] = 0
        depth = np.full(rays.shape, SKY_DEPTH_M, np.float32)
        ids = np.full(rays.shape, -1, np.int16)
        trace_nearest(world.shapes, rays, rects, depth, ids, NEAR_M)
        share = np.where(ids == p, np.exp(depth * (-1 / world.lighting.haze_m)), 0)
        if weight is not None:
            share *= weight
        light = share.mean(axis=0)[..., None] * world.radiance[p]
        picture[y0:y1, x0:x1] += light.astype(np.float32)


def _towards(
    world: World, p: int, lens: Lens, opening: Aperture, q: tuple[F32, F32], unit: tuple[F32, F32]
) -> tuple[tuple[F32, F32], F32]:
    """Lens points that may see lamp p from given picture points, and the weight of each ray."""
    radius = lens.f_m / lens.f_number / 2
    offset = world.shapes.centre[p] - world.pose.position
    x, y, d = (float(offset @ axis) for axis in (world.pose.right, world.pose.up, world.pose.forward))
    # At the lamp's depth a ray is at u * (1 - d/S) + q * d: solve for the u that hits the lamp's middle. A sphere seen
    # under an angle covers a little more of that plane than its own radius.
    along = 1 - d / lens.focus_m
    reach = float(world.shapes.half[p].max()) * 1.04 * float(np.sqrt(1 + (x * x + y * y) / (d * d)))
    if reach >= radius * abs(along):
        a, b = to_opening(unit[0], unit[1], opening)
        return (a * np.float32(radius), b * np.float32(radius)), np.ones_like(a)
    spread = reach / abs(along)
    a, b = to_opening(unit[0], unit[1], Aperture())
    u = (x - q[0] * d) * np.float32(1 / along) + a * np.float32(spread)
    v = (y - q[1] * d) * np.float32(1 / along) + b * np.float32(spread)
    edge = opening.outline(torch.from_numpy(np.arctan2(v, u))).numpy() * radius
    share = np.pi * spread**2 / (opening_area(opening) * radius**2)
    return (u, v), np.where(u * u + v * v <= edge * edge, np.float32(share), np.float32(0))
