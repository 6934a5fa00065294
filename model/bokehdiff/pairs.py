"""Pairs made on the fly: cut-outs before a background, seen through a pinhole and through a lens.

The published recipe by default, in proportion to the crop: a background on an inclined plane, one upright foreground nearer
than all of it, focus on either, blur of 3 to 96 px per disparity at 512 px. Unlike it, light is linear and passes at least 64
points of the lens, cut-outs keep their shape, and the published short-falls of the labels are an option. Pair n is a function
of the seed and n alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.bokehdiff.canvas import Floats, background, cutout, filling, placed
from model.bokehdiff.samples import PairSample
from pipeline.errors import UsageError
from pipeline.media.images import PICTURE_SUFFIXES, natural_key
from pipeline.optics import Lens, linear_to_srgb, srgb_to_linear
from pipeline.raytrace import Plane, render_layers
from pipeline.seeds import stable_seed

FOREGROUND_SUFFIXES = (".png", ".webp", ".tif", ".tiff")
HELD_OUT = 8  # every eighth file is validation's
_LOWEST, _FAR_RANGE = 0.001, 0.249  # disparity of the background
_OCTAVES = (-2.0, 3.0)  # of the strength
_NEAREST = 1.0


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What a pair is, as a run may set it.

    Args:
        crop: pixels a side, a multiple of 16. The scene around it goes on for a quarter of it on each side.
        strength_px: in the middle of the octaves; radius per disparity is strength 2^u / max(d_f, 1 - d_f), u in [-2, 3].
        foregrounds: at most that many cut-outs, the first the farthest; 1 is published.
        slanted: cut-outs on inclined planes too.
        gain: "exact", K as the blur was made; or "published", labels of 2/3 to 1 times max(d_f, 1 - d_f) of it.
        curve: "srgb", or "gamma", 2.2 as published.
        samples: rays per pixel.
        flip: left to right, half of the pictures.
        light_share: of pairs whose light is scaled by min(1.1, 0.7 + u).
        pool: make so many pairs and draw them again and again, kept in memory; 0 makes a new one for every sample.
    """

    crop: int = 512
    strength_px: float = 12.0
    foregrounds: int = 1
    slanted: bool = False
    gain: str = "exact"
    curve: str = "srgb"
    samples: int = 64
    flip: bool = True
    light_share: float = 0.75
    pool: int = 0


@dataclass(frozen=True, kw_only=True)
class PairSettings(PairOptions):
    """What a pair is, and which.

    Args:
        held_out: pairs of the files that training never draws.
        seed: of everything random.
    """

    held_out: bool = False
    seed: int = 0


def find_pictures(root: Path) -> tuple[list[Path], list[Path]]:
    """Cut-outs and backgrounds below <root>/fg and <root>/bg, in natural order.

    Raises:
        UsageError: a folder is missing or holds too few to hold some out.
    """
    found = []
    for name, suffixes, what in (
        ("fg", FOREGROUND_SUFFIXES, "cut-outs with alpha"),
        ("bg", PICTURE_SUFFIXES, "all-in-focus pictures"),
    ):
        folder = root / name
        files = [p for p in folder.rglob("*") if p.suffix.lower() in suffixes] if folder.is_dir() else []
        if len(files) < 2:
            raise UsageError(
                f"{folder} must hold two or more {what} ({', '.join(suffixes)}), found {len(files)}; every "
                f"{HELD_OUT}th is kept for validation"
            )
        found.append(sorted(files, key=lambda p: natural_key(str(p.relative_to(folder)))))
    return found[0], found[1]


def part_of(files: Sequence[Path], held_out: bool) -> list[Path]:
    """The files that training draws, or those it never does: the first of every eight."""
    return [path for number, path in enumerate(files) if (number % HELD_OUT == 0) == held_out]


class Pairs:
    """Pairs by number, without end.

    Args:
        root: the folder with fg/ and bg/.
        settings: what a pair is.

    Raises:
        UsageError: see `find_pictures`.
        InputError: a cut-out has no alpha; all of them are opened.
    """

    def __init__(self, root: Path, settings: PairSettings) -> None:
        cutouts, backgrounds = find_pictures(root)
        self.settings = settings
        self.cutouts, self.backgrounds = (part_of(files, settings.held_out) for files in (cutouts, backgrounds))
        for path in self.cutouts:
            cutout(path)
        self._kept: dict[int, PairSample] = {}

    def __len__(self) -> int:
        return len(self.cutouts) * len(self.backgrounds)

    def __getitem__(self, number: int, /) -> PairSample:
        if not self.settings.pool:
            return self._make(number)
        number %= self.settings.pool
        if number not in self._kept:
            self._kept[number] = self._make(number)
        return self._kept[number]

    def _make(self, number: int) -> PairSample:
        settings = self.settings
        seed = stable_seed("bokehdiff pair", settings.seed, settings.held_out, number)
        rng = np.random.Generator(np.random.PCG64(seed))
        back = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        count = int(rng.integers(1, settings.foregrounds + 1))
        fronts = [self.cutouts[int(rng.integers(len(self.cutouts)))] for _ in range(count)]
        planes = _planes(back, fronts, settings, rng)
        name = f"pair {number} of {back.name} and {', '.join(path.name for path in fronts)}"
        return _photographed(name, planes, settings, rng, seed)


