"""The photograph through a lens: the truth that lens renderers are measured against, and its own error."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.measures import psnr
from pipeline.optics import Aperture, Lens
from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.lamps import add_lamps
from pipeline.raytrace.lens_samples import inside, strata, to_opening
from pipeline.raytrace.render import check_counts, radiance
from pipeline.raytrace.shade import Sample
from pipeline.raytrace.world import RayScene, RaytraceError
from pipeline.seeds import stable_seed

# Rays traced together: enough to pay NumPy's overhead per shape, few enough to stay in the cache.
_RAYS_PER_BATCH = 250_000


def render_photograph(
    scene: RayScene,
    frame_index: float,
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
    check_counts(width=width, height=height, samples=samples, workers=workers)
    _check_lens(scene, lens, f_m)
    opening = aperture or Aperture()
    world = scene.at(frame_index)
    camera = Camera(world.pose, lens.f_m, width, height)
    lens_cells = strata(samples)
    seed = stable_seed("photograph", scene.name, scene.seed, _whole(frame_index), samples, sample_set)
    # Which stratum of the pixel goes with which stratum of the lens: shuffled, so that the two are independent.
    pixel_cells = lens_cells[np.random.Generator(np.random.PCG64(seed)).permutation(samples)]
    batch = max(1, _RAYS_PER_BATCH // (width * height))

    def trace(start: int) -> F32:
        chosen = slice(start, min(samples, start + batch))
        rng = np.random.Generator(np.random.PCG64(stable_seed("batch", seed, start)))
        count = chosen.stop - start
        size = (count, height, width)
        a, b = inside(lens_cells[chosen], rng, size)
        sub_x, sub_y = inside(pixel_cells[chosen], rng, size)
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
        return radiance(world, camera, rays, camera.rects(world.shapes, box, lens.focus_m), batch_samples)

    picture = np.zeros((height, width, 3), np.float32)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(trace, range(0, samples, batch)):  # in order: sums do not depend on timing
            picture += part
    picture /= np.float32(samples)
    add_lamps(picture, world, camera, lens, opening, samples=samples, seed=seed)
    return picture


def _whole(frame_index: float) -> int | str:
    return int(frame_index) if frame_index == int(frame_index) else repr(frame_index)


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

    Of two photographs with different `sample_set` it states the error of the truth itself: each of them is 3 dB closer
    to the limit of many samples than they are to each other, and their mean is 6 dB closer.
    """
    return psnr(np.clip(first, 0, peak), np.clip(second, 0, peak), peak)
