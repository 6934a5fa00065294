"""A street seen through an iron fence: thin near bars, a walker, a car, brick houses that recede, a lettered sign."""

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import RGB, Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import Vary, car, person, tree
from pipeline.raytrace.world import RayScene

COATS: tuple[RGB, ...] = (
    (0.55, 0.10, 0.06),
    (0.06, 0.30, 0.20),
    (0.60, 0.38, 0.08),
    (0.10, 0.16, 0.42),
    (0.45, 0.12, 0.35),
)
PAINTS: tuple[RGB, ...] = (
    (0.05, 0.20, 0.30),
    (0.45, 0.05, 0.04),
    (0.60, 0.52, 0.38),
    (0.08, 0.22, 0.10),
    (0.62, 0.34, 0.04),
)
HATS: tuple[RGB, ...] = ((0.62, 0.42, 0.10), (0.08, 0.10, 0.14), (0.50, 0.08, 0.10), (0.10, 0.32, 0.40))
SIGNS = ("BOKEH", "LENS SHOP", "CAFE", "BAKER", "PRINT", "COFFEE")


def build(seed: int = 0) -> RayScene:
    """The scene; seed 0 is the canonical one, others vary colours, the sign, the walker and the camera's path."""
    vary = Vary("fence", seed)
    coat, trousers = vary.paint(COATS), vary.colour((0.07, 0.09, 0.16), 0.4)
    paint, hat = vary.paint(PAINTS), vary.paint(HATS)
    start, pace = vary.number(-0.75, 0.3), vary.number(0.85, 0.25)
    car_start, car_pace = vary.number(17.0, 2.0), vary.number(-2.6, 0.8)
    height, drift = vary.number(1.35, 0.1), vary.number(0.30, 0.25)
    materials = _materials(seed, vary)
    fixed = _street(vary)
    _fence(fixed, vary)

    def moving(time_s: float) -> Shapes:
        shapes = Shapes()
        person(shapes, (start + pace * time_s, 4.1), 2 * np.pi * time_s / 1.05, 0.0, coat, trousers, hat)
        car(shapes, (1.55, car_start + car_pace * time_s), np.pi / 2, paint, lights=False)
        hop = abs(np.sin(np.pi * (time_s / 0.62 + 0.2)))
        shapes.ellipsoid((start + pace * time_s + 1.15, 0.14 + 0.42 * hop, 4.7), 0.14, "ball")
        return shapes

    def path(time_s: float) -> Pose:
        x = -0.12 + drift * time_s
        return Pose.look_at((x, height + 0.01 * np.sin(5 * time_s), 0.0), (x * 0.5 + 0.1, 1.42, 6.0))

    return RayScene(
        name="fence",
        seed=seed,
        f_mm=35.0,
        materials=materials,
        fixed=fixed,
        moving=moving,
        path=path,
        lighting=Lighting(
            sun_direction=(vary.number(0.55, 0.2), vary.number(0.62, 0.1), -0.56),
            sun=vary.colour((2.5, 1.95, 1.35), 0.08),
            zenith=(0.28, 0.46, 0.80),
            horizon=(0.88, 0.87, 0.82),
            ground=(0.22, 0.19, 0.16),
            haze=(0.80, 0.80, 0.78),
            haze_m=170.0,
            clouds=np.clip(tx.noise(512, 512, 5, seed + 32, octaves=6, falloff=0.6) * 3.0 - 1.3, 0, 1),
            cloud=(1.0, 0.97, 0.93),
        ),
        low=(-7.5, -0.1, 0.5),
        high=(8.5, 7.5, 26.0),
    )