def _photographed(
    name: str, planes: list[Plane], settings: PairSettings, rng: np.random.Generator, seed: int
) -> PairSample:
    """`planes` from the nearest on."""
    margin = margin_px(settings.crop)
    focus = _focus(planes, rng)
    reach = max(focus, 1 - focus)
    gain = settings.strength_px * 2 ** float(rng.uniform(*_OCTAVES)) / reach
    light = min(1.1, 0.7 + float(rng.random())) if rng.random() < settings.light_share else 1.0
    short = float(rng.uniform(2 / 3, 1)) * reach if settings.gain == "published" else 1.0
    # A lens of that K at one pixel per millimetre: K = f^2 / (2 N), in millimetres.
    lens = Lens(f_m=0.05, f_number=2.5 / 2 / gain, focus_m=1 / focus)
    blurred = render_layers(
        planes, lens, px_per_mm=1.0, margin_px=margin, samples=settings.samples, seed=seed, workers=1
    )
    sharp, disparity = _pinhole(planes, margin)
    return PairSample(
        name=name,
        sharp=_encoded(sharp * np.float32(light), settings.curve),
        bokeh=_encoded(blurred * np.float32(light), settings.curve),
        disparity=torch.from_numpy(disparity),
        focus=focus,
        gain_px=gain * short,
    )


def margin_px(crop: int) -> int:
    """How far the scene goes on around the crop: to the published 768 px at 512."""
    return crop // 4


def _planes(back: Path, fronts: Sequence[Path], settings: PairSettings, rng: np.random.Generator) -> list[Plane]:
    side = settings.crop + 2 * margin_px(settings.crop)
    spread = float(rng.uniform(0, _FAR_RANGE))
    across = float(rng.uniform(-1, 1))
    along = (1 - abs(across)) * float(rng.choice([-1, 1]))
    middle = _LOWEST + spread / 2
    planes = [
        Plane(
            linear=_linear(filling(background(back), side, rng, settings.flip), settings.curve),
            disparity=middle,
            slope=(spread * across / side, spread * along / side),
        )
    ]
    edges = np.sort(rng.uniform(_LOWEST + spread, _NEAREST, len(fronts))).tolist()
    for number, path in enumerate(fronts):
        picture, alpha = placed(cutout(path), side, rng, settings.flip)
        slope = (0.0, 0.0)
        if settings.slanted:
            below = planes[-1].range()[1]
            above = edges[number + 1] if number + 1 < len(edges) else _NEAREST
            room = 0.9 * min(edges[number] - below, (above - edges[number]) / 2)
            tilt = float(rng.uniform(-1, 1))
            slope = (room * tilt / side, room * (1 - abs(tilt)) / side)
        planes.append(Plane(linear=_linear(picture, settings.curve), alpha=alpha, disparity=edges[number], slope=slope))
    return planes[::-1]


def _focus(planes: Sequence[Plane], rng: np.random.Generator) -> float:
    """On one of the planes; somewhere on it, where it is inclined."""
    low, high = planes[int(rng.integers(len(planes)))].range()
    return float(rng.uniform(low, high)) if high > low else low


def _pinhole(planes: Sequence[Plane], margin: int) -> tuple[Floats, Floats]:
    """Linear light (H, W, 3) and disparity (H, W), which belongs to whichever plane covers more than half."""
    height, width = planes[-1].linear.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    light = np.zeros((height, width, 3), np.float32)
    disparity = np.zeros((height, width), np.float32)
    for plane in planes[::-1]:
        cover = np.ones((height, width), np.float32) if plane.alpha is None else plane.alpha
        light += (plane.linear - light) * cover[..., None]
        here = plane.disparity + plane.slope[0] * (x - width / 2) + plane.slope[1] * (y - height / 2)
        disparity = np.where(cover > 0.5, here, disparity)
    inner = np.s_[margin : height - margin, margin : width - margin]
    return light[inner], np.clip(disparity[inner], 0, 1).astype(np.float32)


def _linear(encoded: Floats, curve: str) -> Floats:
    if curve == "gamma":
        return np.asarray(np.maximum(encoded, 0) ** 2.2, np.float32)
    return srgb_to_linear(torch.from_numpy(np.ascontiguousarray(encoded))).numpy()


def _encoded(linear: Floats, curve: str) -> torch.Tensor:
    light = torch.from_numpy(np.ascontiguousarray(linear)).clamp(0, math.inf)
    shown = light ** (1 / 2.2) if curve == "gamma" else linear_to_srgb(light)
    return shown.clamp(0, 1).permute(2, 0, 1).contiguous()
