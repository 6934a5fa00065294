"""Procedural textures, baked once per scene into small periodic pictures of linear colour.

A lookup in a picture costs a tenth of evaluating noise per ray, and millions of rays look. Relief is baked too: a
height field is lit from one side (`emboss`), which gives stone and brick their grain without a normal per texel.
Everything is a pure function of its seed.
"""

import numpy as np

from pipeline.raytrace.geometry import F32
from pipeline.seeds import stable_seed

# 5 x 7 letters as rows of bits, most significant bit left; enough for a shop sign.
_GLYPHS = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    " ": (0, 0, 0, 0, 0, 0, 0),
}


def generator(*parts: str | int) -> np.random.Generator:
    """A random generator that depends on nothing but these names and numbers."""
    return np.random.Generator(np.random.PCG64(stable_seed("raytrace", *parts)))


def noise(height: int, width: int, cells: int, seed: int, octaves: int = 5, falloff: float = 0.55) -> F32:
    """Periodic value noise, summed over octaves.

    Args:
        height, width: texels.
        cells: lattice cells of the first octave along the shorter side; doubles per octave.
        seed: any integer.
        octaves: how many; those finer than a texel are left out.
        falloff: weight of an octave relative to the one before.

    Returns:
        (height, width) float32, mean about 0.5, clipped to [0, 1].
    """
    total, weight, norm = np.zeros((height, width), np.float32), 1.0, 0.0
    for octave in range(octaves):
        rows = max(1, round(cells * 2**octave * height / min(height, width)))
        columns = max(1, round(cells * 2**octave * width / min(height, width)))
        if rows > height or columns > width:
            break
        lattice = generator("noise", seed, octave).random((rows, columns), dtype=np.float32)
        (r0, r1, fr), (c0, c1, fc) = _lattice_axis(height, rows), _lattice_axis(width, columns)
        across = lattice[:, c0] * (1 - fc) + lattice[:, c1] * fc
        total += weight * (across[r0] * (1 - fr)[:, None] + across[r1] * fr[:, None])
        norm += weight**2
        weight *= falloff
    centred = (total - total.mean()) / np.float32(2.2 * norm**0.5 * 0.29)
    return np.clip(centred * 0.5 + 0.5, 0, 1).astype(np.float32)


def _lattice_axis(size: int, cells: int) -> tuple[np.ndarray, np.ndarray, F32]:
    position = np.arange(size, dtype=np.float32) * cells / size
    low = np.floor(position).astype(np.int64)
    t = position - low
    return low % cells, (low + 1) % cells, (t * t * (3 - 2 * t)).astype(np.float32)


def mix(a: F32 | tuple[float, ...], b: F32 | tuple[float, ...], amount: F32) -> F32:
    """Linear blend of two colours or pictures; `amount` (h, w) in [0, 1]."""
    first, second = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return (first + (second - first) * amount[..., None]).astype(np.float32)


def emboss(colour: F32, height_field: F32, strength: float) -> F32:
    """Light a height field from the upper left and multiply it onto the colour; both periodic."""
    slope = np.roll(height_field, 1, 1) - np.roll(height_field, -1, 1)
    slope = slope * 0.6 + (np.roll(height_field, -1, 0) - np.roll(height_field, 1, 0)) * -0.8
    return (colour * np.clip(1 + strength * slope, 0.35, 1.75)[..., None]).astype(np.float32)


def bricks(
    height: int,
    width: int,
    rows: int,
    columns: int,
    palette: tuple[tuple[float, float, float], ...],
    mortar: tuple[float, float, float],
    seed: int,
    *,
    joint: float = 0.08,
    wobble: float = 0.0,
) -> F32:
    """Courses of bricks or hewn stones.

    Args:
        height, width: texels.
        rows: courses, even, so that the picture repeats.
        columns: stones in a course.
        palette: linear colours to choose from, per stone.
        mortar: linear colour of the joints.
        seed: any integer.
        joint: width of a joint as part of a course's height.
        wobble: how irregular the stones are: 0 is a brick wall, 0.3 a wall of field stones.

    Returns:
        (height, width, 3) linear colour with baked relief.
    """
    rng = generator("bricks", seed)
    bend = noise(height, width, rows, seed + 1, octaves=3) - 0.5
    bend2 = noise(height, width, rows, seed + 2, octaves=3) - 0.5
    y = np.arange(height, dtype=np.float32)[:, None] / height * rows + bend * wobble * 1.6
    row = np.floor(y).astype(np.int64)
    shift = 0.5 * (row % 2) + (rng.random(rows).astype(np.float32) - 0.5)[row % rows] * wobble
    x = np.arange(width, dtype=np.float32)[None, :] / width * columns + shift + bend2 * wobble
    column = np.floor(x).astype(np.int64)
    # A stone may lean into its neighbour: joints move by a random amount per stone, less than half its width.
    edge = (rng.random((rows, columns)).astype(np.float32) - 0.5) * min(0.9, wobble * 2.2)
    here = edge[row % rows, column % columns]
    column = np.where(x - column < here, column - 1, column)
    left, right = edge[row % rows, column % columns], edge[row % rows, (column + 1) % columns]
    aspect = (width / columns) / (height / rows)
    inside_x = np.minimum(x - column - left, column + 1 + right - x) * aspect
    inside = np.minimum(inside_x, np.minimum(y - row, row + 1 - y))
    stone = np.clip((inside - joint / 2) / (joint * 0.8), 0, 1)
    pick = rng.integers(0, len(palette), (rows, columns))[row % rows, column % columns]
    shade = (0.72 + 0.5 * rng.random((rows, columns)).astype(np.float32))[row % rows, column % columns]
    grain = noise(height, width, rows * 2, seed + 3, octaves=6, falloff=0.7)
    colour = np.asarray(palette, np.float32)[pick] * (shade * (0.7 + 0.6 * grain))[..., None]
    relief = np.clip(inside / 0.3, 0, 1) ** 0.5 * 0.8 + grain * (0.25 + wobble)
    joints = np.asarray(mortar, np.float32) * (0.75 + 0.5 * grain)[..., None]
    return emboss(mix(joints, colour.astype(np.float32), stone.astype(np.float32)), relief.astype(np.float32), 1.3)