def _materials(seed: int, vary: Vary) -> dict[str, Material]:
    reds: tuple[RGB, ...] = ((0.36, 0.13, 0.075), (0.42, 0.17, 0.09), (0.30, 0.11, 0.07), (0.45, 0.22, 0.13))
    buffs: tuple[RGB, ...] = ((0.55, 0.43, 0.28), (0.62, 0.50, 0.34), (0.50, 0.40, 0.27))
    setts: tuple[RGB, ...] = ((0.20, 0.19, 0.18), (0.26, 0.24, 0.22), (0.17, 0.17, 0.17), (0.23, 0.20, 0.18))
    mortar = (0.50, 0.46, 0.40)
    red = tx.bricks(768, 768, 20, 8, reds, mortar, seed + 21, joint=0.16)
    buff = tx.bricks(768, 768, 20, 8, buffs, (0.40, 0.36, 0.30), seed + 22, joint=0.14)
    sett = tx.bricks(768, 768, 14, 12, setts, (0.10, 0.095, 0.085), seed + 23, joint=0.14, wobble=0.10)
    slabs = tx.bricks(
        512, 512, 4, 3, ((0.42, 0.39, 0.35), (0.46, 0.43, 0.39)), (0.22, 0.2, 0.18), seed + 24, joint=0.04
    )
    render = tx.speckle(512, 512, (0.72, 0.62, 0.45), (0.88, 0.78, 0.60), 5, seed + 25, 0.5)
    awning = tx.stripes(256, 256, 4, vary.colour((0.62, 0.09, 0.07), 0.6), (0.85, 0.80, 0.70), seed + 26)
    words = tx.sign(vary.pick(SIGNS), (0.92, 0.82, 0.50), vary.colour((0.035, 0.12, 0.09), 0.6), seed + 27)
    rough, fine = tx.volume(64, seed + 28), tx.volume(64, seed + 31, octaves=2, first=16)
    slope = tx.relief(fine)
    return {
        "road": Material(texture=sett, size_m=(2.4, 2.4)),
        "slabs": Material(texture=slabs, size_m=(2.4, 2.4)),
        "red": Material(texture=red, size_m=(1.9, 1.6)),
        "buff": Material(texture=buff, size_m=(1.9, 1.6)),
        "render": Material(texture=render, size_m=(2.5, 2.5)),
        "stone": Material(colour=(0.62, 0.57, 0.48), volume=rough, volume_m=1.5, grain=0.18),
        "frame": Material(colour=(0.80, 0.77, 0.70)),
        "pane": Material(colour=(0.055, 0.075, 0.095), volume=rough, volume_m=4.0, grain=0.8),
        "wood": Material(texture=tx.stripes(256, 256, 6, (0.19, 0.09, 0.04), (0.24, 0.12, 0.055), seed + 29)),
        "awning": Material(texture=awning, size_m=(1.6, 1.6), through=0.3),
        "sign": Material(texture=words, fit=True),
        "roof": Material(colour=(0.24, 0.13, 0.10), volume=rough, volume_m=1.2, grain=0.4),
        "iron": Material(colour=(0.022, 0.026, 0.026), volume=rough, volume_m=0.15, grain=0.5),
        "cloth": Material(volume=rough, volume_m=0.35, grain=0.28),
        "skin": Material(colour=(0.55, 0.33, 0.22)),
        "paint": Material(),
        "glass": Material(colour=(0.06, 0.075, 0.085)),
        "rubber": Material(colour=(0.02, 0.02, 0.02)),
        "chrome": Material(colour=(0.55, 0.55, 0.56)),
        "redglass": Material(colour=(0.5, 0.03, 0.02)),
        "ball": Material(
            texture=tx.stripes(64, 64, 3, (0.85, 0.75, 0.1), (0.10, 0.25, 0.6), seed + 30), size_m=(0.28, 0.28)
        ),
        "leaves": Material(volume=fine, volume_m=2.2, grain=0.75, relief=slope, bump=2.4, through=0.15),
        "flowers": Material(volume=fine, volume_m=0.7, grain=0.7, relief=slope, bump=1.5),
        "bark": Material(colour=(0.15, 0.11, 0.08), volume=rough, volume_m=0.8, grain=0.5),
    }


