"""A bear walks past rocks in front of a stone wall; grass and leaves stand close to the lens."""

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.geometry import F64, Shapes
from pipeline.raytrace.light import RGB, Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import Vary, blade, grass, tree, tube, turn
from pipeline.raytrace.world import RayScene


def build(seed: int = 0) -> RayScene:
    """The scene; seed 0 is the canonical one, others vary colours, places and the camera's path."""
    vary = Vary("bear", seed)
    fur = vary.colour((0.185, 0.098, 0.048))
    pace = vary.number(0.62, 0.2)
    start = vary.number(-0.75, 0.25)
    depth = vary.number(3.9, 0.5)
    height, drift = vary.number(0.92, 0.15), vary.number(0.34, 0.3)
    sun = (vary.number(-0.62, 0.35), vary.number(0.55, 0.12), -0.56)
    materials = _materials(seed, vary)
    fixed = _surroundings(vary)

    def moving(time_s: float) -> Shapes:
        shapes = Shapes()
        _bear(shapes, np.array([start + pace * time_s, 0.0, depth]), 2 * np.pi * time_s / 1.15, fur)
        _near_leaves(shapes, seed, time_s)
        return shapes

    def path(time_s: float) -> Pose:
        x = -0.25 + drift * time_s
        bob = 0.012 * np.sin(2 * np.pi * 0.8 * time_s)
        return Pose.look_at((x, height + bob, 0.0), (x * 0.55 + 0.1, 0.84, 4.0))

    return RayScene(
        name="bear",
        seed=seed,
        f_mm=35.0,
        materials=materials,
        fixed=fixed,
        moving=moving,
        path=path,
        lighting=Lighting(
            sun_direction=sun,
            sun=vary.colour((2.7, 2.05, 1.35), 0.08),
            zenith=(0.30, 0.48, 0.82),
            horizon=(0.86, 0.88, 0.86),
            ground=(0.22, 0.20, 0.12),
            haze=(0.72, 0.78, 0.84),
            haze_m=150.0,
            clouds=np.clip(tx.noise(512, 512, 5, seed + 18, octaves=6, falloff=0.6) * 3.0 - 1.35, 0, 1),
            cloud=(1.0, 0.97, 0.93),
        ),
        low=(-5.5, -0.1, 0.4),
        high=(6.0, 3.4, 10.0),
    )


def _materials(seed: int, vary: Vary) -> dict[str, Material]:
    stones = ((0.34, 0.30, 0.25), (0.27, 0.25, 0.23), (0.40, 0.33, 0.25), (0.30, 0.27, 0.26), (0.36, 0.28, 0.20))
    wall = tx.bricks(640, 1280, 10, 11, stones, (0.13, 0.115, 0.10), seed + 11, joint=0.10, wobble=0.30)
    moss = tx.noise(640, 1280, 4, seed + 12, octaves=6, falloff=0.7)
    wall = tx.mix(wall, wall * np.array([0.62, 0.85, 0.38], np.float32), np.clip(moss * 3.4 - 1.9, 0, 1))
    earth = tx.speckle(1024, 1024, (0.10, 0.075, 0.042), (0.30, 0.235, 0.14), 6, seed + 13, 1.6)
    lawn = tx.speckle(1024, 1024, (0.05, 0.085, 0.018), (0.20, 0.26, 0.06), 20, seed + 14, 2.2)
    patches = np.clip(tx.noise(1024, 1024, 3, seed + 15, octaves=5) * 3.6 - 1.3, 0, 1)
    rough, fine = tx.volume(64, seed + 16), tx.volume(64, seed + 17, octaves=2, first=16)
    rough_slope, fine_slope = tx.relief(rough), tx.relief(fine)
    return {
        "ground": Material(texture=tx.mix(earth, lawn, patches), size_m=(4.2, 4.2)),
        "wall": Material(texture=wall, size_m=(4.4, 2.2)),
        "rock": Material(
            colour=vary.colour((0.25, 0.228, 0.205), 0.1),
            volume=rough,
            volume_m=0.8,
            grain=0.45,
            relief=rough_slope,
            bump=2.2,
        ),
        "fur": Material(volume=fine, volume_m=0.36, stretch=(2.0, 1.2, 1.0), grain=0.30, relief=fine_slope, bump=0.75),
        "skin": Material(colour=(0.016, 0.013, 0.012)),
        "shine": Material(colour=(1.0, 0.95, 0.9), glow=(0.9, 0.9, 0.9)),
        "leaf": Material(volume=fine, volume_m=0.12, grain=0.22, through=0.55),
        "leaves": Material(volume=fine, volume_m=2.6, grain=0.75, relief=fine_slope, bump=2.4, through=0.15),
        "bark": Material(colour=(0.14, 0.10, 0.07), volume=rough, volume_m=0.8, grain=0.5),
        "hill": Material(volume=rough, volume_m=45.0, grain=0.25, casts=False),
    }


