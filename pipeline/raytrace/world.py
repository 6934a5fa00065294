"""A scene over time and its snapshot at one frame: what the tracer looks at."""

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.optics import Lens
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.geometry import ELLIPSOID, F32, Frozen, Shapes
from pipeline.raytrace.light import Lighting, ShadowMap, Visibility
from pipeline.raytrace.material import Material

LAMP_RADIANCE = 3.0
MIRROR_GROWTH = 2.5
SUN_TEXELS = 2048
MIRROR = np.array([1.0, -1.0, 1.0])  # the mirror image below the ground, y = 0: where reflections are looked for


class RaytraceError(ValueError):
    """A scene, size or lens that cannot be rendered; the message says what is allowed."""


@dataclass
class World:
    """One instant: all shapes, their materials, the light and where the camera stands."""

    shapes: Frozen
    materials: list[Material]
    lighting: Lighting
    visibility: Visibility
    pose: Pose
    radiance: F32 = field(init=False)  # (P, 3) emitted
    is_lamp: NDArray[np.bool_] = field(init=False)  # (P,) small and bright: sampled on its own, see lamps.py
    mirrored: Frozen = field(init=False)  # the shapes as wet ground shows them

    def __post_init__(self) -> None:
        glow = np.array([material.glow or (0.0, 0.0, 0.0) for material in self.materials], np.float32).reshape(-1, 3)
        self.radiance = glow[self.shapes.material] * self.shapes.tint
        self.is_lamp = (self.shapes.kind == ELLIPSOID) & (self.radiance.max(axis=1, initial=0.0) > LAMP_RADIANCE)
        # Wet stone is rough: it shows a lamp larger and as much dimmer, with the same energy. A sharp mirror of small
        # bright lamps would also be the noisiest part of every photograph.
        grow = np.where(self.is_lamp, MIRROR_GROWTH, 1.0)
        self.mirrored = copy(self.shapes)
        self.mirrored.axes = self.shapes.axes * grow[:, None, None]
        self.mirrored.inverse = self.shapes.inverse / grow[:, None, None]
        middle = self.shapes.centre[:, None]
        self.mirrored.corners = (middle + (self.shapes.corners - middle) * grow[:, None, None]) * MIRROR
        self.mirrored.tint = (self.shapes.tint / grow[:, None] ** 2).astype(np.float32)


@dataclass(kw_only=True)
class RayScene:
    """A scene as functions of time, independent of resolution.

    Args:
        name: which builder made it.
        seed: which variation.
        f_mm: focal length of its camera; frames and photographs use it unless both are given another.
        materials: by name.
        fixed: shapes that never move.
        moving: time in seconds -> shapes at that time.
            (of the same number and order at any time: shape i is the same body, which flow.py follows).
        path: time in seconds -> pose of the camera.
        lighting: sun, sky, lamps; or time in seconds -> those at that time.
        low, high: corners of the box in which shadows have detail, metres.
        fps: frames per second; frame i is taken at i / fps. Any number from 0 is a frame: 2.5 lies between 2 and 3.
    """

    name: str
    seed: int
    f_mm: float
    materials: Mapping[str, Material]
    fixed: Shapes
    moving: Callable[[float], Shapes]
    path: Callable[[float], Pose]
    lighting: Lighting | Callable[[float], Lighting]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    fps: float = 24.0
    _fixed_visibility: Visibility | None = field(default=None, repr=False)

    @property
    def f_m(self) -> float:
        """Focal length in metres."""
        return self.f_mm / 1000

    def lens(self, f_number: float, focus_m: float, f_m: float | None = None) -> Lens:
        """The lens that belongs to this scene's frames.

        Args:
            f_number: N.
            focus_m: focus distance, metres.
            f_m: another focal length, metres; the frame it is compared with must be rendered with the same `f_m`.
        """
        return Lens(f_m=self.f_m if f_m is None else f_m, f_number=f_number, focus_m=focus_m)

    def at(self, frame_index: float) -> World:
        """Freeze the scene at a frame.

        Args:
            frame_index: >= 0; not only whole numbers.

        Raises:
            RaytraceError: frame_index is negative or not finite.
        """
        time_s = self.time_of(frame_index)
        names, materials = list(self.materials), list(self.materials.values())
        lighting = self.lighting(time_s) if callable(self.lighting) else self.lighting
        moving = self.moving(time_s)
        moved = Frozen(moving, names)
        visibility = self._still(lighting, names, materials).draw(moved, _casts(moved, materials))
        shapes = Frozen(self.fixed.extend(moving), names)
        return World(shapes, materials, lighting, visibility, self.path(time_s))

    def time_of(self, frame_index: float) -> float:
        """The instant of a frame, seconds."""
        if not 0 <= frame_index < math.inf:
            raise RaytraceError(f"frame_index must be >= 0, got {frame_index}")
        return frame_index / self.fps

    def geometry(self, frame_index: float) -> tuple[Frozen, Pose]:
        """All shapes and the camera's pose at a frame, without light: what flow needs, at a tenth of the cost."""
        time_s = self.time_of(frame_index)
        return Frozen(self.fixed.extend(self.moving(time_s)), list(self.materials)), self.path(time_s)

    def _still(self, lighting: Lighting, names: list[str], materials: list[Material]) -> Visibility:
        """Shadow maps of what never moves, kept from frame to frame; the sun's is drawn again where the sun moves."""
        kept, low, high = self._fixed_visibility, np.array(self.low, np.float64), np.array(self.high, np.float64)
        towards = np.asarray(lighting.sun_direction, np.float64) / np.linalg.norm(lighting.sun_direction)
        if kept is None or not np.array_equal(kept.sun.towards, towards):
            size = SUN_TEXELS if any(lighting.sun) else 1
            still = Frozen(self.fixed, names)
            casts = _casts(still, materials)
            if kept is None:
                kept = Visibility.empty(lighting.sun_direction, low, high, sun_size=size).draw(still, casts)
            else:
                kept = Visibility(ShadowMap(towards, low, high, size).draw(still, casts), kept.sky)
            self._fixed_visibility = kept
        return kept


def _casts(shapes: Frozen, materials: list[Material]) -> np.ndarray:
    return np.array([material.casts for material in materials])[shapes.material]
