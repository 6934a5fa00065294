"""The all-in-focus frame of a scene with its depth, and the light along a batch of rays.

Frame and photograph (photograph.py) both use the scene's own focal length unless BOTH are given another one: the image
distance is f, so f is the field of view as well, and a frame only belongs to a photograph of the same f. The photograph
refuses a lens that disagrees.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.optics import linear_to_srgb
from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32, NEAR_M, SKY_DEPTH_M, Frozen
from pipeline.raytrace.hits import Rays, trace_nearest
from pipeline.raytrace.lamps import add_lamps
from pipeline.raytrace.shade import Sample, mirror_rays, shade
from pipeline.raytrace.world import RayScene, RaytraceError, World
from pipeline.seeds import stable_seed

# Rays traced together: enough to pay NumPy's overhead per shape, few enough to stay in the cache.
_RAYS_PER_FRAME_BATCH = 600_000


@dataclass(frozen=True)
class Frame:
    """One all-in-focus frame.

    Args:
        linear: (H, W, 3) float32 linear light, highlights above 1.
        depth_m: (H, W) float32 z-depth of the pixel centre, metres; 1000 where nothing is hit.
        f_m: focal length it was taken with, metres.
    """

    linear: F32
    depth_m: F32
    f_m: float

    @property
    def srgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: clipped at 1 and encoded."""
        return to_srgb8(self.linear)


def to_srgb8(linear: F32) -> NDArray[np.uint8]:
    """Clip linear light at 1, encode as sRGB and round to uint8; any shape."""
    encoded = linear_to_srgb(torch.from_numpy(np.ascontiguousarray(linear)).clamp(0, 1))
    return (encoded * 255).round().to(torch.uint8).numpy()


def render_frame(
    scene: RayScene, frame_index: float, *, width: int, height: int, supersample: int = 3, f_m: float | None = None
) -> Frame:
    """Everything in focus: the picture of a pinhole, and its depth.

    Args:
        scene: from `build_scene`.
        frame_index: >= 0; the frame is taken at frame_index / scene.fps seconds, any instant is allowed.
        width, height: pixels, > 0.
        supersample: samples along each side of a pixel, >= 1.
        f_m: focal length in metres, None for the scene's own.

    Returns:
        Linear light (H, W, 3) and z-depth (H, W) in metres at pixel centres.

    Raises:
        RaytraceError: a size or count is not positive.

    Example:
        >>> frame = render_frame(build_scene("bear"), 0, width=160, height=96)
        >>> frame.depth_m.shape
        (96, 160)
    """
    check_counts(width=width, height=height, supersample=supersample)
    world = scene.at(frame_index)
    focal = scene.f_m if f_m is None else f_m
    camera = Camera(world.pose, focal, width, height)
    count = supersample**2
    cell = (np.arange(count, dtype=np.float32) + 0.5) / supersample
    sub_x = (cell[:supersample][None, :] + np.zeros((supersample, 1), np.float32)).reshape(-1, 1, 1)
    sub_y = (cell[:supersample][:, None] + np.zeros((1, supersample), np.float32)).reshape(-1, 1, 1)
    rects = camera.rects(world.shapes)
    total = np.zeros((height, width, 3), np.float32)
    batch = max(1, _RAYS_PER_FRAME_BATCH // (width * height))
    for start in range(0, count, batch):
        chosen = slice(start, min(count, start + batch))
        rays = camera.rays(*camera.tangents(sub_x[chosen], sub_y[chosen]))
        cells = zip(sub_x[chosen].ravel().tolist(), sub_y[chosen].ravel().tolist(), strict=True)
        batch_samples = [
            Sample(index=start + k, count=count, jitter=(x - 0.5, y - 0.5)) for k, (x, y) in enumerate(cells)
        ]
        total += radiance(world, camera, rays, rects, batch_samples)
    total /= count
    add_lamps(total, world, camera, seed=stable_seed("frame", scene.name, scene.seed))
    centre = np.full((1, 1, 1), 0.5, np.float32)
    depth, _ = nearest_hits(world.shapes, camera.rays(*camera.tangents(centre, centre)), rects)
    return Frame(total, depth[0], focal)


def radiance(world: World, camera: Camera, rays: Rays, rects: NDArray[np.int64], batch_samples: list[Sample]) -> F32:
    """Sum over a batch of the light along its rays, (H, W, 3)."""
    depth, ids = nearest_hits(world.shapes, rays, rects)
    bounce = mirror_rays(world, camera, rays, ids, depth, batch_samples[0])
    bounced = None if bounce is None else nearest_hits(world.mirrored, bounce[0], bounce[1], t_min=1e-3)
    total = np.zeros((*rays.shape[1:], 3), np.float32)
    everything = slice(None)
    for k, sample in enumerate(batch_samples):
        one = slice(k, k + 1)
        light = shade(world, rays.window(one, everything, everything), ids[one], depth[one], sample)
        if bounce is not None and bounced is not None:
            share = bounce[2][k]
            where = np.flatnonzero(share.any(axis=1))
            if where.size:
                rows = slice(int(where[0]), int(where[-1]) + 1)
                part = bounce[0].window(one, rows, everything)
                seen = shade(world, part, bounced[1][one, rows], bounced[0][one, rows], sample, mirror=True)
                light[rows] += (seen - light[rows]) * share[rows][..., None]
        total += light
    return total


def nearest_hits(
    shapes: Frozen, rays: Rays, rects: NDArray[np.int64], t_min: float = NEAR_M
) -> tuple[F32, NDArray[np.int16]]:
    depth = np.full(rays.shape, SKY_DEPTH_M, np.float32)
    ids = np.full(rays.shape, -1, np.int16)
    trace_nearest(shapes, rays, rects, depth, ids, t_min)
    return depth, ids


def check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise RaytraceError(f"{name} must be at least 1, got {value}")
