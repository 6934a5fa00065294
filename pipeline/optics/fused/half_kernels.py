"""Layers of the half grid around the FFT: made, filtered, stacked.

Special: made and filtered a group at a time, so that the layers of one group lie in the cache of the card when they are
transformed. A block writes zeros for a layer that none of its samples belongs to, without reading them.

Shape letters: H, W = picture; h, w = half-resolution grid; fh, fw = that grid with room around it, as the FFT sees it;
F = fh * fw; S = fh * (fw / 2 + 1); G = groups of layers; P = planes of a spread.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from pipeline.optics import composite
from pipeline.optics.fused.common_kernels import hat, load_spread, mirrored, share_of, store_spread

TINY = tl.constexpr(composite.TINY)


@triton.jit
def taps(k, y, x, room, height, width, fh, fw):
    """Flat index of one of the 16 pixels of a half-grid sample, and its weight: 1 3 3 1 each way, `layers.halve`."""
    i, j = k // 4, k % 4
    # The grid repeats its own border where a tap falls off it; only then the picture is mirrored.
    row = tl.minimum(tl.maximum(2 * y + i - 1, 0), 2 * fh - 1) - 2 * room
    column = tl.minimum(tl.maximum(2 * x + j - 1, 0), 2 * fw - 1) - 2 * room
    down, right = 0.125 + 0.25 * ((i == 1) | (i == 2)), 0.125 + 0.25 * ((j == 1) | (j == 2))
    return mirrored(row, height) * width + mirrored(column, width), down * right


@triton.jit
def find_ranges(own, other, hidden, ranges, room, height, width, h, w, fh, fw, TILE: tl.constexpr):
    """Least and largest position in a tile of the FFT's grid: own, other and hidden samples, (6) each."""
    columns = (fw + TILE - 1) // TILE
    program = tl.program_id(0)
    lane = tl.arange(0, TILE * TILE)
    y, x = program // columns * TILE + lane // TILE, program % columns * TILE + lane % TILE
    y, x = tl.minimum(y, fh - 1), tl.minimum(x, fw - 1)
    count, n = height * width, h * w
    low, high = tl.full([TILE * TILE], 1e30, tl.float32), tl.full([TILE * TILE], -1e30, tl.float32)
    low2, high2 = low, high
    for k in range(16):
        at, _weight = taps(k, y, x, room, height, width, fh, fw)
        position = tl.load(own + 4 * count + at)
        low, high = tl.minimum(low, position), tl.maximum(high, position)
        position, there = tl.load(other + 4 * count + at), tl.load(other + at) != 0
        low2 = tl.where(there, tl.minimum(low2, position), low2)
        high2 = tl.where(there, tl.maximum(high2, position), high2)
    at = mirrored(y - room, h) * w + mirrored(x - room, w)
    position, there = tl.load(hidden + 4 * n + at), tl.load(hidden + at) != 0
    tl.store(ranges + 6 * program, tl.min(low, axis=0))
    tl.store(ranges + 6 * program + 1, tl.max(high, axis=0))
    tl.store(ranges + 6 * program + 2, tl.min(low2, axis=0))
    tl.store(ranges + 6 * program + 3, tl.max(high2, axis=0))
    tl.store(ranges + 6 * program + 4, tl.min(tl.where(there, position, 1e30), axis=0))
    tl.store(ranges + 6 * program + 5, tl.max(tl.where(there, position, -1e30), axis=0))


@triton.jit
def touches(ranges, sign, step):
    """Whether a range of positions holds any that a layer has a share of; an empty range holds none."""
    low, high = tl.load(ranges), tl.load(ranges + 1)
    return (
        (low <= high)
        & (tl.maximum(sign * low, sign * high) > step - 1)
        & (tl.minimum(sign * low, sign * high) < step + 1)
    )


@triton.jit
def halved(surface, sign, step, y, x, room, height, width, fh, fw, cover, r, g, b):
    """Add one surface's samples of a layer, brought to the half grid."""
    count = height * width
    for k in range(16):
        at, weight = taps(k, y, x, room, height, width, fh, fw)
        share = weight * hat(sign * tl.load(surface + 4 * count + at), step)
        its_cover, its_r, its_g, its_b = load_spread(surface + at, count, share)
        cover, r, g, b = cover + its_cover, r + its_r, g + its_g, b + its_b
    return cover, r, g, b


