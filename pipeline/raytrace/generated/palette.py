"""The materials of one generated scene: a fixed set that the shapes of `kit` ask for, and drawn ones by role."""

import colorsys

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.generated import patterns
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.light import RGB
from pipeline.raytrace.material import Material
from pipeline.seeds import stable_seed

PLAIN: dict[str, RGB] = {
    "skin": (0.50, 0.30, 0.20),
    "iron": (0.025, 0.027, 0.03),
    "paint": (1.0, 1.0, 1.0),
    "glass": (0.05, 0.065, 0.075),
    "rubber": (0.02, 0.02, 0.02),
    "chrome": (0.55, 0.55, 0.56),
    "redglass": (0.4, 0.03, 0.02),
    "white": (0.75, 0.74, 0.70),
}
GLOW: dict[str, RGB] = {
    "bulb": (30.0, 30.0, 30.0),
    "streetlamp": (28.0, 20.0, 11.0),
    "headlight": (40.0, 38.0, 32.0),
    "taillight": (10.0, 0.5, 0.3),
    "shade": (1.6, 1.2, 0.7),
}
SKINS: tuple[RGB, ...] = ((0.55, 0.33, 0.22), (0.36, 0.19, 0.11), (0.17, 0.085, 0.05), (0.62, 0.42, 0.30))
WORDS = ("CAFE", "BOOKS", "PRINT", "TEA", "LENS", "HOTEL", "MARKET", "CINEMA", "SALON", "BAKER")


