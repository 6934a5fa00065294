"""Bars, leaves and blobs right in front of the lens, put before a clip: what photographs are full of and scenes seldom have.

Special: what lies behind is known, so the light around an edge is exact: the thing's blurred coverage lets through what the
photograph shows without it. The label is the label's own formula at the thing's depth.

Shape letters: T = frames of a clip; H, W = picture; h, w = canvas, the picture with a border that blur reaches in from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.optics import Aperture, Lens, defocus_px, linear_to_srgb, srgb_to_linear
from pipeline.optics.kernels import aperture_kernel
from pipeline.optics.labels import signed_label_px

Rng = np.random.Generator
Plane = npt.NDArray[np.float32]

LEAST_RADIUS_PX, LARGEST_RADIUS_PX = (
    4.0,
    30.0,
)  # of the blur that is drawn for; where the scene itself is near, it is more
SHARP_RADIUS_PX = 1.0  # less blur than this is not rendered
MOST_THINGS = 2
BORDER_PX = 40
RADIUS_STEP_PX = 0.25  # kernels are made for these
SUBPIXEL_BITS = 4  # of the corners that are drawn
MOST_SPEED_PX = 3.0  # from frame to frame, each way
NEARER = 0.95  # than the nearest of the scene


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip before things are put in front of it.

    Args:
        frames: (T, 3, H, W) sRGB, all in focus.
        photos: (T, 3, H, W) sRGB, its photographs.
        depth_m: (T, 1, H, W).
        signed_px: (T, 1, H, W) the label.
        lenses: one per frame.
        px_per_mm: of the picture.
        limit_px: where labels saturate.
        aperture: the opening.
    """

    frames: Tensor
    photos: Tensor
    depth_m: Tensor
    signed_px: Tensor
    lenses: Sequence[Lens]
    px_per_mm: float
    limit_px: float
    aperture: Aperture