def speckle(height: int, width: int, dark: tuple, light: tuple, cells: int, seed: int, strength: float = 1.2) -> F32:
    """Two-tone rough ground or stone: noise between two linear colours, embossed by itself."""
    field = noise(height, width, cells, seed, octaves=8, falloff=0.75)
    return emboss(mix(dark, light, field), field, strength)


def stripes(height: int, width: int, count: int, first: tuple, second: tuple, seed: int) -> F32:
    """Vertical stripes (planks, awnings, shutters) with worn paint."""
    wave = (np.arange(width, dtype=np.float32) / width * count) % 1.0
    amount = np.broadcast_to((wave < 0.5).astype(np.float32)[None], (height, width))
    worn = 0.8 + 0.4 * noise(height, width, 6, seed, octaves=5)
    return (mix(first, second, amount) * worn[..., None]).astype(np.float32)


def letters(text: str) -> F32:
    """(7, 6 n - 1) a line of letters as cells of 0 and 1, row 0 on top."""
    unknown = sorted(set(text) - set(_GLYPHS))
    if unknown:
        raise ValueError(f"sign text must use the letters {''.join(sorted(_GLYPHS))!r}, got {unknown} in {text!r}")
    cells = np.zeros((7, 6 * len(text) - 1), np.float32)
    for i, letter in enumerate(text):
        cells[:, 6 * i : 6 * i + 5] = [[value >> (4 - bit) & 1 for bit in range(5)] for value in _GLYPHS[letter]]
    return cells


def sign(text: str, ink: tuple, paper: tuple, seed: int, scale: int = 12, margin: int = 2) -> F32:
    """A painted board with letters, its aspect given by the text; row 0 is the top."""
    cells = np.pad(letters(text), margin)
    cells[0, :] = cells[-1, :] = cells[:, 0] = cells[:, -1] = 0.7
    big = np.kron(cells, np.ones((scale, scale), np.float32))
    worn = 0.85 + 0.3 * noise(big.shape[0], big.shape[1], 4, seed, octaves=5)
    return (mix(paper, ink, big) * worn[..., None]).astype(np.float32)


def volume(size: int, seed: int, octaves: int = 4, first: int = 4) -> F32:
    """(size, size, size) periodic noise in [0, 1] for solid materials such as fur, leaves and rocks."""
    total, weight = np.zeros((size, size, size), np.float32), 1.0
    for octave in range(octaves):
        cells = first * 2**octave
        lattice = generator("volume", seed, octave).random((cells, cells, cells), dtype=np.float32)
        low, high, t = _lattice_axis(size, cells)
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = size
            weights = t.reshape(shape)
            lattice = np.take(lattice, low, axis) * (1 - weights) + np.take(lattice, high, axis) * weights
        total += weight * (lattice - 0.5)
        weight *= 0.7
    return np.clip(total / (3.2 * total.std()) + 0.5, 0, 1).astype(np.float32)


def relief(solid: F32) -> F32:
    """(n, n, n, 3) slope of a periodic volume in units per texel: tilts normals, so that fur and rock catch the light."""
    slopes = [(np.roll(solid, -1, axis) - np.roll(solid, 1, axis)) / 2 for axis in range(3)]
    return np.stack(slopes, axis=-1).astype(np.float32)


def window(height: int, width: int, seed: int) -> F32:
    """A lit window from outside: warm room, curtains at the sides, a dark sill with things on it, glazing bars."""
    rng = generator("window", seed)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    light = 1.15 - 0.55 * (y - 0.25) ** 2 - 0.35 * x**2
    folds = 0.75 + 0.25 * np.sin(x * 40 + 2 * np.sin(y * 3))
    light = np.where(np.abs(x) > 0.62 + 0.08 * y, light * 0.55 * folds, light)
    for _ in range(4):
        at, tall, half = rng.uniform(-0.6, 0.6), rng.uniform(0.12, 0.45), rng.uniform(0.04, 0.12)
        light = np.where((np.abs(x - at) < half) & (y > 1 - tall), light * 0.3, light)
    bars = (np.abs(x) < 0.035) | (np.abs(y - 0.36) < 0.018) | (y > 0.975) | (y < 0.02) | (np.abs(x) > 0.97)
    light = np.where(bars, 0.06, light).astype(np.float32)
    warm = np.stack([light, light**1.15, light**1.5], axis=-1)
    return np.asarray(warm, np.float32)
