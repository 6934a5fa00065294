"""Exact optical flow between any two instants of a scene, with occlusion.

Nothing is estimated: the point that a pixel's centre shows is kept in the coordinates of its own shape, carried to the
other instant by the motion of shape and camera, and projected. Whether it is seen there a ray decides, sent from the
camera through exactly that place. What it is not: the motion of shadows, reflections or highlights; flow follows surfaces.

Legend: H x W pixels of the first frame, P shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raytrace.camera import Camera
from pipeline.raytrace.geometry import F32, F64, NEAR_M, Frozen
from pipeline.raytrace.render import check_counts, nearest_hits
from pipeline.raytrace.world import RayScene, RaytraceError

# A surface hides a point when it is nearer by more than rounding and by more than the step between two overlapping
# parts of one body, metres: a part of the depth, and a constant.
HIDES_RELATIVE, HIDES_M = 2e-4, 5e-4


@dataclass(frozen=True)
class Flow:
    """Where the points of one frame lie in another.

    Args:
        flow_px: (H, W, 2) float32, x right and y down: the surface point at the centre of pixel (x, y) is at
            (x, y) + flow_px in the other frame. Right for hidden points too, 0 for those behind the other camera.
        occluded: (H, W) bool, True where that point is not seen in the other frame: hidden, turned away or outside.
    """

    flow_px: F32
    occluded: NDArray[np.bool_]


def exact_flow(scene: RayScene, first: float, seconds: Sequence[float], *, width: int, height: int) -> list[Flow]:
    """Flow from one instant to others; the first frame is traced once.

    Args:
        scene: its moving shapes must be the same ones in the same order at all times.
        first: frame whose pixels are followed, >= 0; not only whole numbers.
        seconds: frames to follow them to.
        width, height: pixels, > 0.

    Returns:
        One `Flow` for each of `seconds`.

    Raises:
        RaytraceError: a size is not positive, a frame negative, or the shapes of two frames differ.

    Example:
        >>> forward, backward = exact_flow(build_scene("bear"), 3, (4, 2), width=64, height=48)
        >>> forward.flow_px.shape
        (48, 64, 2)
    """
    check_counts(width=width, height=height)
    shapes, pose = scene.geometry(first)
    camera = Camera(pose, scene.f_m, width, height)
    centre = np.full((1, 1, 1), 0.5, np.float32)
    rays = camera.rays(*camera.tangents(centre, centre))
    depth, ids = (part[0] for part in nearest_hits(shapes, rays, camera.rects(shapes)))
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    direction = (
        pose.forward
        + ((columns - width / 2) / camera.focal_px)[..., None] * pose.right
        + ((height / 2 - rows) / camera.focal_px)[..., None] * pose.up
    )
    flows = []
    for second in seconds:
        after, pose_after = scene.geometry(second)
        _check_same(shapes, after, scene.name, first, second)
        ahead = direction.copy()  # the sky lies at infinity: only the camera's turning moves it
        hit = ids >= 0
        point = pose.position + direction[hit] * depth[hit][:, None]
        ahead[hit] = _carry(shapes, after, ids[hit], point) - pose_after.position
        flows.append(_project(after, Camera(pose_after, scene.f_m, width, height), ahead, ids, (columns, rows)))
    return flows


def _carry(before: Frozen, after: Frozen, ids: NDArray[np.int16], point: F64) -> F64:
    """Surface points (n, 3) at the other instant, world metres; each keeps its place in its shape."""
    motion = np.einsum("pij,pjk->pik", after.axes, before.inverse)
    return np.einsum("nij,nj->ni", motion[ids], point - before.centre[ids]) + after.centre[ids]


def _project(after: Frozen, camera: Camera, ahead: F64, ids: NDArray[np.int16], here: tuple[F64, F64]) -> Flow:
    """Where points (H, W, 3), given from the camera, lie in its picture, and which of them it sees."""
    pose, (columns, rows) = camera.pose, here
    right, up, z = ahead @ pose.right, ahead @ pose.up, ahead @ pose.forward
    before_camera = z > NEAR_M
    before_camera[ids < 0] = z[ids < 0] > 0
    safe = np.where(before_camera, z, 1.0)
    qx, qy = np.where(before_camera, right / safe, 0.0), np.where(before_camera, up / safe, 0.0)
    x, y = qx * camera.focal_px + camera.width / 2, camera.height / 2 - qy * camera.focal_px
    inside = before_camera & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    rays = camera.rays(qx[None].astype(np.float32), qy[None].astype(np.float32))
    nearest, hit = (part[0] for part in nearest_hits(after, rays, _windows(camera.rects(after), x, y, inside)))
    seen = np.where(ids < 0, hit < 0, nearest > z * (1 - HIDES_RELATIVE) - HIDES_M)
    flow = np.where(before_camera[..., None], np.stack([x - columns, y - rows], axis=-1), 0.0)
    return Flow(flow.astype(np.float32), ~(seen & inside))


def _windows(rects: NDArray[np.int64], x: F64, y: F64, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rays that each shape may stop, as a rectangle of the FIRST frame's pixels.

    `trace_nearest` tests a shape in one rectangle of rays, but these rays are ordered by where their points came from.
    The rectangle from the first to the last row and column with a ray inside the shape's bounds holds all of them.

    Args:
        rects: (P, 4) y0, y1, x0, x1 that the shapes cover in the second frame.
        x, y: (H, W) places of the points in the second frame, px.
        inside: (H, W) which of them count.
    """
    windows = np.zeros_like(rects)
    for axis, (place, low, high) in enumerate(((y, rects[:, 0], rects[:, 1]), (x, rects[:, 2], rects[:, 3]))):
        least = np.where(inside, place, np.inf).min(axis=1 - axis)
        most = np.where(inside, place, -np.inf).max(axis=1 - axis)
        meets = (most >= low[:, None]) & (least <= high[:, None]) & (high > low)[:, None]  # (P, H) or (P, W)
        some = meets.any(axis=1)
        windows[:, 2 * axis] = np.where(some, meets.argmax(axis=1), 0)
        windows[:, 2 * axis + 1] = np.where(some, meets.shape[1] - meets[:, ::-1].argmax(axis=1), 0)
    return windows


def _check_same(before: Frozen, after: Frozen, name: str, first: float, second: float) -> None:
    if not (np.array_equal(before.kind, after.kind) and np.array_equal(before.material, after.material)):
        raise RaytraceError(
            f"scene {name!r} has other shapes at frame {first} ({len(before)}) than at frame {second} ({len(after)}); "
            "flow needs the same shapes in the same order: keep what leaves the picture in the list"
        )