def _surroundings(vary: Vary) -> Shapes:
    shapes, rng = Shapes(), vary.rng
    shapes.plane((0, 0, 0), (0, 1, 0), "ground")
    top = vary.number(1.75, 0.3)
    shapes.box((0.3, top / 2, 8.6), (9.0, top / 2, 0.28), "wall")
    for i in range(19):  # coping stones of uneven size
        x, w = -8.6 + i * 0.95, float(rng.uniform(0.40, 0.50))
        lift = float(rng.uniform(0.05, 0.10))
        shapes.box((x, top + lift, 8.6), (w, lift + 0.02, 0.36), "rock", turn=turn(roll=float(rng.normal(0, 0.02))))
    rocks: tuple[tuple[float, float, float], ...] = (
        (-1.75, 5.4, 0.50),
        (-1.15, 5.9, 0.30),
        (1.75, 5.2, 0.62),
        (2.45, 5.7, 0.42),
        (1.2, 2.9, 0.17),
    )
    rocks += ((-2.6, 6.8, 0.42), (0.35, 6.9, 0.36), (3.6, 7.2, 0.55), (-1.2, 2.75, 0.13), (-3.7, 7.3, 0.6))
    for x, z, size in rocks:
        x, z, size = vary.number(x, 0.3), vary.number(z, 0.2), vary.number(size, size * 0.25)
        for part in range(3):
            scale = size * (1.0, 0.72, 0.55)[part]
            at = (x + (0, 0.65, -0.6)[part] * size, scale * 0.42, z + (0, -0.25, 0.1)[part] * size)
            radii = scale * rng.uniform(0.75, 1.15, 3)
            rotation = turn(yaw=float(rng.uniform(0, 6)), roll=float(rng.normal(0, 0.25)))
            shapes.ellipsoid(at, radii.tolist(), "rock", turn=rotation, tint=(float(rng.uniform(0.8, 1.15)),) * 3)
    for _ in range(26):
        x, z = float(rng.uniform(-4.2, 4.4)), float(rng.uniform(4.7, 8.1))
        grass(shapes, rng, (x, z), float(rng.uniform(0.14, 0.34)), 5, "leaf", (0.20, 0.26, 0.06))
    for x, z in ((-1.6, 2.7), (1.35, 2.65), (-0.3, 2.9), (0.75, 3.05)):
        grass(shapes, rng, (x, z), 0.15, 6, "leaf", (0.22, 0.30, 0.07))
    for x, z, h in ((-7.5, 14.0, 4.6), (-3.0, 17.0, 5.6), (2.2, 15.0, 4.4), (7.0, 16.0, 6.2), (11.5, 19.0, 6.5)):
        tree(shapes, rng, (x, 0.0, z), vary.number(h, 0.7), h * 0.34, 20, (0.105, 0.15, 0.04))
    for x, z, w, h in ((-45.0, 110.0, 60.0, 17.0), (40.0, 130.0, 75.0, 24.0), (0.0, 190.0, 120.0, 32.0)):
        shapes.ellipsoid((x, -2.0, z), (w, h, 22.0), "hill", tint=(0.12, 0.19, 0.10))
    return shapes


def _near_leaves(shapes: Shapes, seed: int, time_s: float) -> None:
    """Grass at the lower edge and a twig in the upper corner, 0.75 to 1.3 m away, that sway a little."""
    rng = Vary("bear-near", seed).rng
    for i in range(52):
        side = -1 if i % 5 < 3 else 1
        x = side * float(rng.uniform(0.2, 0.68)) - 0.08
        z = float(rng.uniform(0.78, 1.3))
        low, size = 0.45, float(rng.uniform(0.22, 0.5))
        sway = 0.02 * np.sin(2 * np.pi * (0.7 * time_s + float(rng.random())))
        lean = float(rng.normal(0, 0.16)) - 0.08 * side
        root: F64 = np.array([x, low, z])
        tip = root + np.array([lean * size + sway, size, float(rng.normal(0, 0.05))])
        shade = float(rng.uniform(0.65, 1.3))
        blade(shapes, root, tip, float(rng.uniform(0.0035, 0.007)), "leaf", (0.17 * shade, 0.25 * shade, 0.045))
    for i in range(22):
        along = i / 21
        at: F64 = np.array([0.62 - 0.42 * along, 1.27 - 0.07 * along + 0.03 * along**2, 1.05 + 0.1 * along])
        at[1] += 0.006 * np.sin(2 * np.pi * (0.6 * time_s + along))
        drop = np.array([float(rng.normal(-0.3, 0.5)), -1.0 if i % 2 else 0.55, float(rng.normal(0, 0.4))])
        drop /= np.linalg.norm(drop)
        shade = float(rng.uniform(0.75, 1.3))
        blade(shapes, at, at + drop * 0.085, 0.017, "leaf", (0.17 * shade, 0.27 * shade, 0.045))
    shapes.cylinder((0.75, 1.30, 1.04), (0.2, 1.225, 1.15), 0.005, "bark")