def _house(shapes: Shapes, vary: Vary, side: float, z: float, length: float, height: float, wall: str) -> None:
    """A house along the street; its front is the plane x = side, facing the road; windows, door, cornice, roof."""
    inward = -np.sign(side)
    tint = vary.colour((1.0, 1.0, 1.0), 0.12)
    depth = 5.0
    shapes.box(
        (side - inward * depth / 2, height / 2, z + length / 2), (depth / 2, height / 2, length / 2), wall, tint=tint
    )
    shapes.box((side + inward * 0.06, height + 0.08, z + length / 2), (0.22, 0.14, length / 2 + 0.05), "stone")
    shapes.box((side - inward * 2.4, height + 0.55, z + length / 2), (2.3, 0.42, length / 2 - 0.02), "roof")
    shapes.box((side + inward * 0.03, 0.22, z + length / 2), (0.06, 0.30, length / 2), "stone")
    columns = max(2, round(length / 1.7))
    for storey in range(round((height - 0.6) / 2.6)):
        for column in range(columns):
            centre_z, y = z + (column + 0.5) * length / columns, 1.65 + 2.6 * storey
            front = side + inward * 0.02
            if storey == 0 and column == columns // 2:
                shapes.box((front, 1.15, centre_z), (0.05, 1.15, 0.55), "wood", tint=vary.colour((1.0, 1.0, 1.0), 0.5))
                shapes.box((front, 2.36, centre_z), (0.12, 0.07, 0.68), "stone")
                continue
            shapes.box((front, y, centre_z), (0.03, 0.70, 0.46), "frame")
            for pane_y in (-0.33, 0.33):
                for pane_z in (-0.21, 0.21):
                    shapes.box((front + inward * 0.02, y + pane_y, centre_z + pane_z), (0.02, 0.29, 0.18), "pane")
            shapes.box((front + inward * 0.06, y - 0.76, centre_z), (0.12, 0.05, 0.56), "stone")
            if (column + storey + round(z)) % 2 == 0:
                for at, tint in ((-0.22, (0.62, 0.05, 0.07)), (0.2, (0.12, 0.22, 0.04))):
                    centre = (front + inward * 0.10, y - 0.62, centre_z + at)
                    shapes.ellipsoid(centre, (0.11, 0.13, 0.26), "flowers", tint=tint)


def _street(vary: Vary) -> Shapes:
    shapes, rng = Shapes(), vary.rng
    shapes.plane((0, 0, 0), (0, 1, 0), "road")
    for x in (-3.9, 3.9):
        shapes.box((x, 0.02, 21.0), (1.3, 0.10, 16.0), "slabs")
    for side in (-5.0, 5.0):
        z, i = 5.2, 0
        while z < 31:
            length = vary.number((4.6, 5.4, 3.9, 5.0, 4.4)[(i + (side > 0) * 2) % 5], 0.5)
            height = vary.number((5.9, 7.2, 6.4, 8.4, 5.9)[(i * 2 + (side > 0)) % 5], 0.5)
            wall = ("red", "render", "buff", "red", "buff")[(i + (side > 0) * 3) % 5]
            _house(shapes, vary, side, z, length, height, wall)
            z, i = z + length, i + 1
    shapes.box((0.5, 3.4, 44.0), (6.5, 3.4, 3.0), "buff")
    shapes.box((-0.6, 6.0, 43.0), (1.5, 6.0, 1.5), "stone")
    shapes.ellipsoid((-0.6, 12.0, 43.0), (1.5, 2.4, 1.5), "roof")
    shapes.ellipsoid((-0.6, 9.6, 41.4), (0.75, 0.75, 0.12), "frame")
    shapes.rect((-3.30, 3.36, 8.4), (0.86, 0, 0), (0, 0.29, 0), "sign")
    shapes.box((-3.30, 3.36, 8.43), (0.90, 0.33, 0.02), "iron")
    shapes.cylinder((-5.0, 3.78, 8.42), (-2.35, 3.78, 8.42), 0.022, "iron")
    for side, z in ((-5.0, 12.2), (5.0, 8.6)):
        inward = -np.sign(side)
        u, v = np.array([0.0, 0.0, 1.25]), np.array([inward * 0.62, -0.28, 0.0])
        shapes.rect((side + inward * 0.66, 2.72, z), u, v, "awning")
    for x, z in ((-2.85, 14.0), (2.85, 11.0), (-2.85, 24.0)):
        shapes.cylinder((x, 0.1, z), (x, 3.6, z), 0.05, "iron")
        shapes.ellipsoid((x, 3.75, z), (0.17, 0.24, 0.17), "frame")
    tree(shapes, rng, (2.95, 0.0, 16.5), 5.0, 1.5, 20, (0.12, 0.18, 0.04))
    tree(shapes, rng, (-2.95, 0.0, 19.0), 4.6, 1.4, 20, (0.16, 0.18, 0.04))
    return shapes


def _fence(shapes: Shapes, vary: Vary) -> None:
    """Iron bars 1.05 m from the lens, two rails, spear points; open above."""
    z, spacing = vary.number(1.05, 0.12), vary.number(0.165, 0.02)
    for i in range(-7, 8):
        x = i * spacing + 0.05
        shapes.cylinder((x, 0.0, z), (x, 1.47, z), 0.0085, "iron")
        shapes.ellipsoid((x, 1.50, z), (0.018, 0.055, 0.012), "iron")
        shapes.ellipsoid((x, 1.452, z), 0.0155, "iron")
    for y in (1.40, 1.13):
        shapes.box((0.0, y, z), (1.4, 0.011, 0.008), "iron")