@triton.jit
def make_layer(own, other, hidden, ranges, layer, sign, first_visible, first_hidden, room,
               height, width, h, w, fh, fw, PLANES: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """One layer of a group for each program of the second axis, (P, F) each."""
    columns = (fw + TILE - 1) // TILE
    program, number = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, TILE * TILE)
    y, x = program // columns * TILE + lane // TILE, program % columns * TILE + lane % TILE
    inside = (y < fh) & (x < fw)
    y, x = tl.minimum(y, fh - 1), tl.minimum(x, fw - 1)
    n = h * w
    zero = tl.zeros([TILE * TILE], tl.float32)
    cover, r, g, b, invented = zero, zero, zero, zero, zero
    ranges += 6 * program
    if first_visible >= 0:
        step = first_visible + number
        if touches(ranges, sign, step):
            cover, r, g, b = halved(own, sign, step, y, x, room, height, width, fh, fw, cover, r, g, b)
        if touches(ranges + 2, sign, step):
            cover, r, g, b = halved(other, sign, step, y, x, room, height, width, fh, fw, cover, r, g, b)
    if touches(ranges + 4, sign, first_hidden + number):
        at = mirrored(y - room, h) * w + mirrored(x - room, w)
        share = hat(sign * tl.load(hidden + 4 * n + at), first_hidden + number)
        invented, its_r, its_g, its_b = load_spread(hidden + at, n, share)
        cover, r, g, b = cover + invented, r + its_r, g + its_g, b + its_b
    area = fh * fw
    layer += number * PLANES * area + y * fw + x
    store_spread(layer, area, cover, r, g, b, invented, inside, PLANES)


@triton.jit
def filter_group(spectrum, kernels, out, layers, size, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """Every layer's spectrum (P, S) times its kernel's (S), summed over the group: complex numbers as pairs."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    plane = tl.program_id(1)
    inside = at < size
    real, imaginary = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for k in range(layers):
        there = spectrum + 2 * ((k * PLANES + plane) * size + at)
        a, b = tl.load(there, mask=inside), tl.load(there + 1, mask=inside)
        c, d = (tl.load(kernels + 2 * (k * size + at), mask=inside),
                tl.load(kernels + 2 * (k * size + at) + 1, mask=inside))  # fmt: skip
        real += a * c - b * d
        imaginary += a * d + b * c
    tl.store(out + 2 * (plane * size + at), real, mask=inside)
    tl.store(out + 2 * (plane * size + at) + 1, imaginary, mask=inside)


@triton.jit
def stack_groups(blurred, hidden, spreads, first, room, h, w, fh, fw,
                 PLANES: tl.constexpr, UNITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Groups (G, P, fh, fw) of each unit from front to back, and last the hidden surfaces in focus: (UNITS + 1, P, h * w).

    Args:
        first: (UNITS + 1) a unit's first group; groups of a unit follow each other, nearest first.
    """
    n, area = h * w, fh * fw
    at, inside = share_of(n, BLOCK)
    there = blurred + (at // w + room) * fw + at % w + room
    for unit in range(UNITS):
        cover = tl.zeros([BLOCK], tl.float32)
        r, g, b, invented = cover, cover, cover, cover
        for group in range(tl.load(first + unit), tl.load(first + unit + 1)):
            given = tl.load(there + group * PLANES * area)
            taken = tl.minimum(tl.maximum(given, 0.0), 1 - cover)
            share = taken / tl.maximum(given, TINY)
            r += share * tl.load(there + (group * PLANES + 1) * area)
            g += share * tl.load(there + (group * PLANES + 2) * area)
            b += share * tl.load(there + (group * PLANES + 3) * area)
            if PLANES == 5:
                invented += share * tl.load(there + (group * PLANES + 4) * area)
            cover += taken
        store_spread(spreads + unit * PLANES * n + at, n, cover, r, g, b, invented, inside, PLANES)
    share = hat(tl.load(hidden + 4 * n + at), 0)
    cover, r, g, b = load_spread(hidden + at, n, share)
    store_spread(spreads + UNITS * PLANES * n + at, n, cover, r, g, b, cover, inside, PLANES)
