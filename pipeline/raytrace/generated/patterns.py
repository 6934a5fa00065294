"""More textures for generated scenes: checks, dots, weaves, planks and painted pictures; all periodic, linear light."""

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.light import RGB

SIZE = 256


def _worn(colour: F32, seed: int, strength: float) -> F32:
    """The picture with patches of wear and a fine grain."""
    height, width = colour.shape[:2]
    field = tx.noise(height, width, 5, seed, octaves=7, falloff=0.7)
    return tx.emboss(colour * (1 + strength * (field - 0.5))[..., None], field, 0.6)


def checks(first: RGB, second: RGB, count: int, seed: int, *, slant: bool = False) -> F32:
    """(SIZE, SIZE, 3) squares of two colours, `count` (even) along each side; slanted ones stand on a corner."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) * (count / SIZE)
    a, b = (np.floor((x + y) / 2), np.floor((x - y) / 2)) if slant else (np.floor(x), np.floor(y))
    return _worn(tx.mix(first, second, ((a + b) % 2).astype(np.float32)), seed, 0.5)


def dots(paper: RGB, ink: RGB, count: int, seed: int) -> F32:
    """(SIZE, SIZE, 3) round dots in two interleaved grids, `count` along each side."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) * (count / SIZE)
    shifted = x + 0.5 * (np.floor(y) % 2)
    far = np.hypot(shifted % 1 - 0.5, y % 1 - 0.5)
    return _worn(tx.mix(paper, ink, np.clip((0.34 - far) * 24, 0, 1)), seed, 0.3)


def weave(first: RGB, second: RGB, third: RGB, seed: int) -> F32:
    """(SIZE, SIZE, 3) a plaid of crossing bands over a fine weave."""
    rng = tx.generator("weave", seed)
    bands = np.repeat(rng.integers(0, 3, 16), SIZE // 16)
    colours = np.asarray([first, second, third], np.float32)
    thread = (np.add.outer(np.arange(SIZE), np.arange(SIZE)) // 2 % 2).astype(np.float32)
    return _worn(tx.mix(colours[bands][None, :] + 0 * thread[..., None], colours[bands][:, None], thread), seed, 0.25)


def planks(first: RGB, second: RGB, count: int, seed: int) -> F32:
    """(SIZE, SIZE, 3) boards side by side along v, each of its own shade, with grain that runs along them."""
    rng = tx.generator("planks", seed)
    shade = np.repeat(rng.random(count).astype(np.float32), -(-SIZE // count))[:SIZE]
    x = np.arange(SIZE, dtype=np.float32) * (count / SIZE)
    grain = np.tile(tx.noise(SIZE // 8, SIZE, 4, seed, octaves=6, falloff=0.8).repeat(8, axis=0), (1, 1))
    colour = tx.mix(first, second, np.clip(shade[None] * 0.6 + grain * 0.5, 0, 1))
    gap = np.where(np.abs(x % 1 - 0.5) > 0.47, np.float32(0.35), np.float32(1))
    return (colour * gap[None, :, None]).astype(np.float32)


def painting(colours: tuple[RGB, ...], seed: int, *, width: int = 240, height: int = 180) -> F32:
    """(height, width, 3) a picture to hang: washes of colour, discs, bars and a mount around it."""
    rng = tx.generator("painting", seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wash = tx.noise(height, width, 3, seed, octaves=6, falloff=0.6)
    picture = tx.mix(colours[0], colours[1], np.clip(wash * 2 - 0.5 + 0.5 * y[..., :] / height - 0.25, 0, 1))
    for _ in range(int(rng.integers(5, 12))):
        colour = colours[int(rng.integers(len(colours)))]
        cx, cy = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        size = float(rng.uniform(0.06, 0.24)) * width
        if rng.random() < 0.5:
            inside = np.hypot(x - cx, y - cy) < size * 0.6
        else:
            angle = float(rng.uniform(0, np.pi))
            u, v = (
                (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle),
                (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle),
            )
            inside = (np.abs(u) < size) & (np.abs(v) < size * 0.14)
        picture = tx.mix(picture, colour, inside * np.float32(0.9))
    edge = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    picture = tx.mix(picture, (0.72, 0.70, 0.64), (edge < 0.07 * width).astype(np.float32))
    return (tx.mix(picture, (0.05, 0.035, 0.02), (edge < 0.03 * width).astype(np.float32))).astype(np.float32)