def occluded(scene: Scene, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
    """Put one or two things in front of a clip; they move evenly, and their blur follows a focus that travels.

    Returns:
        (T, 3, H, W) frames and photographs, and the (T, 1, H, W) label.
    """
    frames, photos = srgb_to_linear(scene.frames), srgb_to_linear(scene.photos)
    signed, nearest_m = scene.signed_px.clone(), float(scene.depth_m.min())
    height, width = frames.shape[-2:]
    for _ in range(int(rng.integers(1, MOST_THINGS + 1))):
        depth_m = _depth_for(rng, scene, nearest_m)
        nearest_m = depth_m
        coverage, light = _thing(rng, frames[0])
        speed = rng.uniform(-MOST_SPEED_PX, MOST_SPEED_PX, 2)
        for t, lens in enumerate(scene.lenses):
            radius = float(signed_label_px(torch.tensor([depth_m]), lens, scene.px_per_mm, scene.limit_px))
            shift = np.array([[1, 0, speed[0] * t], [0, 1, speed[1] * t]], np.float32)
            layer = np.dstack([light * coverage[..., None], coverage])
            size = (layer.shape[1], layer.shape[0])
            moved = np.asarray(cv2.warpAffine(layer, shift, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
            for planes, one in ((frames, moved), (photos, _blurred(moved, radius, scene.aperture))):
                shown = torch.from_numpy(one[BORDER_PX : BORDER_PX + height, BORDER_PX : BORDER_PX + width])
                planes[t] = planes[t] * (1 - shown[..., 3]) + shown[..., :3].permute(2, 0, 1)
            here = moved[BORDER_PX : BORDER_PX + height, BORDER_PX : BORDER_PX + width, 3] > 0.5
            signed[t, 0][torch.from_numpy(here)] = radius
    return linear_to_srgb(frames.clamp(0, 1)), linear_to_srgb(photos.clamp(0, 1)), signed


def _depth_for(rng: Rng, scene: Scene, nearest_m: float) -> float:
    """A depth in front of the scene whose blur in the first frame is drawn; metres."""
    lens = scene.lenses[0]
    wanted = math.exp(rng.uniform(math.log(LEAST_RADIUS_PX), math.log(LARGEST_RADIUS_PX)))
    # radius = gain * (1 / depth - 1 / focus), and at half of the focus distance that is gain / focus.
    halfway = torch.tensor([lens.focus_m / 2])
    gain = abs(float(defocus_px(halfway, lens, scene.px_per_mm))) * lens.focus_m
    return min(1 / (wanted / max(gain, 1e-6) + 1 / lens.focus_m), NEARER * nearest_m)


def _blurred(layer: Plane, signed_px: float, aperture: Aperture) -> Plane:
    """(h, w, 4) premultiplied light and coverage through the opening."""
    radius = round(signed_px / RADIUS_STEP_PX) * RADIUS_STEP_PX
    if abs(radius) < SHARP_RADIUS_PX:
        return layer
    # filter2D correlates; a kernel says where a point's light goes.
    kernel = aperture_kernel(aperture, radius, 1, 1.0).flip(0, 1).numpy()
    return np.asarray(cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)


def _thing(rng: Rng, frame: Tensor) -> tuple[Plane, Plane]:
    """(h, w) coverage, and (h, w, 3) linear light: a piece of the frame upside down, or one colour that shades off."""
    height, width = (side + 2 * BORDER_PX for side in frame.shape[-2:])
    canvas = np.zeros((height, width), np.uint8)
    kind = rng.choice(("bars", "leaves", "blob"), p=(0.45, 0.35, 0.2))
    for corners in {"bars": _bars, "leaves": _leaves, "blob": _blob}[kind](rng, height, width):
        placed = np.rint(np.asarray(corners) * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(canvas, [placed], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    bright = math.exp(rng.uniform(math.log(0.1), math.log(1.5)))
    if rng.random() < 0.6:
        picture = np.ascontiguousarray(frame.flip(-2).permute(1, 2, 0).numpy())
        border = ((BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX), (0, 0))
        light = np.pad(picture, border, mode="reflect") * bright
    else:
        colour = rng.uniform(0.02, 0.6, 3) * bright
        slope = 1 + rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, width) + np.zeros((height, 1))
        light = colour * slope[..., None]
    return (canvas / 255).astype(np.float32), np.clip(light, 0, 1).astype(np.float32)


def _bars(rng: Rng, height: int, width: int) -> list[npt.NDArray[np.float64]]:
    """One to five parallel bars, mostly upright or level."""
    angle = float(rng.choice((0.0, math.pi / 2, rng.uniform(0, math.pi)))) + rng.normal(0, 0.12)
    thick = math.exp(rng.uniform(math.log(3), math.log(45)))
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    centre = np.array([width, height]) * rng.uniform(0.1, 0.9, 2)
    found = []
    for number in range(int(rng.integers(1, 6))):
        middle = centre + across * number * thick * rng.uniform(2, 5)
        half = across * thick / 2
        far = along * (width + height)
        found.append(np.stack([middle - far - half, middle + far - half, middle + far + half, middle - far + half]))
    return found


def _leaves(rng: Rng, height: int, width: int) -> list[npt.NDArray[np.float64]]:
    """Up to 16 pointed ovals around one place."""
    centre = np.array([width, height]) * rng.uniform(0, 1, 2)
    spread, size = rng.uniform(15, 70), math.exp(rng.uniform(math.log(5), math.log(35)))
    found = []
    for _ in range(int(rng.integers(3, 17))):
        turn, long = rng.uniform(0, 2 * math.pi), size * rng.uniform(0.6, 1.5)
        place = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        oval = np.stack([long * np.cos(place), long * rng.uniform(0.2, 0.5) * np.sin(place) * np.abs(np.sin(place))], 1)
        spun = oval @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        found.append(centre + rng.normal(0, spread, 2) + spun)
    return found


def _blob(rng: Rng, height: int, width: int) -> list[npt.NDArray[np.float64]]:
    """One uneven shape that reaches in from a side."""
    side = np.array([(0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0)][int(rng.integers(4))])
    centre = np.array([width, height]) * np.clip(side + rng.uniform(-0.3, 0.3, 2), 0, 1)
    place = np.linspace(0, 2 * math.pi, 20, endpoint=False)
    radius = rng.uniform(40, 110) * (1 + rng.uniform(-0.3, 0.3, 20))
    return [centre + np.stack([radius * np.cos(place), radius * np.sin(place)], 1)]
