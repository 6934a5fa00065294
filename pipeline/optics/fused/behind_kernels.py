"""`bridge.bridge_thin` in two passes: how well the ends of bridges agree in every cell, then the bridges.

Special: both passes send the same rays; sending them twice costs less than keeping eight bridges for every pixel.

Shape letters: H, W = picture; N = H * W; R = directions; C = cells.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from pipeline.optics import bridge
from pipeline.optics.fused.common_kernels import clamped, share_of

REACH, CELL = tl.constexpr(bridge.REACH), tl.constexpr(bridge.CELL)
CLEAN, FAR_BELOW = tl.constexpr(bridge.CLEAN), tl.constexpr(bridge.FAR_BELOW)
GAP_LOW, GAP_HIGH = (tl.constexpr(value) for value in bridge.GAP_PX)
AGREEMENT, DOUBT = tl.constexpr(bridge.AGREEMENT), tl.constexpr(bridge.DOUBT)
DOUBT_WEIGHT, LEAST = tl.constexpr(bridge.DOUBT_WEIGHT), tl.constexpr(bridge.LEAST)
DIRECTIONS = tl.constexpr(len(bridge.DIRECTIONS))
assert bridge.LENGTH_POWER == 6, "the power is written out below"


@triton.jit
def farther(defocus, own, y, x, height, width):
    """Farness that is reached on both sides, across or down, see `bridge._behind`."""
    left, right, above, below = own, own, own, own
    for k in range(1, REACH + 1):
        left = tl.maximum(left, tl.load(defocus + clamped(y, x - k, height, width)))
        right = tl.maximum(right, tl.load(defocus + clamped(y, x + k, height, width)))
        above = tl.maximum(above, tl.load(defocus + clamped(y - k, x, height, width)))
        below = tl.maximum(below, tl.load(defocus + clamped(y + k, x, height, width)))
    return tl.maximum(tl.minimum(left, right), tl.minimum(above, below))


@triton.jit
def ray(defocus, owned, wanted, y, x, down, right, steps, height, width):
    """First farther pixel on one side: how many steps away, 0 if none is within reach."""
    first = tl.zeros(wanted.shape, tl.int32)
    for k in range(1, steps + 1):
        i, j = y + k * down, x + k * right
        within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        there = clamped(i, j, height, width)
        clean = within & (tl.load(owned + there) > CLEAN)
        end = tl.where(clean, tl.load(defocus + there), FAR_BELOW)
        first = tl.where((first == 0) & (end > wanted), k, first)
    return first


@triton.jit
def compressed(light, at, count):
    r, g, b = tl.load(light + at), tl.load(light + count + at), tl.load(light + 2 * count + at)
    bright = 1 + tl.maximum(tl.maximum(r, g), b)
    return r / bright, g / bright, b / bright


@triton.jit
def bridged(light, defocus, owned, wanted, y, x, rays, step, k, height, width):
    """The bridge in direction k: whether it is one, its length, its disagreement, its colour."""
    down, right, steps = tl.load(rays + 3 * k), tl.load(rays + 3 * k + 1), tl.load(rays + 3 * k + 2)
    one = ray(defocus, owned, wanted, y, x, -down, -right, steps, height, width)
    two = ray(defocus, owned, wanted, y, x, down, right, steps, height, width)
    both = ((one > 0) & (two > 0)).to(tl.float32)
    count = height * width
    r, g, b = compressed(light, (y - one * down) * width + x - one * right, count)
    r2, g2, b2 = compressed(light, (y + two * down) * width + x + two * right, count)
    apart = (r - r2) * (r - r2) + (g - g2) * (g - g2) + (b - b2) * (b - b2)
    bright = ((r + r2) * (r + r2) + (g + g2) * (g + g2) + (b + b2) * (b + b2)) / 4
    unit = tl.load(step + k)
    before, after = tl.maximum(one, 1).to(tl.float32) * unit, tl.maximum(two, 1).to(tl.float32) * unit
    length = before + after
    share = before / length
    rest = 1 - share
    disagreement = both * apart / (bright + 1e-3)
    return both, length, disagreement, r * rest + r2 * share, g * rest + g2 * share, b * rest + b2 * share


@triton.jit
def sum_cells(light, defocus, owned, rays, step, sums, height, width, CELLS: tl.constexpr):
    """Disagreement and number of bridges in every cell, (2 R, C)."""
    columns = (width + CELL - 1) // CELL
    cells = (height + CELL - 1) // CELL * columns
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    inside = tl.arange(0, CELL * CELL)
    y = (cell // columns * CELL)[:, None] + (inside // CELL)[None, :]
    x = (cell % columns * CELL)[:, None] + (inside % CELL)[None, :]
    valid = (y < height) & (x < width)
    y, x = tl.where(valid, y, 0), tl.where(valid, x, 0)
    own = tl.load(defocus + y * width + x)
    behind = farther(defocus, own, y, x, height, width)
    covered = valid & (behind - own > GAP_LOW)
    wanted = tl.where(covered, (own + behind) / 2, 1e30)  # nothing is as far: no ray ends
    some = tl.max(tl.max(covered.to(tl.int32), axis=1), axis=0) > 0
    for k in range(DIRECTIONS):
        apart, number = tl.zeros([CELLS], tl.float32), tl.zeros([CELLS], tl.float32)
        if some:
            both, _length, disagreement, _r, _g, _b = bridged(
                light, defocus, owned, wanted, y, x, rays, step, k, height, width
            )
            apart, number = tl.sum(disagreement, axis=1), tl.sum(both, axis=1)
        tl.store(sums + k * cells + cell, apart, mask=cell < cells)
        tl.store(sums + (DIRECTIONS + k) * cells + cell, number, mask=cell < cells)


@triton.jit
def bridge_pixels(light, defocus, owned, rays, step, sums, surface, height, width, BLOCK: tl.constexpr):
    """Light behind thin things and how far to believe it, (4, N)."""
    count = height * width
    at, inside = share_of(count, BLOCK)
    y, x = at // width, at % width
    rows, columns = (height + CELL - 1) // CELL, (width + CELL - 1) // CELL
    cells = rows * columns
    own = tl.load(defocus + at)
    behind = farther(defocus, own, y, x, height, width)
    gap = behind - own
    covered = gap > GAP_LOW
    r, g, b = tl.load(light + at), tl.load(light + count + at), tl.load(light + 2 * count + at)
    believed = tl.zeros([BLOCK], tl.float32)
    if tl.max(covered.to(tl.int32), axis=0) > 0:
        wanted = tl.where(covered, (own + behind) / 2, 1e30)
        total, sum_r, sum_g, sum_b = believed, believed, believed, believed
        for k in range(DIRECTIONS):
            both, length, _apart, its_r, its_g, its_b = bridged(
                light, defocus, owned, wanted, y, x, rays, step, k, height, width
            )
            apart, number = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
            for j in range(9):
                i, m = y // CELL + j // 3 - 1, x // CELL + j % 3 - 1
                valid = (i >= 0) & (i < rows) & (m >= 0) & (m < columns)
                there = tl.where(valid, i * columns + m, 0)
                apart += tl.load(sums + k * cells + there, mask=valid, other=0.0)
                number += tl.load(sums + (DIRECTIONS + k) * cells + there, mask=valid, other=0.0)
            mean = (apart + DOUBT * DOUBT_WEIGHT) / (number + DOUBT_WEIGHT)
            cube = length * length * length
            weight = (tl.exp(-mean / AGREEMENT) + LEAST) * (both / (cube * cube))
            total += weight
            sum_r, sum_g, sum_b = sum_r + weight * its_r, sum_g + weight * its_g, sum_b + weight * its_b
        each = tl.maximum(total, 1e-12)
        sum_r, sum_g, sum_b = sum_r / each, sum_g / each, sum_b / each
        bright = tl.maximum(1 - tl.maximum(tl.maximum(sum_r, sum_g), sum_b), 1e-3)
        r, g = tl.where(covered, sum_r / bright, r), tl.where(covered, sum_g / bright, g)
        b = tl.where(covered, sum_b / bright, b)
        fade = tl.minimum(tl.maximum((gap - GAP_LOW) / (GAP_HIGH - GAP_LOW), 0.0), 1.0)
        believed = tl.where(covered & (total > 0), fade, 0.0)
    tl.store(surface + at, r, mask=inside)
    tl.store(surface + count + at, g, mask=inside)
    tl.store(surface + 2 * count + at, b, mask=inside)
    tl.store(surface + 3 * count + at, believed, mask=inside)
