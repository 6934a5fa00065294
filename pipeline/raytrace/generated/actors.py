"""What moves: rigid bodies on paths, walkers, animals; and the camera's paths.

An actor is a function of time that adds its shapes, always the same ones in the same order: flow follows them. A path is
a function of time to a position (metres) and a rotation (3, 3).
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.raytrace.camera import Pose
from pipeline.raytrace.generated.bodies import animal
from pipeline.raytrace.generated.palette import Palette
from pipeline.raytrace.geometry import F64, Point, Shapes
from pipeline.raytrace.light import RGB
from pipeline.raytrace.scenes.kit import person, turn

Actor = Callable[[float], Shapes]
Path = Callable[[float], tuple[F64, F64]]


def placed(body: Shapes, position: Point, rotation: F64 | None = None, scale: float = 1.0) -> Shapes:
    """A copy of a body, turned, enlarged and moved: rigid motion when called with the same scale at every time.

    Args:
        body: shapes around their own origin.
        position: where that origin goes, metres.
        rotation: (3, 3).
        scale: factor on its size; the places of its parts in a noise volume are kept.
    """
    matrix, out = np.eye(3) if rotation is None else rotation, Shapes()
    for i in range(len(body)):
        centre = matrix @ (body.centre[i] * scale) + np.asarray(position, dtype=np.float64)
        axes = matrix @ (body.axes[i] * scale)
        out.add(body.kind[i], centre, axes, body.material[i], body.tint[i], body.anchor[i])
    return out


def rigid(body: Shapes, path: Path, scale: float = 1.0) -> Actor:
    """An actor that carries a body along a path."""
    return lambda time_s: placed(body, *path(time_s), scale)


def cast_of(actors: Sequence[Actor]) -> Callable[[float], Shapes]:
    """All actors as one function of time, for `RayScene.moving`."""

    def moving(time_s: float) -> Shapes:
        shapes = Shapes()
        for actor in actors:
            shapes = shapes.extend(actor(time_s))
        return shapes

    return moving


def straight(start: Point, velocity: Point, *, spin: Point = (0.0, 0.0, 0.0)) -> Path:
    """Constant velocity (m/s) and constant spin about y, x, z (radians a second)."""
    at, v, w = (np.asarray(p, dtype=np.float64) for p in (start, velocity, spin))
    return lambda t: (at + v * t, turn(yaw=float(w[0] * t), pitch=float(w[1] * t), roll=float(w[2] * t)))


def bouncing(start: Point, velocity: Point, *, height: float, period_s: float, phase: float, radius: float) -> Path:
    """A rolling, bouncing thing: straight over the ground, parabolas above it."""
    at, v = np.asarray(start, dtype=np.float64), np.asarray(velocity, dtype=np.float64)

    def path(t: float) -> tuple[F64, F64]:
        u = (t / period_s + phase) % 1.0
        up = np.array([0.0, 4 * height * u * (1 - u), 0.0])
        return at + v * t + up, turn(roll=float(-np.hypot(v[0], v[2]) * np.sign(v[0] or 1.0) / radius * t))

    return path


def swinging(pivot: Point, length: float, amplitude: float, period_s: float, phase: float) -> Path:
    """A pendulum across the picture; the body hangs `length` metres below the pivot."""
    hook = np.asarray(pivot, dtype=np.float64)

    def path(t: float) -> tuple[F64, F64]:
        angle = amplitude * float(np.sin(2 * np.pi * t / period_s + phase))
        return hook + length * np.array([np.sin(angle), -np.cos(angle), 0.0]), turn(roll=angle)

    return path


def walker(
    palette: Palette, start: Point, speed: float, heading: float, *, tall: float = 1.75, phase: float = 0.0
) -> Actor:
    """A person in drawn clothes who walks on at a speed (m/s); 0 swings on the spot. `heading` 0 is towards +x."""
    coat, legs = palette.colour((0.1, 0.7), (0.2, 0.85)), palette.colour((0.03, 0.25), (0.1, 0.6))
    hat: RGB | None = palette.colour((0.1, 0.6)) if palette.rng.random() < 0.5 else None
    at, rotation, scale = np.asarray(start, dtype=np.float64), turn(yaw=heading), tall / 1.75
    step = 2 * np.pi * max(abs(speed), 0.5) / (1.25 * scale)

    def actor(time_s: float) -> Shapes:
        body = Shapes()
        person(body, (0.0, 0.0), step * time_s + phase, 0.0, coat, legs, hat)
        return placed(body, at + rotation @ np.array([speed * time_s, 0, 0]), rotation, scale)

    return actor


def beast(palette: Palette, start: Point, speed: float, heading: float, *, phase: float = 0.0) -> Actor:
    """A four-legged animal of drawn build and colour that walks on at a speed (m/s)."""
    rng = palette.rng
    tall, neck, legs = float(rng.uniform(0.55, 1.3)), float(rng.uniform(0, 1)), float(rng.uniform(0.42, 0.6))
    coat = palette.near((0.30, 0.19, 0.10), 0.7)
    at, rotation = np.asarray(start, dtype=np.float64), turn(yaw=heading)
    step = 2 * np.pi * max(abs(speed), 0.3) / (0.96 * tall)

    def actor(time_s: float) -> Shapes:
        body = animal(palette, step * time_s + phase, tall=tall, coat=coat, neck=neck, legs=legs)
        return placed(body, at + rotation @ np.array([speed * time_s, 0, 0]), rotation)

    return actor


def camera_path(
    eye: Point, target: Point, *, truck: Point = (0.0, 0.0, 0.0), pan: Point = (0.0, 0.0, 0.0), shake: float = 0.0
) -> Callable[[float], Pose]:
    """A camera that starts at `eye` and looks at `target`.

    Args:
        eye, target: metres.
        truck: velocity of the camera and its target, m/s.
        pan: velocity of the target alone, m/s; with the negative of `truck` the camera goes around the target.
        shake: how far a hand shakes the target, metres; it is smooth and the same at every call.
    """
    at, to, v, w = (np.asarray(p, dtype=np.float64) for p in (eye, target, truck, pan))

    def path(t: float) -> Pose:
        wobble = [np.sin(9.1 * t + 0.3) + 0.6 * np.sin(17.3 * t), np.sin(7.7 * t + 1.9) + 0.5 * np.sin(19.9 * t), 0.0]
        return Pose.look_at(at + v * t, to + (v + w) * t + shake * np.array(wobble))

    return path
