"""Thin bars before a textured wall, measured in pixels: what a lens renderer finds hardest, with the lens that blurs it.

Not a demo scene: no camera path, no lighting (everything glows, so that a picture holds nothing but silhouettes and
texture). A bar of one to five pixels has few pixels that are wholly its own, or none.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pipeline.optics import Lens, px_per_mm
from pipeline.raytrace import textures as tx
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.geometry import F32, Shapes
from pipeline.raytrace.light import RGB, Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.world import RayScene, RaytraceError

Wall = Literal["bricks", "letters", "noise"]
F_MM = 35.0
NEAR_M, FAR_M = 2.0, 4.0
COLOURS: tuple[RGB, ...] = (
    (0.85, 0.80, 0.70),
    (0.03, 0.03, 0.04),
    (0.60, 0.10, 0.05),
    (0.30, 0.32, 0.30),
    (0.08, 0.25, 0.55),
    (0.75, 0.55, 0.08),
)


@dataclass(frozen=True, kw_only=True)
class BarsCase:
    """Parallel bars before a wall, and how much both are out of focus.

    Args:
        widths_px: widths of the bars, each > 0, px; they stand `spacing_px` apart around the middle of the frame.
        angle_deg: direction of the bars, counter-clockwise from upright.
        near_px: signed defocus of the bars, px.
        far_px: signed defocus of the wall, px, larger.
        spacing_px: between the middles of neighbouring bars.
        cross_deg: angle between the bars and a second set that crosses them, or 0 for none.
        wall: its texture.
        seed: colours, places, texture.
        width, height: the frame, px.
    """

    widths_px: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    angle_deg: float
    near_px: float
    far_px: float
    spacing_px: float = 27.0
    cross_deg: float = 0.0
    wall: Wall = "bricks"
    seed: int = 0
    width: int = 160
    height: int = 120

    def __post_init__(self) -> None:
        if not self.widths_px or min(self.widths_px) <= 0:
            raise RaytraceError(f"widths_px must be at least one width > 0, got {self.widths_px}")
        if not self.near_px < self.far_px:
            raise RaytraceError(
                f"near_px must be smaller than far_px (bars stand before the wall), got {self.near_px} and {self.far_px}"
            )
        if self.wall not in get_args(Wall):
            raise RaytraceError(f"wall must be one of {', '.join(get_args(Wall))}, got {self.wall!r}")

    def lens(self) -> Lens:
        """The lens that blurs bars and wall as asked: defocus = K (1/S - 1/d), K = f^2 / (2 N) in px m."""
        gain = (self.far_px - self.near_px) / (1 / NEAR_M - 1 / FAR_M)
        focus_m = 1 / (self.near_px / gain + 1 / NEAR_M)
        f_m = F_MM / 1000
        return Lens(f_m=f_m, f_number=f_m**2 / 2 * px_per_mm(self.width) * 1000 / gain, focus_m=focus_m)

    def scene(self) -> RayScene:
        """The scene; its bars have their widths in pixels of a frame `width` px wide."""
        rng = tx.generator("bars", self.seed)
        shapes = Shapes()
        metre_px = NEAR_M / (F_MM * px_per_mm(self.width))  # metres that a pixel spans at the bars
        shapes.rect((0.0, 0.0, FAR_M), (FAR_M * 2, 0, 0), (0, FAR_M * 2, 0), "wall")
        for turn in (self.angle_deg, self.angle_deg + self.cross_deg) if self.cross_deg else (self.angle_deg,):
            angle = math.radians(turn)
            along, across = (
                np.array([-math.sin(angle), math.cos(angle), 0.0]),
                np.array([math.cos(angle), math.sin(angle), 0.0]),
            )
            for number, width_px in enumerate(self.widths_px):
                place = (number - (len(self.widths_px) - 1) / 2) * self.spacing_px + float(rng.uniform(-0.5, 0.5))
                centre = across * place * metre_px + np.array([0.0, 0.0, NEAR_M])
                tint = COLOURS[int(rng.integers(len(COLOURS)))]
                half = along * metre_px * (self.width + self.height)
                shapes.rect(centre, half, across * (width_px / 2 * metre_px), "bar", tint=tint)
        return RayScene(
            name=f"bars-{self.wall}",
            seed=self.seed,
            f_mm=F_MM,
            materials={
                "wall": Material(texture=_texture(self.wall, self.seed), size_m=(3.2, 2.4), glow=(1.0, 1.0, 1.0)),
                "bar": Material(volume=tx.volume(16, self.seed), volume_m=0.4, grain=0.15, glow=(1.0, 1.0, 1.0)),
            },
            fixed=shapes,
            moving=lambda _: Shapes(),
            path=lambda _: Pose.look_at((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
            lighting=Lighting(
                sun_direction=(0.0, 0.0, -1.0),
                sun=(0.0, 0.0, 0.0),
                zenith=(0.0, 0.0, 0.0),
                horizon=(0.0, 0.0, 0.0),
                ground=(0.0, 0.0, 0.0),
                haze=(0.0, 0.0, 0.0),
                haze_m=1e9,
            ),
            low=(-1.0, -1.0, 1.0),
            high=(1.0, 1.0, 2.0),
        )


def _texture(wall: Wall, seed: int) -> F32:
    """Linear colours with detail of a few pixels at the size of a case."""
    if wall == "letters":
        return tx.sign("BOKEH LENS", (0.75, 0.62, 0.30), (0.05, 0.13, 0.10), seed, scale=6)
    if wall == "noise":
        return tx.speckle(256, 256, (0.04, 0.07, 0.03), (0.55, 0.50, 0.30), 12, seed, 1.5)
    palette: tuple[RGB, ...] = ((0.36, 0.13, 0.075), (0.50, 0.30, 0.16), (0.22, 0.10, 0.08), (0.55, 0.45, 0.32))
    return tx.bricks(384, 512, 10, 6, palette, (0.60, 0.56, 0.50), seed, joint=0.16)
