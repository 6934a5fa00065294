"""Where the test set's clips play: a town square and a gallery, built by hand and used nowhere else.

A look other than 0 paints them in drawn colours and patterns: further test sets that share no picture with the first.
"""

import colorsys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.generated import patterns
from pipeline.raytrace.generated.palette import Palette, clouds
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import RGB, Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import tree

SQUARE_LIGHT = Lighting(
    sun_direction=(0.55, 0.62, -0.62),
    sun=(2.35, 1.95, 1.40),
    zenith=(0.26, 0.44, 0.80),
    horizon=(0.80, 0.86, 0.92),
    ground=(0.24, 0.21, 0.17),
    haze=(0.80, 0.82, 0.84),
    haze_m=220.0,
    clouds=clouds(77, 0.45),
    cloud=(1.0, 0.97, 0.94),
)
GALLERY_LIGHT = Lighting(
    sun_direction=(0.0, 1.0, -0.2),
    sun=(0.0, 0.0, 0.0),
    zenith=(0.66, 0.62, 0.56),
    horizon=(0.62, 0.58, 0.52),
    ground=(0.28, 0.24, 0.20),
    haze=(0.5, 0.5, 0.5),
    haze_m=1e5,
    lamps=(((-1.6, 2.9, 4.6), (2.4, 2.0, 1.4)), ((1.8, 2.9, 4.6), (2.4, 2.0, 1.4))),
)


class Look:
    """Colours and pattern seeds of a stage.

    Args:
        number: 0 is the stage as it was built; others draw.
        stage: its name.
    """

    def __init__(self, number: int, stage: str) -> None:
        self.number = number
        self._rng = tx.generator("motion-look", stage, number)
        self._hue = 0.0 if number == 0 else float(self._rng.uniform(0.15, 0.85))

    def __call__(self, *colour: float) -> RGB:
        """A colour of the stage, linear, turned in hue and a little in brightness."""
        r, g, b = colour
        if self.number == 0:
            return r, g, b
        hue, saturation, value = colorsys.rgb_to_hsv(r, g, b)
        bright = float(self._rng.uniform(0.75, 1.25))
        return colorsys.hsv_to_rgb((hue + self._hue) % 1.0, saturation, min(0.95, value * bright))

    def seed(self, own: int) -> int:
        return own + 10_000 * self.number

    def light(self, own: Lighting) -> Lighting:
        """The stage's light from elsewhere."""
        if self.number == 0:
            return own
        x, y, z = own.sun_direction
        turned = (x * float(self._rng.choice([-1.2, -0.6, 0.4])), y, z)
        unit = np.asarray(turned) / np.linalg.norm(turned)
        return replace(own, sun_direction=(float(unit[0]), float(unit[1]), float(unit[2])))


def square(palette: Palette, look: Look) -> Shapes:
    """A paved square before a painted house with shutters, awnings, signs and planters; the sky above."""
    shapes, add = Shapes(), palette.add
    slabs: tuple[RGB, ...] = (look(0.46, 0.42, 0.36), look(0.40, 0.37, 0.33), look(0.52, 0.47, 0.39))
    paving = tx.bricks(512, 512, 8, 5, slabs, (0.20, 0.19, 0.17), look.seed(901), joint=0.07, wobble=0.05)
    plaster = tx.speckle(512, 512, look(0.60, 0.42, 0.24), look(0.78, 0.60, 0.38), 7, look.seed(902), 0.7)
    stucco = tx.speckle(512, 512, look(0.42, 0.50, 0.50), look(0.58, 0.66, 0.64), 9, look.seed(903), 0.7)
    shapes.plane((0, 0, 0), (0, 1, 0), add(Material(texture=paving, size_m=(2.6, 2.6))))
    wall, other = add(Material(texture=plaster, size_m=(3, 3))), add(Material(texture=stucco, size_m=(3, 3)))
    slats = tx.stripes(128, 128, 16, look(0.05, 0.20, 0.17), look(0.08, 0.30, 0.25), look.seed(904))
    shutter = add(Material(texture=slats, fit=True))
    cloth = tx.stripes(256, 256, 7, look(0.60, 0.08, 0.06), look(0.85, 0.80, 0.70), look.seed(905))
    awning = add(Material(texture=cloth, fit=True, through=0.3))
    for start, end, height, name in ((-13, -3.2, 5.0, other), (-3.2, 4.6, 4.3, wall), (4.6, 14, 5.4, other)):
        middle, half = (start + end) / 2, (end - start) / 2
        shapes.box((middle, height / 2, 11.0), (half, height / 2, 2.0), name)
        shapes.box((middle, height, 8.95), (half, 0.12, 0.14), "white")
        shapes.box((middle, 0.25, 8.98), (half, 0.25, 0.05), "stone", tint=(0.4, 0.38, 0.35))
    for i in range(-6, 7):
        x = i * 1.55 + 0.2
        for y in (1.55, 3.35):
            shapes.box((x, y, 8.98), (0.34, 0.55, 0.03), "glass")
            shapes.box((x, y, 8.95), (0.018, 0.55, 0.02), "white")
            shapes.box((x, y, 8.95), (0.34, 0.018, 0.02), "white")
            for side in (-0.52, 0.52):
                shapes.box((x + side, y, 8.95), (0.15, 0.57, 0.02), shutter)
    for x, word in ((-2.1, "CINEMA"), (1.9, "MARKET"), (6.2, "SALON")):
        shapes.rect((x, 2.66, 8.3), (0.95, 0, 0), (0, -0.16, -0.42), awning)
        known = "".join(letter for letter in word if letter in "ABCEFHIKLMNOPRSTU")
        board = tx.sign(known, look(0.95, 0.85, 0.55), look(0.05, 0.07, 0.12), look.seed(906), scale=10)
        shapes.rect((x, 2.36, 8.93), (0.8, 0, 0), (0, 0.17, 0), add(Material(texture=board, fit=True)))
    rng = tx.generator("square", *([look.number] if look.number else []))
    for x in (-5.2, -2.9, -0.6, 2.9, 5.4):
        shapes.box((x, 0.26, 7.9), (0.42, 0.26, 0.22), "stone", tint=look(0.55, 0.30, 0.20))
        for _ in range(7):
            at = (x + float(rng.uniform(-0.35, 0.35)), 0.66 + float(rng.uniform(-0.08, 0.12)), 7.9)
            shapes.ellipsoid(at, float(rng.uniform(0.12, 0.2)), "leaves", tint=(0.11, 0.19, 0.05))
    for x, z, tall in ((-5.0, 7.0, 4.4), (4.4, 6.4, 4.0)):
        tree(shapes, rng, (x, 0.0, z), tall, tall * 0.32, 18, (0.13, 0.19, 0.05))
    return shapes


