"""Colour of rays: direct sun with shadows, sky light with occlusion, lamps, haze and wet mirrors.

Works on one sample per pixel at a time (H x W rays), as flat arrays. Sky light is computed without shadow and multiplied
with the share of it that nothing hides; sample k of a pixel looks at one group of sky directions, so that a pixel's nine
samples together see all of them for the price of two lookups each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32, Frozen
from pipeline.raytrace.hits import Rays, VectorField
from pipeline.raytrace.light import SKY_GROUPS, SKY_PER_GROUP, Lighting
from pipeline.raytrace.material import surface
from pipeline.raytrace.world import World

LIFT_M = 0.004  # points are lifted off their surface before a shadow lookup, or they would shade themselves


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which sample of the pixels is being traced.

    Args:
        index, count: this one and how many there are.
        jitter: in [-0.5, 0.5), shifts shadow lookups, spread evenly over the samples.
        lens_box: x_min, x_max, y_min, y_max of the lens points, metres.
        focus_m: focus distance, metres.
    """

    index: int
    count: int
    jitter: tuple[float, float]
    lens_box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    focus_m: float = 1.0


def shade(world: World, rays: Rays, ids: NDArray[np.int16], depth: F32, sample: Sample, *, mirror: bool = False) -> F32:
    """Radiance along rays whose nearest hits are known.

    Args:
        world: the instant.
        rays: (1, H, W) rays.
        ids: (1, H, W) shape hit, -1 for the sky.
        depth: (1, H, W) ray parameter of the hit, metres.
        sample: which sample of the pixels this is.
        mirror: rays that come from wet ground; they see `world.mirrored`. Rays from the camera see lamps as black, and
            `lamps.add_lamps` adds them with less noise.

    Returns:
        (H, W, 3) float32 linear light without upper bound.
    """
    height, width = rays.shape[1:]
    flat = ids.ravel()
    direction = [rays.direction.component(axis, rays.shape).ravel() for axis in range(3)]
    hit = np.flatnonzero(flat >= 0)
    out = np.empty((3, flat.size), np.float32)
    if hit.size < flat.size:
        sky = np.flatnonzero(flat < 0)
        for channel, value in enumerate(_sky(world.lighting, [d[sky] for d in direction])):
            out[channel, sky] = value
    if hit.size:
        t = depth.ravel()[hit]
        towards = [d[hit] for d in direction]
        origin = [rays.origin.component(axis, rays.shape).ravel()[hit] for axis in range(3)]
        point = [o + t * d for o, d in zip(origin, towards, strict=True)]
        colour = _lit(world, world.mirrored if mirror else world.shapes, flat[hit], point, towards, sample)
        if not mirror:
            colour[:, world.is_lamp[flat[hit]]] = 0
        keep = np.exp(t * (-1 / world.lighting.haze_m))
        for channel in range(3):
            haze = world.lighting.haze[channel]
            out[channel, hit] = haze + (colour[channel] - haze) * keep
    return out.T.reshape(height, width, 3)


def _sky(lighting: Lighting, direction: list[F32]) -> list[F32]:
    up = direction[1] / np.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
    blend = np.clip(up, 0, 1) ** 0.6
    sky = [h + (z - h) * blend for h, z in zip(lighting.horizon, lighting.zenith, strict=True)]
    if lighting.clouds is None:
        return sky
    size = lighting.clouds.shape[0]
    away = np.float32(size / 5) / (np.abs(up) + np.float32(0.12))  # a layer 5 times as wide as high, then it repeats
    scale = away * (up / np.where(direction[1] == 0, 1, direction[1]))
    u, v = (direction[0] * scale).astype(np.int32) % size, (direction[2] * scale).astype(np.int32) % size
    cover = lighting.clouds.ravel()[v * size + u] * np.clip(up * 5, 0, 1)
    return [s + (c - s) * cover for s, c in zip(sky, lighting.cloud, strict=True)]


def _lit(
    world: World,
    shapes: Frozen,
    ids: NDArray[np.int16],
    point: list[F32],
    towards: list[F32],
    sample: Sample,
) -> F32:
    """Reflected and emitted light at hit points, (3, n)."""
    lighting, count = world.lighting, ids.size
    normal, colour = np.empty((3, count), np.float32), np.empty((3, count), np.float32)
    glow, through = np.zeros((3, count), np.float32), np.zeros(count, np.float32)
    owner = world.shapes.material[ids]
    glows = translucent = False
    for index in np.flatnonzero(np.bincount(owner, minlength=len(world.materials))).tolist():
        material = world.materials[index]
        sel = np.flatnonzero(owner == index)
        picked = [p[sel] for p in point], [d[sel] for d in towards]
        part = surface(material, shapes, ids[sel], *picked, sample.jitter)
        for j in range(3):
            normal[j, sel], colour[j, sel] = part.normal[j], part.colour[j]
            if material.glow is not None:
                glow[j, sel] = material.glow[j] * part.colour[j]
                colour[j, sel] = 0
        glows |= material.glow is not None
        if material.through:
            through[sel] = material.through
            translucent = True
    lifted = [point[j] + normal[j] * np.float32(LIFT_M) for j in range(3)]
    light = _sky_light(world, normal, lifted, sample)
    if any(lighting.sun):
        s = np.asarray(lighting.sun_direction, np.float64)
        s = s / np.linalg.norm(s)
        facing = normal[0] * float(s[0]) + normal[1] * float(s[1]) + normal[2] * float(s[2])
        strength = np.maximum(facing, 0)
        if translucent:
            strength += through * np.maximum(-facing, 0)
        # Lift by the size of a texel as well: grazing surfaces cross many depths within one.
        map_lift = float(world.visibility.sun.texel.max()) * 1.5
        raised = [lifted[j] + normal[j] * np.float32(map_lift) for j in range(3)]
        strength *= world.visibility.sun.lit(
            raised[0], raised[1], raised[2], (sample.jitter[0] * 3, sample.jitter[1] * 3)
        )
        for j in range(3):
            light[j] += strength * lighting.sun[j]
    for position, intensity in lighting.lamps:
        _add_lamp(light, position, intensity, normal, point)
    light *= colour
    if glows:
        light += glow
    return light