class Palette:
    """Materials by name, drawn from the scene's own generator as they are asked for.

    Args:
        names: what the scene is called; two scenes with the same names have the same materials.
    """

    def __init__(self, *names: str | int) -> None:
        self.seed = stable_seed("palette", *names) % 2**31
        self.rng = tx.generator("palette", *names)
        rough, fine = tx.volume(32, self.seed, first=2), tx.volume(32, self.seed + 1, octaves=2, first=8)
        slope, fine_slope = tx.relief(rough), tx.relief(fine)
        self.materials: dict[str, Material] = {
            "cloth": Material(volume=fine, volume_m=0.30, grain=0.3),
            "fur": Material(
                volume=fine, volume_m=0.20, stretch=(2.0, 1.2, 1.0), grain=0.4, relief=fine_slope, bump=0.6
            ),
            "leaf": Material(volume=fine, volume_m=0.12, grain=0.25, through=0.5),
            "leaves": Material(volume=fine, volume_m=1.3, grain=0.75, relief=fine_slope, bump=2.0, through=0.15),
            "bark": Material(colour=(0.13, 0.10, 0.07), volume=rough, volume_m=0.5, grain=0.6),
            "rock": Material(volume=rough, volume_m=0.6, grain=0.5, relief=slope, bump=2.0),
            "stone": Material(volume=rough, volume_m=1.2, grain=0.25),
            "hill": Material(volume=rough, volume_m=40.0, grain=0.3, casts=False),
        }
        self.materials |= {name: Material(colour=colour) for name, colour in PLAIN.items()}
        self.materials |= {name: Material(glow=glow, casts=False) for name, glow in GLOW.items()}
        self.materials["skin"] = Material(colour=SKINS[int(self.rng.integers(len(SKINS)))])

    def add(self, material: Material) -> str:
        """Keep a material and give it a name."""
        name = f"drawn_{len(self.materials):02d}"
        self.materials[name] = material
        return name

    def colour(self, value: tuple[float, float] = (0.08, 0.6), saturation: tuple[float, float] = (0.1, 0.75)) -> RGB:
        """A linear colour of any hue, of a value and saturation between two bounds."""
        hue, sat, light = (float(self.rng.uniform(*bounds)) for bounds in ((0, 1), saturation, value))
        return colorsys.hsv_to_rgb(hue, sat, light)

    def near(self, colour: RGB, spread: float = 0.25) -> RGB:
        """A colour like another one: mostly its brightness changes, its hue a little."""
        bright = 1 + float(self.rng.uniform(-spread, spread))
        r, g, b = (float(c * bright * (1 + 0.35 * self.rng.uniform(-spread, spread))) for c in colour)
        return r, g, b

    def surface(self, scale_m: float, *, casts: bool = True, wet: float = 0.0, calm: bool = False) -> str:
        """A drawn material for floors, walls and boxes.

        Args:
            scale_m: metres that one copy of its picture covers, about.
            casts: throws shadows.
            wet: 0 (dry) to 1, for horizontal ground at y = 0.
            calm: without the loudest patterns.
        """
        size = scale_m * float(self.rng.uniform(0.7, 1.4))
        return self.add(Material(texture=self._picture(calm), size_m=(size, size), casts=casts, wet=wet))

    def picture(self) -> str:
        """A painting or a lettered board that fits its face."""
        seed = int(self.rng.integers(2**31))
        if self.rng.random() < 0.3:
            word = WORDS[int(self.rng.integers(len(WORDS)))]
            return self.add(Material(texture=self._sign(word, seed), fit=True))
        colours = tuple(self.colour((0.05, 0.8), (0.2, 0.9)) for _ in range(4))
        return self.add(Material(texture=patterns.painting(colours, seed), fit=True))

    def _sign(self, word: str, seed: int) -> F32:
        known = "".join(letter for letter in word if letter in "ABCEFHIKLMNOPRSTU ")
        return tx.sign(known, self.colour((0.5, 0.9)), self.colour((0.02, 0.2)), seed, scale=8)

    def _picture(self, calm: bool) -> F32:
        """One of eight kinds of texture in drawn colours."""
        rng, seed = self.rng, int(self.rng.integers(2**31))
        base = self.colour((0.15, 0.6), (0.05, 0.55))
        factor = float(rng.choice([0.35, 0.6, 1.6]))
        other = self.near((base[0] * factor, base[1] * factor, base[2] * factor), 0.2)
        kind = int(rng.integers(5 if calm else 8))
        if kind == 0:
            stones = tuple(self.near(base, 0.3) for _ in range(4))
            rows, columns = 2 * int(rng.integers(3, 8)), int(rng.integers(3, 8))
            wobble, joint = float(rng.choice([0.0, 0.1, 0.3])), float(rng.uniform(0.06, 0.18))
            return tx.bricks(320, 320, rows, columns, stones, self.near(other), seed, joint=joint, wobble=wobble)
        if kind == 1:
            return tx.speckle(patterns.SIZE, patterns.SIZE, other, base, int(rng.integers(4, 16)), seed, 1.2)
        if kind == 2:
            return patterns.planks(base, other, int(rng.integers(4, 10)), seed)
        if kind == 3:
            slabs = tuple(self.near(base, 0.12) for _ in range(3))
            return tx.bricks(
                256, 256, 2 * int(rng.integers(1, 4)), int(rng.integers(2, 6)), slabs, other, seed, joint=0.05
            )
        if kind == 4:
            return patterns.weave(base, other, self.near(base, 0.5), seed)
        if kind == 5:
            return patterns.checks(base, other, 2 * int(rng.integers(2, 6)), seed, slant=bool(rng.random() < 0.4))
        if kind == 6:
            return patterns.dots(base, other, 2 * int(rng.integers(2, 6)), seed)
        return tx.stripes(patterns.SIZE, patterns.SIZE, int(rng.integers(3, 10)), base, other, seed)


def clouds(seed: int, cover: float) -> F32:
    """(256, 256) periodic cover of a cloud layer; `cover` 0 (few) to 1 (closed)."""
    field = tx.noise(256, 256, 5, seed, octaves=6, falloff=0.6)
    return np.clip(field * 3.0 - 1.7 + 1.4 * cover, 0, 1).astype(np.float32)
