"""The two pictures of a scene: the all-in-focus frame with its depth, and the photograph through a lens.

Both use the scene's own focal length unless BOTH are given another one: the image distance is f, so f is the field of
view as well, and a frame only belongs to a photograph of the same f. The photograph refuses a lens that disagrees.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.optics import Aperture, Lens, linear_to_srgb, stable_seed
from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32, NEAR_M, SKY_DEPTH_M, Rays, trace_nearest
from pipeline.raytrace.lens_samples import strata, to_opening
from pipeline.raytrace.shade import Sample, mirror_rays, shade
from pipeline.raytrace.world import RayScene, RaytraceError, World

# Samples traced together: enough to pay NumPy's overhead per shape, few enough to stay in the cache.
_RAYS_PER_BATCH = 250_000
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
    scene: RayScene, frame_index: int, *, width: int, height: int, supersample: int = 3, f_m: float | None = None
) -> Frame:
    """Everything in focus: the picture of a pinhole, and its depth.

    Args:
        scene: from `build_scene`.
        frame_index: >= 0; the frame is taken at frame_index / scene.fps seconds.
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
    _check(width=width, height=height, supersample=supersample)
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
        total += _radiance(world, camera, rays, rects, batch_samples)
    centre = np.full((1, 1, 1), 0.5, np.float32)
    depth, _ = _nearest(world, camera.rays(*camera.tangents(centre, centre)), rects)
    return Frame(total / count, depth[0], focal)


def render_photograph(
    scene: RayScene,
    frame_index: int,
    lens: Lens,
    aperture: Aperture | None = None,
    *,
    width: int,
    height: int,
    samples: int = 256,
    sample_set: int = 0,
    f_m: float | None = None,
    workers: int = 2,
) -> F32:
    """What a lens of diameter f/N focused at S records, image distance f: the truth for lens renderers.

    Every pixel gets `samples` rays, stratified over the area of the opening and, independently, over the area of the
    pixel. A point at depth d moves with the lens point u (picture axes, x right, y up, in units of the opening's radius)
    by defocus_px(d, lens, px_per_mm) * u: behind the focus plane a highlight shows the opening upright, in front of it
    turned by 180 degrees.

    Args:
        scene: from `build_scene`.
        frame_index: >= 0.
        lens: contract model; its focal length must be the scene's (make it with `scene.lens(f_number, focus_m)`) or
            equal `f_m`.
        aperture: shape of the opening, a disc if None.
        width, height: pixels, > 0.
        samples: rays per pixel, >= 1.
        sample_set: picks an independent set of samples; two of them measure the error of this truth.
        f_m: say so explicitly when the lens has another focal length than the scene; `render_frame` needs the same.
        workers: threads; the result does not depend on it.

    Returns:
        (H, W, 3) float32 linear light without upper bound.

    Raises:
        RaytraceError: a size is not positive, or the lens does not belong to the scene.
    """
    _check(width=width, height=height, samples=samples, workers=workers)
    _check_lens(scene, lens, f_m)
    opening = aperture or Aperture()
    world = scene.at(frame_index)
    camera = Camera(world.pose, lens.f_m, width, height)
    lens_cells = strata(samples)
    seed = stable_seed("photograph", scene.name, scene.seed, frame_index, samples, sample_set)
    # Which stratum of the pixel goes with which stratum of the lens: shuffled, so that the two are independent.
    pixel_cells = lens_cells[np.random.Generator(np.random.PCG64(seed)).permutation(samples)]
    batch = max(1, _RAYS_PER_BATCH // (width * height))

    def trace(start: int) -> F32:
        chosen = slice(start, min(samples, start + batch))
        rng = np.random.Generator(np.random.PCG64(stable_seed("batch", seed, start)))
        count = chosen.stop - start
        noise = rng.random((4, count, height, width), dtype=np.float32)
        a, b = _inside(lens_cells[chosen], noise[0], noise[1])
        sub_x, sub_y = _inside(pixel_cells[chosen], noise[2], noise[3])
        radius = np.float32(lens.f_m / lens.f_number / 2)
        lens_x, lens_y = to_opening(a, b, opening)
        lens_x, lens_y = lens_x * radius, lens_y * radius
        box = (float(lens_x.min()), float(lens_x.max()), float(lens_y.min()), float(lens_y.max()))
        rays = camera.rays(*camera.tangents(sub_x, sub_y), (lens_x, lens_y), lens.focus_m)
        middles = (pixel_cells[chosen, :2] + pixel_cells[chosen, 2:] / 2 - 0.5).tolist()
        batch_samples = [
            Sample(index=start + k, count=samples, jitter=(x, y), lens_box=box, focus_m=lens.focus_m)
            for k, (x, y) in enumerate(middles)
        ]
        return _radiance(world, camera, rays, camera.rects(world.shapes, box, lens.focus_m), batch_samples)

    picture = np.zeros((height, width, 3), np.float32)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(trace, range(0, samples, batch)):  # in order: sums do not depend on timing
            picture += part
    return picture / np.float32(samples)


def _inside(cells: NDArray[np.float64], noise_x: F32, noise_y: F32) -> tuple[F32, F32]:
    x, y, w, h = (cells[:, i].astype(np.float32)[:, None, None] for i in range(4))
    return x + w * noise_x, y + h * noise_y


def _radiance(world: World, camera: Camera, rays: Rays, rects: NDArray[np.int64], batch_samples: list[Sample]) -> F32:
    """Sum over a batch of the light along its rays, (H, W, 3)."""
    depth, ids = _nearest(world, rays, rects)
    bounce = mirror_rays(world, camera, rays, ids, depth, batch_samples[0])
    bounced = None if bounce is None else _nearest(world, bounce[0], bounce[1], t_min=1e-3)
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
                seen = shade(world, part, bounced[1][one, rows], bounced[0][one, rows], sample)
                light[rows] += (seen - light[rows]) * share[rows][..., None]
        total += light
    return total


def _nearest(
    world: World, rays: Rays, rects: NDArray[np.int64], t_min: float = NEAR_M
) -> tuple[F32, NDArray[np.int16]]:
    depth = np.full(rays.shape, SKY_DEPTH_M, np.float32)
    ids = np.full(rays.shape, -1, np.int16)
    trace_nearest(world.shapes, rays, rects, depth, ids, t_min)
    return depth, ids


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise RaytraceError(f"{name} must be at least 1, got {value}")


def _check_lens(scene: RayScene, lens: Lens, f_m: float | None) -> None:
    if lens.coc_model != "contract":
        raise RaytraceError(
            f"the ray tracer holds the image distance at f: coc_model must be 'contract', got {lens.coc_model!r}"
        )
    expected = scene.f_m if f_m is None else f_m
    if abs(lens.f_m - expected) > 1e-9:
        raise RaytraceError(
            f"lens.f_m is {lens.f_m} m but this picture's focal length is {expected} m, which also sets the field of "
            f"view; use scene.lens(f_number, focus_m), or pass f_m={lens.f_m} to render_frame and render_photograph"
        )


def psnr_db(first: F32, second: F32, peak: float = 1.0) -> float:
    """Agreement of two linear pictures, both clipped to [0, peak], in dB; infinite when equal.

    The error of the truth itself is psnr_db of two photographs with different `sample_set`, plus 6 dB for the mean of
    both against the limit of many samples.
    """
    difference = np.clip(first, 0, peak).astype(np.float64) - np.clip(second, 0, peak)
    error = float(np.mean(difference**2))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))