def gallery(palette: Palette, look: Look) -> Shapes:
    """A room with a parquet floor, panelled walls, six paintings, two busts and a bench."""
    shapes, add = Shapes(), palette.add
    floor = patterns.planks(look(0.34, 0.19, 0.09), look(0.52, 0.34, 0.18), 6, look.seed(911))
    panel = tx.speckle(512, 512, look(0.10, 0.19, 0.22), look(0.15, 0.27, 0.30), 20, look.seed(912), 0.5)
    shapes.plane((0, 0, 0), (0, 1, 0), add(Material(texture=floor, size_m=(1.3, 2.2), casts=False)))
    wall = add(Material(texture=panel, size_m=(2.0, 2.0), casts=False))
    shapes.rect((0, 2, 6.4), (14, 0, 0), (0, 2, 0), wall)
    shapes.rect((0, 3.4, 3), (14, 0, 0), (0, 0, 6), add(Material(colour=(0.7, 0.68, 0.62), casts=False)))
    shapes.box((0, 0.5, 6.38), (14, 0.03, 0.03), "white")
    shapes.box((0, 0.07, 6.37), (14, 0.07, 0.03), "white")
    shapes.box((0, 3.3, 6.35), (14, 0.06, 0.06), "white")
    inks: tuple[tuple[RGB, ...], ...] = (
        (look(0.75, 0.55, 0.20), look(0.20, 0.10, 0.30), look(0.80, 0.20, 0.10), look(0.90, 0.85, 0.70)),
        (look(0.15, 0.35, 0.60), look(0.70, 0.75, 0.60), look(0.90, 0.60, 0.10), look(0.05, 0.10, 0.20)),
        (look(0.60, 0.15, 0.12), look(0.85, 0.75, 0.55), look(0.10, 0.25, 0.20), look(0.95, 0.90, 0.80)),
    )
    for i in range(-4, 5):
        x, half = i * 1.75 + 0.3, (0.62, 0.46) if i % 2 else (0.48, 0.6)
        picture = patterns.painting(inks[i % 3], look.seed(920 + i), width=300, height=240)
        shapes.rect((x, 1.75, 6.30), (half[0], 0, 0), (0, half[1], 0), add(Material(texture=picture, fit=True)))
        shapes.box((x, 1.75, 6.34), (half[0] + 0.05, half[1] + 0.05, 0.03), "paint", tint=look(0.55, 0.38, 0.12))
    for x in (-1.45, 2.15):
        shapes.box((x, 0.5, 5.4), (0.20, 0.5, 0.20), "stone", tint=(0.62, 0.60, 0.55))
        shapes.ellipsoid((x, 1.12, 5.4), (0.20, 0.14, 0.13), "stone", tint=(0.75, 0.73, 0.68))
        shapes.ellipsoid((x, 1.36, 5.4), (0.11, 0.15, 0.12), "stone", tint=(0.75, 0.73, 0.68))
    shapes.box((0.35, 0.45, 4.9), (0.75, 0.05, 0.2), "cloth", tint=look(0.45, 0.10, 0.09))
    for side in (-0.6, 0.6):
        shapes.box((0.35 + side, 0.2, 4.9), (0.04, 0.2, 0.18), "iron")
    return shapes


def sizes_of(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Corners of the box with detailed shadows, metres."""
    return ((-7.0, -0.1, 0.3), (7.0, 5.6, 9.5)) if name == "square" else ((-4.0, -0.1, 0.5), (4.0, 3.4, 6.5))


STAGES: dict[str, tuple[Callable[[Palette, Look], Shapes], Lighting]] = {
    "square": (square, SQUARE_LIGHT),
    "gallery": (gallery, GALLERY_LIGHT),
}