def _sky_light(world: World, normal: F32, lifted: list[F32], sample: Sample) -> F32:
    lighting, maps = world.lighting, world.visibility.sky
    groups = range(sample.index % SKY_GROUPS, sample.index % SKY_GROUPS + 1)
    if sample.count < SKY_GROUPS:
        groups = range(sample.index % sample.count, SKY_GROUPS, sample.count)
    lift = float(maps[0].texel.max()) * 0.7
    raised = [lifted[j] + normal[j] * np.float32(lift) for j in range(3)]
    seen, total = np.full(normal.shape[1], 0.02, np.float32), np.full(normal.shape[1], 0.02, np.float32)
    for group in groups:
        for one in maps[group * SKY_PER_GROUP : (group + 1) * SKY_PER_GROUP]:
            d = one.towards
            weight = normal[0] * float(d[0]) + normal[1] * float(d[1]) + (normal[2] * float(d[2]) + 0.15)
            np.maximum(weight, 0, out=weight)
            total += weight
            weight *= one.lit(raised[0], raised[1], raised[2], (sample.jitter[0] * 2, sample.jitter[1] * 2))
            seen += weight
    open_sky = seen / total
    above = 0.5 + 0.5 * normal[1]
    light = np.empty_like(normal)
    for j in range(3):
        sky = 0.5 * (lighting.zenith[j] + lighting.horizon[j])
        # Bounced light reaches corners too, only less: half of it follows the occlusion.
        light[j] = above * sky * open_sky + (1 - above) * lighting.ground[j] * (0.5 + 0.5 * open_sky)
    return light


def _add_lamp(
    light: F32,
    position: tuple[float, float, float],
    intensity: tuple[float, float, float],
    normal: F32,
    point: list[F32],
) -> None:
    offset = [position[j] - point[j] for j in range(3)]
    squared = offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2] + 0.02
    facing = offset[0] * normal[0] + offset[1] * normal[1] + offset[2] * normal[2]
    strength = np.maximum(facing, 0) / (squared * np.sqrt(squared))
    for j in range(3):
        light[j] += strength * intensity[j]


def mirror_rays(
    world: World, camera: Camera, rays: Rays, ids: NDArray[np.int16], depth: F32, sample: Sample
) -> tuple[Rays, NDArray[np.int64], F32] | None:
    """The rays that wet ground (a horizontal mirror with ripples) sends on.

    Args:
        world, camera: the instant and the camera.
        rays: (K, H, W) camera rays.
        ids: (K, H, W) what they hit.
        depth: (K, H, W) where, metres.
        sample: holds for all K as far as lens and focus are concerned.

    Returns:
        The reflected rays, the pixels (P, 4) that each reflected shape may cover, and (K, H, W) the share of light that
        is reflected; None where nothing is wet.
    """
    wet = np.array([material.wet for material in world.materials], np.float32)[world.shapes.material]
    if not wet.any():
        return None
    strength = np.where(ids >= 0, wet[ids], 0)
    rows = np.flatnonzero(strength.any(axis=(0, 2)))
    if not rows.size:
        return None
    d = [rays.direction.component(axis, rays.shape) for axis in range(3)]
    x, y, z = (rays.origin.component(axis, rays.shape) + depth * d[axis] for axis in range(3))
    bump_x = 0.016 * np.sin(x * 9.0 + 2.0 * np.sin(z * 5.0)) + 0.012 * np.sin(x * 23.0 - z * 31.0)
    bump_z = 0.020 * np.sin(z * 13.0 + 2.0 * np.sin(x * 7.0)) + 0.014 * np.sin(z * 37.0 + x * 17.0)
    along = 2 * (d[0] * bump_x + d[1] + d[2] * bump_z)
    axes = (np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    reflected = (d[0] - along * bump_x, d[1] - along, d[2] - along * bump_z)
    zero = np.zeros(3)
    bounced = Rays(VectorField(zero, axes, (x, y, z)), VectorField(zero, axes, reflected), rays.shape)
    rects = camera.rects(world.mirrored, sample.lens_box, sample.focus_m)
    # Ripples of slope 0.03 move a reflection by up to 0.1 in tangent along the view and a third of that across it.
    margin_x, margin_y = round(0.03 * camera.focal_px), round(0.1 * camera.focal_px)
    rects = rects + np.array([-margin_y, margin_y, -margin_x, margin_x])
    rects[:, :2] = np.clip(rects[:, :2], int(rows[0]), int(rows[-1]) + 1)
    rects[:, 2:] = np.clip(rects[:, 2:], 0, camera.width)
    rects[wet > 0] = 0
    slant = np.clip(-d[1] / np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2), 0, 1)
    return bounced, rects, (strength * (0.04 + 0.96 * (1 - slant) ** 5)).astype(np.float32)
