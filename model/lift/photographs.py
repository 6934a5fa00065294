"""Clips made of photographs: layers that move, turn and grow, with exact flow at any instant.

A background and a few cut-out layers, each an endless plane that a photograph covers (mirrored at its edges), move by smooth
affine paths. A layer's path says where every point of it is at any time, so flow and occlusion are exact, and so is any t.
Sample n is a function of the seed and n alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.media.images import PICTURE_SUFFIXES, Picture, natural_key, read_picture

_Floats = npt.NDArray[np.float32]
_CACHED = 64  # photographs in memory


@dataclass(frozen=True, kw_only=True)
class PhotographSettings:
    """How lively the clips are. One unit of time is the distance between the target's neighbours.

    Args:
        max_shift_px: of the background in a unit of time; drawn log-uniformly from 0.25 px on. Layers move as much again.
        max_turn_deg, max_growth: in a unit of time.
        max_layers: in front of the background.
        static_share: of clips with one layer that stands still in the picture, as overlays do.
        light_share: of clips whose light changes.
    """

    max_shift_px: float = 24.0
    max_turn_deg: float = 4.0
    max_growth: float = 0.05
    max_layers: int = 3
    static_share: float = 0.1
    light_share: float = 0.1


@dataclass(frozen=True)
class _Path:
    """centre + velocity t + swing sin(rate t + phase), a turn and a growth per unit of time."""

    centre: tuple[float, float]
    velocity: tuple[float, float]
    swing: tuple[float, float]
    rate: float
    phase: float
    turn: float
    growth: float
    angle: float
    scale: float

    def matrix(self, time: float) -> npt.NDArray[np.float64]:
        """(3, 3) from the layer's coordinates to the picture's."""
        sway = math.sin(self.rate * time + self.phase) - math.sin(self.phase)
        x = self.centre[0] + self.velocity[0] * time + self.swing[0] * sway
        y = self.centre[1] + self.velocity[1] * time + self.swing[1] * sway
        angle, scale = self.angle + self.turn * time, self.scale * math.exp(self.growth * time)
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


@dataclass(frozen=True)
class _Layer:
    photograph: Picture
    anchor: tuple[float, float]  # of the photograph, at the layer's origin
    path: _Path
    outline: tuple[float, ...] | None  # radius, then (share, phase) per harmonic; None covers everything

    def coordinates(self, time: float, grid: _Floats) -> _Floats:
        """Picture coordinates (..., 2) -> the layer's."""
        inverse = np.linalg.inv(self.path.matrix(time)).astype(np.float32)
        moved: _Floats = grid @ inverse[:2, :2].T + inverse[:2, 2]
        return moved

    def cover(self, points: _Floats) -> _Floats:
        """Opacity at points of the layer, falling from 1 to 0 over about one pixel."""
        if self.outline is None:
            return np.ones(points.shape[:-1], np.float32)
        opacity = np.zeros(points.shape[:-1], np.float32)
        radius = np.hypot(points[..., 0], points[..., 1])
        inside = radius < 2 * self.outline[0]  # the shares of four harmonics sum to less than 1
        x, y = points[inside].T
        angle = np.arctan2(y, x)
        edge = np.full(angle.shape, self.outline[0], np.float32)
        for order, (share, phase) in enumerate(zip(self.outline[1::2], self.outline[2::2], strict=True), 2):
            edge += np.float32(self.outline[0] * share) * np.cos(order * angle + np.float32(phase))
        opacity[inside] = np.clip((edge - radius[inside]) * self.path.scale + 0.5, 0, 1)
        return opacity

    def colours(self, points: _Floats) -> _Floats:
        x, y = points[..., 0] + np.float32(self.anchor[0]), points[..., 1] + np.float32(self.anchor[1])
        found = cv2.remap(self.photograph, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class MovingPhotographs:
    """One clip.

    Args:
        layers: from the back to the front.
        size: (width, height).
        light: gain per unit of time, as a logarithm.
    """

    layers: tuple[_Layer, ...]
    size: tuple[int, int]
    light: float

    def _grid(self) -> _Floats:
        width, height = self.size
        return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)

    def frame(self, time: float) -> Picture:
        """(H, W, 3) uint8 at an instant."""
        grid = self._grid()
        picture = np.zeros((*grid.shape[:2], 3), np.float32)
        for layer in self.layers:
            points = layer.coordinates(time, grid)
            opacity = layer.cover(points)[..., None]
            picture += (layer.colours(points) - picture) * opacity
        return np.clip(np.rint(picture * math.exp(self.light * time)), 0, 255).astype(np.uint8)

    def _front(self, time: float, points: _Floats) -> npt.NDArray[np.int64]:
        """Number of the layer that is seen at picture points."""
        front = np.zeros(points.shape[:-1], np.int64)
        for number, layer in enumerate(self.layers):
            front[layer.cover(layer.coordinates(time, points)) >= 0.5] = number
        return front

    def flow(self, first: float, second: float) -> tuple[_Floats, npt.NDArray[np.bool_]]:
        """Exact flow (H, W, 2) of the picture at one instant towards another, and where that point is not seen there."""
        grid = self._grid()
        front = self._front(first, grid)
        arrived = grid.copy()
        for number, layer in enumerate(self.layers):
            to = layer.path.matrix(second).astype(np.float32)
            there = layer.coordinates(first, grid) @ to[:2, :2].T + to[:2, 2]
            arrived[front == number] = there[front == number]
        width, height = self.size
        x, y = arrived[..., 0], arrived[..., 1]
        outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
        return arrived - grid, outside | (self._front(second, arrived) != front)