def _bear(shapes: Shapes, base: F64, phase: float, fur: RGB) -> None:
    """The bear walks towards +x; `phase` in radians is one full step of all four legs per 2 pi."""
    bob = 0.018 * np.sin(2 * phase)

    def at(x: float, y: float, z: float) -> F64:
        return np.asarray(base + np.array([x, y, z]), dtype=np.float64)

    def part(
        x: float, y: float, z: float, radii: tuple[float, float, float], tilt: float = 0.0, dark: float = 1.0
    ) -> None:
        tint = (fur[0] * dark, fur[1] * dark, fur[2] * dark)
        middle = at(x, y + bob, z)
        shapes.ellipsoid(middle, radii, "fur", turn=turn(roll=tilt), tint=tint, anchor=middle - base)

    nod = 0.03 * np.sin(2 * phase + 0.8)
    spine = [
        (-0.62, 0.78, 0.17, 0.17),
        (-0.50, 0.78, 0.30, 0.27),
        (-0.28, 0.77, 0.35, 0.325),
        (0.0, 0.745, 0.345, 0.335),
    ]
    spine += [
        (0.25, 0.80, 0.35, 0.31),
        (0.45, 0.835, 0.31, 0.27),
        (0.64, 0.85, 0.225, 0.215),
        (0.82, 0.86, 0.165, 0.17),
    ]
    lift = np.linspace(0, 1, len(spine)) ** 3 * nod
    points = [at(x, y + bob + up, 0) for (x, y, _, _), up in zip(spine, lift, strict=True)]
    tube(shapes, points, [(r, deep) for _, _, r, deep in spine], 22, "fur", fur)
    part(0.30, 1.0, 0, (0.26, 0.17, 0.17), -0.2, 1.0)
    part(0.95, 0.87 + nod, 0, (0.20, 0.19, 0.195), 0.0, 1.05)
    part(0.94, 0.80 + nod, 0, (0.16, 0.15, 0.215), 0.0, 1.0)
    part(1.05, 0.82 + nod, 0, (0.16, 0.125, 0.13), -0.15, 1.2)
    part(1.14, 0.795 + nod, 0, (0.14, 0.092, 0.10), -0.18, 1.7)
    part(-0.79, 0.87, 0, (0.085, 0.07, 0.07), 0.0, 0.9)
    shapes.ellipsoid(at(1.265, 0.80 + nod + bob, 0), (0.036, 0.032, 0.042), "skin")
    for z in (-1.0, 1.0):
        part(0.86, 1.045 + nod, 0.135 * z, (0.052, 0.085, 0.075), 0.15, 0.85)
        part(0.885, 1.04 + nod, 0.145 * z, (0.035, 0.058, 0.055), 0.15, 0.4)
        shapes.ellipsoid(at(1.06, 0.905 + nod + bob, 0.150 * z), 0.026, "skin")
        shapes.ellipsoid(at(1.068, 0.915 + nod + bob, 0.172 * z), 0.006, "shine")
    # A walk: the legs of one side follow each other by a quarter, the two sides by a half.
    for x, z, offset, hind in (
        (0.42, -0.18, 0.0, 0),
        (-0.46, -0.19, 4.7, 1),
        (0.42, 0.18, 3.14, 0),
        (-0.46, 0.19, 1.57, 1),
    ):
        angle = 0.42 * np.sin(phase + offset)
        lift = 0.13 * max(0.0, float(np.cos(phase + offset)))
        hip, bend = at(x, 0.62 + bob, z), (-0.09 if hind else 0.07)
        knee = at(x + 0.33 * np.sin(angle) + bend + lift * 0.4, 0.33 + lift * 0.5, z)
        foot = at(x + 0.56 * np.sin(angle), 0.075 + lift, z)
        dark = 0.72 if z > 0 else 0.92
        tint = (fur[0] * dark, fur[1] * dark, fur[2] * dark)
        thick = 0.21 if hind else 0.175
        sizes = [(thick, 0.15), (thick * 0.92, 0.145), (0.118, 0.12), (0.098, 0.10)]
        tube(shapes, [hip, (hip * 0.55 + knee * 0.45), knee, foot], sizes, 9, "fur", tint)
        paw = at(x + 0.56 * np.sin(angle) + 0.055, 0.062 + lift, z)
        shapes.ellipsoid(paw, (0.145, 0.068, 0.10), "fur", tint=(tint[0] * 0.6, tint[1] * 0.6, tint[2] * 0.6))
