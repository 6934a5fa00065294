"""The pinhole camera and its lens: which ray belongs to which pixel and lens point.

One geometry for both pictures. The all-in-focus frame uses the lens point u = 0; the photograph uses many, and the ray
of a pixel runs from u to the point of the plane z = S that the pinhole ray of the same pixel meets. Hence a point at
depth d appears in the picture at

    q(u) = q(0) + u * (1/S - 1/d)          (tangent units; times focal length in px for pixels)

Orientation, with u measured in the picture's own axes (x right, y up, seen from behind the camera): a highlight BEHIND
the focus plane shows the opening upright (lens point +x lands at +x), one IN FRONT shows it turned by 180 degrees. In
units of the opening's radius the shift is `defocus_px(d) * u`, with the sign of `defocus_px` (positive behind).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.optics import SENSOR_WIDTH_MM, px_per_mm
from pipeline.raytrace.geometry import F32, F64, NEAR_M, PLANE, Frozen, Point
from pipeline.raytrace.hits import Rays, VectorField


@dataclass(frozen=True)
class Pose:
    """Where the camera stands: position and the three unit vectors right, up, forward in world metres."""

    position: F64
    right: F64
    up: F64
    forward: F64

    @staticmethod
    def look_at(position: Point, target: Point) -> "Pose":
        """A level camera at `position` that looks at `target`."""
        eye = np.asarray(position, dtype=np.float64)
        forward = np.asarray(target, dtype=np.float64) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(np.array([0.0, 1.0, 0.0]), forward)  # x right, y up, z forward: a left-handed picture frame
        right /= np.linalg.norm(right)
        return Pose(eye, right, np.cross(forward, right), forward)


@dataclass(frozen=True)
class Camera:
    """A pose with an image size and a focal length.

    Args:
        pose: where it stands.
        f_m: focal length and image distance, metres.
        width: full frame width, pixels.
        height: full frame height, pixels.
    """

    pose: Pose
    f_m: float
    width: int
    height: int

    @property
    def focal_px(self) -> float:
        """Focal length in pixels of this frame."""
        return self.f_m * 1000 * px_per_mm(self.width, SENSOR_WIDTH_MM)

    def tangents(self, sub_x: F32, sub_y: F32, window: tuple[int, int, int, int] | None = None) -> tuple[F32, F32]:
        """Picture coordinates of sample positions inside pixels.

        Args:
            sub_x, sub_y: broadcastable to (K, H, W), position inside the pixel in [0, 1); 0.5 is the centre, y down.
            window: y0, y1, x0, x1 in pixels; None is the whole frame.

        Returns:
            Two arrays that broadcast to (K, H, W): x right and y up, in units of the image distance.
        """
        y0, y1, x0, x1 = window or (0, self.height, 0, self.width)
        columns = np.arange(x0, x1, dtype=np.float32)[None, None, :] - self.width / 2
        rows = np.arange(y0, y1, dtype=np.float32)[None, :, None] - self.height / 2
        inv = np.float32(1 / self.focal_px)
        return (columns + sub_x) * inv, (-rows - sub_y) * inv

    def rays(self, qx: F32, qy: F32, lens: tuple[F32, F32] | None = None, focus_m: float = 1.0) -> Rays:
        """World rays whose parameter is z-depth.

        Args:
            qx, qy: from `tangents`.
            lens: lens point of every ray, two arrays (K, H, W), metres, x right and y up; None is the pinhole.
            focus_m: distance of the plane in focus, metres; without effect for the pinhole.
        """
        pose = self.pose
        basis = (pose.right, pose.up)
        origin = VectorField(pose.position)
        if lens is not None:
            qx, qy = qx - lens[0] * np.float32(1 / focus_m), qy - lens[1] * np.float32(1 / focus_m)
            origin = VectorField(pose.position, basis, lens)
        k, height, width = np.broadcast_shapes(qx.shape, qy.shape)
        return Rays(origin, VectorField(pose.forward, basis, (qx, qy)), (k, height, width))

    def rects(
        self,
        shapes: Frozen,
        lens_box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        focus_m: float = 1.0,
    ) -> NDArray[np.int64]:
        """The pixels that each shape may cover for any lens point in a box.

        Args:
            shapes: P shapes.
            lens_box: x_min, x_max, y_min, y_max of the lens points, metres.
            focus_m: focus distance, metres.

        Returns:
            (P, 4) y0, y1, x0, x1; the whole frame for planes and shapes that reach behind the camera.
        """
        local = (shapes.corners - self.pose.position) @ np.stack([self.pose.right, self.pose.up, self.pose.forward], 1)
        z = local[..., 2]
        behind = (z < NEAR_M).all(axis=1)
        everywhere = (z < NEAR_M).any(axis=1) | (shapes.kind == PLANE)
        z = np.maximum(z, NEAR_M)
        spread = 1 / focus_m - 1 / z

        def bounds(axis: int, low: float, high: float) -> tuple[F64, F64]:
            q = local[..., axis] / z
            ends = np.concatenate([q + low * spread, q + high * spread], axis=1)
            return ends.min(axis=1), ends.max(axis=1)

        left, right = bounds(0, lens_box[0], lens_box[1])
        bottom, top = bounds(1, lens_box[2], lens_box[3])
        f = self.focal_px
        pixel = np.stack(
            [
                np.floor(self.height / 2 - top * f) - 1,
                np.ceil(self.height / 2 - bottom * f) + 1,
                np.floor(self.width / 2 + left * f) - 1,
                np.ceil(self.width / 2 + right * f) + 1,
            ],
            axis=1,
        )
        rects = np.clip(pixel, 0, (self.height, self.height, self.width, self.width)).astype(np.int64)
        rects[everywhere] = (0, self.height, 0, self.width)
        rects[behind & (shapes.kind != PLANE)] = 0
        return rects