@lru_cache(maxsize=_CACHED)
def _photograph(path: Path) -> Picture:
    return read_picture(path)[0]


def find_photographs(root: Path) -> list[Path]:
    """Pictures anywhere below a folder, in natural order; UsageError when there are fewer than two."""
    found = [p for p in root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES] if root.is_dir() else []
    if len(found) < 2:
        raise UsageError(f"{root} must hold two photographs or more, found {len(found)}")
    return sorted(found, key=lambda p: natural_key(str(p.relative_to(root))))


def draw_clip(
    files: Sequence[Path], size: tuple[int, int], settings: PhotographSettings, rng: np.random.Generator
) -> MovingPhotographs:
    """A clip of a size (width, height), as the generator has it."""
    width, height = size
    shift = _log_uniform(rng, 0.25, settings.max_shift_px)
    background = _Layer(*_texture(files, rng), _path(rng, size, shift, settings), None)
    layers = [background]
    for _ in range(int(rng.integers(0, settings.max_layers + 1))):
        extra = _path(rng, size, _log_uniform(rng, 0.5, settings.max_shift_px), settings)
        radius = rng.uniform(0.1, 0.35) * min(size)
        harmonics = [v for _ in range(4) for v in (rng.uniform(0, 0.2), rng.uniform(0, 2 * math.pi))]
        layers.append(_Layer(*_texture(files, rng), extra, (float(radius / extra.scale), *map(float, harmonics))))
    if len(layers) > 1 and rng.random() < settings.static_share:
        path = replace(layers[-1].path, velocity=(0, 0), swing=(0, 0), turn=0, growth=0)
        layers[-1] = replace(layers[-1], path=path)
    light = float(rng.normal(0, 0.1)) if rng.random() < settings.light_share else 0.0
    return MovingPhotographs(tuple(layers), (width, height), light)


def _texture(files: Sequence[Path], rng: np.random.Generator) -> tuple[Picture, tuple[float, float]]:
    picture = _photograph(files[int(rng.integers(len(files)))])
    return picture, (float(rng.uniform(0, picture.shape[1])), float(rng.uniform(0, picture.shape[0])))


def _path(rng: np.random.Generator, size: tuple[int, int], shift: float, settings: PhotographSettings) -> _Path:
    direction = rng.uniform(0, 2 * math.pi)
    swings = rng.random() < 0.3
    return _Path(
        centre=(float(rng.uniform(0, size[0])), float(rng.uniform(0, size[1]))),
        velocity=(shift * math.cos(direction), shift * math.sin(direction)),
        swing=tuple(float(v) for v in rng.normal(0, 0.3 * shift if swings else 0.0, 2)),  # type: ignore[arg-type]
        rate=float(rng.uniform(0.3, 2.0)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        turn=math.radians(float(rng.normal(0, settings.max_turn_deg / 2))) * float(rng.random() < 0.5),
        growth=float(rng.normal(0, settings.max_growth / 2)),
        angle=math.radians(float(rng.normal(0, 15))),
        scale=_log_uniform(rng, 0.6, 1.3),
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))
