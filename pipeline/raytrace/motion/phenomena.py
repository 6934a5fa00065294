"""The hypothesis' own test set: clips of one phenomenon each, on two stages, all of them by hand.

Speeds are chosen in pixels: at 256 px width and 35 mm a thing that crosses the picture at v m/s and z metres moves
10.4 v / z pixels a frame (24 frames a second).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.raytrace.camera import Pose
from pipeline.raytrace.generated import actors, bodies
from pipeline.raytrace.generated.light import changing, step, wave
from pipeline.raytrace.generated.palette import Palette
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import Lighting
from pipeline.raytrace.motion.stages import STAGES, Look, sizes_of
from pipeline.raytrace.textures import generator
from pipeline.raytrace.world import RayScene

PHENOMENA = ("occluder", "fast", "wheel", "legs", "fence", "light", "overlay", "control")
BEGINS_S, PACES, ASIDE_M = (0.1, 0.5), (0.8, 1.25), 0.15  # of test sets with a seed: bounds of what is drawn
Light = Lighting | Callable[[float], Lighting]


@dataclass(frozen=True)
class Plan:
    """What plays on a stage.

    Args:
        cast: the actors.
        path: the camera.
        light: None for the stage's own.
        extra: shapes that stand still besides the stage.
        overlay: kind and text of a static overlay.
    """

    cast: Sequence[actors.Actor]
    path: Callable[[float], Pose]
    light: Callable[[Lighting], Light] | None = None
    extra: Shapes | None = None
    overlay: tuple[str, str] | None = None


def _occluder(palette: Palette, stage: str) -> Plan:
    if stage == "square":  # a poster column passes 2.2 m away, 9.5 px a frame
        body, posters = Shapes(), palette.picture()
        body.cylinder((0, 0, 0), (0, 2.4, 0), 0.34, "stone", tint=(0.25, 0.33, 0.30))
        for y in (0.5, 1.1, 1.7):
            body.rect((0, y, -0.345), (0.3, 0, 0), (0, 0.26, 0), posters)
        column = actors.rigid(body, actors.straight((-1.5, 0, 2.2), (2.0, 0, 0)))
        walker = actors.walker(palette, (0.6, 0, 5.0), 0.5, np.pi)
        return Plan([column, walker], actors.camera_path((0, 1.3, 0), (0, 1.3, 6), truck=(0.25, 0, 0)))
    near = actors.walker(palette, (-1.6, 0, 2.0), 1.7, 0.0)
    far = actors.walker(palette, (1.7, 0, 3.3), 1.5, np.pi, phase=1.0)
    return Plan([near, far], actors.camera_path((0.2, 1.35, 0), (0.2, 1.4, 6), truck=(0.1, 0, 0)))


def _fast(palette: Palette, stage: str) -> Plan:
    if stage == "square":  # three balls on ropes, up to 18 px a frame
        swings = []
        for x, z, phase in ((-1.2, 4.2, 0.0), (0.2, 3.5, 2.1), (1.5, 4.8, 4.2)):
            body = bodies.ball(palette, 0.26)
            body.cylinder((0, 0, 0), (0, 1.7, 0), 0.012, "iron")
            swings.append(actors.rigid(body, actors.swinging((x, 2.6, z), 1.7, 0.85, 1.3, phase)))
        return Plan(swings, actors.camera_path((0, 1.3, 0), (0, 1.35, 6)))

    def path(t: float) -> Pose:  # the camera looks left and right, up to 16 px a frame
        return Pose.look_at((0.2, 1.4, 0), (1.5 * np.sin(2 * np.pi * t), 1.5 + 0.2 * np.sin(4 * np.pi * t), 6))

    return Plan([actors.walker(palette, (0.4, 0, 4.0), 0.8, np.pi)], path)


def _wheel(palette: Palette, stage: str) -> Plan:
    if stage == "square":  # 12 spokes, 12.5 degrees a frame, before the wall
        big = bodies.wheel(palette, 0.95, 12)
        small = bodies.wheel(palette, 0.5, 8)
        stand = Shapes()
        for x, y, z in ((-0.45, 1.15, 3.6), (1.15, 0.85, 3.3)):
            stand.cylinder((x, 0, z + 0.12), (x, y, z + 0.12), 0.04, "iron")
        first = actors.rigid(big, actors.straight((-0.45, 1.15, 3.6), (0, 0, 0), spin=(0, 0, -5.24)))
        second = actors.rigid(small, actors.straight((1.15, 0.85, 3.3), (0, 0, 0), spin=(0, 0, 7.8)))
        return Plan([first, second], actors.camera_path((0, 1.2, 0), (0, 1.1, 6), truck=(0.15, 0, 0)), extra=stand)
    # A cart is pulled along at 3 m/s and the camera keeps up: 12 spokes and 26 degrees a frame, so they seem to turn back.
    body, v = Shapes(), 3.0
    body.box((0, 0.62, 0.25), (0.75, 0.16, 0.3), palette.surface(0.7))
    body.cylinder((0.7, 0.55, 0.2), (1.3, 0.75, 0.2), 0.02, "iron")
    cart = actors.rigid(body, actors.straight((-3.2, 0, 3.1), (v, 0, 0)))
    wheels = [bodies.wheel(palette, 0.37, 12) for _ in range(2)]
    turning = [
        actors.rigid(one, actors.straight((-3.2 + x, 0.39, 3.05), (v, 0, 0), spin=(0, 0, -v / 0.37)))
        for one, x in zip(wheels, (-0.45, 0.45), strict=True)
    ]
    return Plan([cart, *turning], actors.camera_path((-3.1, 0.9, 0), (-3.1, 0.8, 4), truck=(2.9, 0, 0)))


def _legs(palette: Palette, stage: str) -> Plan:
    if stage == "square":
        pair = [actors.walker(palette, (x, 0, z), 1.5, 0.0, phase=p) for x, z, p in ((-1.9, 3.2, 0), (-1.2, 3.9, 1.7))]
        return Plan(pair, actors.camera_path((-1.5, 1.1, 0), (-1.4, 0.95, 4), truck=(1.4, 0, 0)))
    pair = [actors.beast(palette, (x, 0, z), 1.2, 0.0, phase=p) for x, z, p in ((-1.6, 3.0, 0), (-0.7, 4.0, 2.0))]
    return Plan(pair, actors.camera_path((-1.1, 0.9, 0), (-1.0, 0.8, 4), truck=(1.1, 0, 0)))


def _fence(palette: Palette, stage: str) -> Plan:
    bars = Shapes()
    walker = actors.walker(palette, (0.9, 0, 4.5), 0.7, np.pi)
    if stage == "square":  # rods every 21 px that move by half of that
        fence = bodies.grating(palette, 0.10, 6.0, 2.2, thick=0.007, cross=False, flat=False)
        bars = bars.extend(actors.placed(fence, (1.0, 0, 1.2)))
        return Plan([walker], actors.camera_path((-0.3, 1.3, 0), (-0.3, 1.3, 6), truck=(1.2, 0, 0)), extra=bars)
    fence = bodies.grating(palette, 0.09, 4.5, 2.6, thick=0.006, cross=True, flat=False)
    bars = bars.extend(actors.placed(fence, (0.6, 0, 1.05)))
    return Plan([walker], actors.camera_path((-0.2, 1.4, 0), (-0.2, 1.4, 6), truck=(0.8, 0.15, 0)), extra=bars)


def _light(palette: Palette, stage: str) -> Plan:
    walker = actors.walker(palette, (-0.5, 0, 3.8), 0.9, 0.0)
    path = actors.camera_path((0, 1.3, 0), (0, 1.3, 6), truck=(0.2, 0, 0))
    if stage == "square":  # a cloud: to 45 % within a quarter of a second, and slowly back
        down, back = step(1.0, 0.45, 0.35, 0.25), step(0.0, 0.5, 1.0, 0.7)
        return Plan([walker], path, light=lambda own: changing(own, lambda t: down(t) + back(t)))
    return Plan([walker], path, light=lambda own: changing(own, wave(0.5, 1.15, 0.37, 0.4)))


def _overlay(palette: Palette, stage: str) -> Plan:
    walker = actors.walker(palette, (0.8, 0, 3.8), 1.0, np.pi)
    text = ("mark", "TNS") if stage == "square" else ("subtitle", "THE RAIN IN SPAIN")
    return Plan([walker], actors.camera_path((0, 1.3, 0), (0, 1.3, 6), truck=(0.9, 0, 0)), overlay=text)


def _control(palette: Palette, stage: str) -> Plan:
    walker = actors.walker(palette, (-0.4, 0, 4.5), 0.45, 0.0)
    return Plan([walker], actors.camera_path((0, 1.3, 0), (0, 1.3, 6), truck=(0.3, 0, 0.15)))


_PLANS: dict[str, Callable[[Palette, str], Plan]] = {
    "occluder": _occluder,
    "fast": _fast,
    "wheel": _wheel,
    "legs": _legs,
    "fence": _fence,
    "light": _light,
    "overlay": _overlay,
    "control": _control,
}


def evaluation_clips(seed: int = 0) -> list[tuple[str, str, str]]:
    """The clips of a test set: (clip_id, phenomenon, stage)."""
    end = f"_{seed:03d}" if seed else ""
    return [(f"{phenomenon}_{stage}{end}", phenomenon, stage) for phenomenon in PHENOMENA for stage in STAGES]


def stage_scene(phenomenon: str, stage: str, seed: int = 0) -> tuple[RayScene, tuple[str, str] | None]:
    """The scene of a test clip, and kind and text of its overlay if it has one.

    Args:
        phenomenon, stage: see `evaluation_clips`.
        seed: 0 is the test set built by hand; another one plays the same phenomenon in drawn colours, textures, actors and
            light, from another instant on, faster or slower, seen from a little aside.
    """
    palette = Palette("motion-test", phenomenon, stage, *([seed] if seed else []))
    look = Look(seed, stage)
    build, own_light = STAGES[stage]
    own_light = look.light(own_light)
    plan = _PLANS[phenomenon](palette, stage)
    fixed = build(palette, look)
    low, high = sizes_of(stage)
    scene = RayScene(
        name=f"{phenomenon}-{stage}",
        seed=seed,
        f_mm=35.0,
        materials=palette.materials,
        fixed=fixed if plan.extra is None else fixed.extend(plan.extra),
        moving=actors.cast_of(plan.cast),
        path=plan.path,
        lighting=own_light if plan.light is None else plan.light(own_light),
        low=low,
        high=high,
    )
    return (_replayed(scene, phenomenon, stage, seed) if seed else scene), plan.overlay


def _replayed(scene: RayScene, phenomenon: str, stage: str, seed: int) -> RayScene:
    """From another instant on, at another pace, seen from a little aside."""
    rng = generator("motion-replay", phenomenon, stage, seed)
    begin, pace = float(rng.uniform(*BEGINS_S)), float(np.exp(rng.uniform(*np.log(PACES))))
    aside = rng.uniform(-ASIDE_M, ASIDE_M, 3)
    moving, path, light = scene.moving, scene.path, scene.lighting

    def seen_from(t: float) -> Pose:
        pose = path(begin + pace * t)
        return replace(pose, position=pose.position + aside)

    return replace(
        scene,
        moving=lambda t: moving(begin + pace * t),
        path=seen_from,
        lighting=light if isinstance(light, Lighting) else lambda t: light(begin + pace * t),
    )
