"""The full grid in one kernel: a tile's small discs are gathered and stacked with everything else before anything is written.

Special: gathered from the surfaces, with the weights of up to three layers of a group at once, so no layer of the full grid is
ever in memory. A tile passes over groups that none of the pixels around it belongs to, and over all once it is covered.

Shape letters: H, W = picture; N = H * W; h, w = half-resolution grid; P = planes of a spread; R = reach of a group's kernels.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from pipeline.optics import composite, fixed
from pipeline.optics.fused.common_kernels import hat, load_spread

TINY = tl.constexpr(composite.TINY)
TRACE = tl.constexpr(fixed.TRACE)
LAYERS = tl.constexpr(3)  # of a group; those it lacks have kernels of zeros


@triton.jit
def find_tiles(own, other, ranges, height, width, TILE: tl.constexpr):
    """Least and largest position in a tile, of its own samples and of the others, (4) each."""
    columns = (width + TILE - 1) // TILE
    program = tl.program_id(0)
    lane = tl.arange(0, TILE * TILE)
    y, x = program // columns * TILE + lane // TILE, program % columns * TILE + lane % TILE
    at = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)
    count = height * width
    position = tl.load(own + 4 * count + at)
    tl.store(ranges + 4 * program, tl.min(position, axis=0))
    tl.store(ranges + 4 * program + 1, tl.max(position, axis=0))
    position, there = tl.load(other + 4 * count + at), tl.load(other + at) != 0
    tl.store(ranges + 4 * program + 2, tl.min(tl.where(there, position, 1e30), axis=0))
    tl.store(ranges + 4 * program + 3, tl.max(tl.where(there, position, -1e30), axis=0))


@triton.jit
def folded(i, n):
    """`mirrored` for what lies beyond the border by n at most: a division for every tap would cost more than its light."""
    i = tl.where(i < 0, -1 - i, i)
    return tl.where(i < n, i, 2 * n - 1 - i)


@triton.jit
def gather(surface, kernels, sign, step, reach, y, x, cover, r, g, b, height, width):
    """Add the spread of one group of layers of one surface."""
    count, side = height * width, 2 * reach + 1
    for down in range(-reach, reach + 1):
        row = folded(y - down, height) * width
        for right in range(-reach, reach + 1):
            kernel = kernels + (down + reach) * side + right + reach
            first, second, third = tl.load(kernel), tl.load(kernel + side * side), tl.load(kernel + 2 * side * side)
            if first + second + third > 0:  # not in the corners
                at = surface + row + folded(x - right, width)
                position = sign * tl.load(at + 4 * count) - step
                share = first * hat(position, 0) + second * hat(position, 1) + third * hat(position, 2)
                its_cover, its_r, its_g, its_b = load_spread(at, count, share)
                cover, r, g, b = cover + its_cover, r + its_r, g + its_g, b + its_b
    return cover, r, g, b


@triton.jit
def put(cover, r, g, b, invented, free, light_r, light_g, light_b, traced):
    """Put a spread behind what is there, see `composite.Stack`."""
    taken = tl.minimum(tl.maximum(cover, 0.0), free)
    share = taken / tl.maximum(cover, TINY)
    return free - taken, light_r + share * r, light_g + share * g, light_b + share * b, traced + share * invented


@triton.jit
def near_groups(low, high, sign, step):
    """Whether any position between two has a share of a group; `low` > `high` is an empty range."""
    nearest, farthest = tl.minimum(sign * low, sign * high), tl.maximum(sign * low, sign * high)
    return (low <= high) & (farthest > step - 1) & (nearest < step + LAYERS)


@triton.jit
def enlarge(plane, top, bottom, left, right, down, across):
    """Bilinear enlargement by two of one plane; rows come as offsets."""
    above = tl.load(plane + top + left) * (1 - across) + tl.load(plane + top + right) * across
    below = tl.load(plane + bottom + left) * (1 - across) + tl.load(plane + bottom + right) * across
    return above * (1 - down) + below * down


@triton.jit
def put_half(spread, n, top, bottom, left, right, down, across, free, r, g, b, traced, PLANES: tl.constexpr):
    """Put a spread of the half grid behind what is there."""
    cover = enlarge(spread, top, bottom, left, right, down, across)
    its_r = enlarge(spread + n, top, bottom, left, right, down, across)
    its_g = enlarge(spread + 2 * n, top, bottom, left, right, down, across)
    its_b = enlarge(spread + 3 * n, top, bottom, left, right, down, across)
    invented = tl.zeros(cover.shape, tl.float32)
    if PLANES == 5:
        invented = enlarge(spread + 4 * n, top, bottom, left, right, down, across)
    return put(cover, its_r, its_g, its_b, invented, free, r, g, b, traced)


@triton.jit
def compose(light, own, other, bridged, spreads, ranges, groups, kernels, out, height, width, h, w, num_groups,
            PLANES: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Everything from front to back, see `fixed.render_fixed`: light, (3, N), and the invented share if traced, (N).

    Args:
        spreads: (5, P, h * w) of the half grid: near, near and coarse, far and coarse, far, hidden in focus.
        groups: (2, num_groups, 3) first step, reach and first kernel weight of the groups of each sign, near ones first.
    """
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    tile_y, tile_x = tl.program_id(0) // columns, tl.program_id(0) % columns
    lane = tl.arange(0, TILE * TILE)
    y, x = tile_y * TILE + lane // TILE, tile_x * TILE + lane % TILE
    inside = (y < height) & (x < width)
    y, x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    count, n, at = height * width, h * w, y * width + x

    low, high, low2, high2 = 1e30, -1e30, 1e30, -1e30
    for k in range(9):  # a kernel reaches no farther than the next tile
        i = tl.minimum(tl.maximum(tile_y + k // 3 - 1, 0), rows - 1)
        j = tl.minimum(tl.maximum(tile_x + k % 3 - 1, 0), columns - 1)
        there = ranges + 4 * (i * columns + j)
        low, high = tl.minimum(low, tl.load(there)), tl.maximum(high, tl.load(there + 1))
        low2, high2 = tl.minimum(low2, tl.load(there + 2)), tl.maximum(high2, tl.load(there + 3))

    # Half-grid indices before and after a pixel, and the weight of the latter; `layers.double`.
    down, across = tl.maximum(y * 0.5 - 0.25, 0.0), tl.maximum(x * 0.5 - 0.25, 0.0)
    top, left = down.to(tl.int32), across.to(tl.int32)
    down, across = down - top, across - left
    bottom, right = tl.minimum(top + 1, h - 1) * w, tl.minimum(left + 1, w - 1)
    top = top * w

    zero = tl.zeros([TILE * TILE], tl.float32)
    free, r, g, b, traced = zero + 1, zero, zero, zero, zero
    size = PLANES * n
    free, r, g, b, traced = put_half(spreads, n, top, bottom, left, right, down, across, free, r, g, b, traced, PLANES)
    for unit in range(2 * num_groups):
        sign = tl.where(unit < num_groups, -1.0, 1.0)
        if unit == num_groups:
            free, r, g, b, traced = put_half(
                spreads + size, n, top, bottom, left, right, down, across, free, r, g, b, traced, PLANES
            )
            cover, its_r, its_g, its_b = load_spread(own + at, count, hat(tl.load(own + 4 * count + at), 0))
            free, r, g, b, traced = put(cover, its_r, its_g, its_b, zero, free, r, g, b, traced)
            cover, its_r, its_g, its_b = load_spread(other + at, count, hat(tl.load(other + 4 * count + at), 0))
            free, r, g, b, traced = put(cover, its_r, its_g, its_b, zero, free, r, g, b, traced)
        step, reach = tl.load(groups + 3 * unit), tl.load(groups + 3 * unit + 1)
        weights = kernels + tl.load(groups + 3 * unit + 2)
        if tl.max(free, axis=0) > 0:
            cover, its_r, its_g, its_b = zero, zero, zero, zero
            if near_groups(low, high, sign, step):
                cover, its_r, its_g, its_b = gather(
                    own, weights, sign, step, reach, y, x, cover, its_r, its_g, its_b, height, width
                )
            if near_groups(low2, high2, sign, step):
                cover, its_r, its_g, its_b = gather(
                    other, weights, sign, step, reach, y, x, cover, its_r, its_g, its_b, height, width
                )
            free, r, g, b, traced = put(cover, its_r, its_g, its_b, zero, free, r, g, b, traced)

    focus = spreads + 4 * size  # given the detail that was bridged, `composite.refine`
    cover = enlarge(focus, top, bottom, left, right, down, across)
    its_r = enlarge(focus + n, top, bottom, left, right, down, across)
    its_g = enlarge(focus + 2 * n, top, bottom, left, right, down, across)
    its_b = enlarge(focus + 3 * n, top, bottom, left, right, down, across)
    mix = tl.load(bridged + 3 * count + at)
    its_r += mix * (cover * tl.load(bridged + at) - its_r)
    its_g += mix * (cover * tl.load(bridged + count + at) - its_g)
    its_b += mix * (cover * tl.load(bridged + 2 * count + at) - its_b)
    # All of a hidden surface is invented: its fifth plane is its coverage.
    free, r, g, b, traced = put(cover, its_r, its_g, its_b, cover, free, r, g, b, traced)
    free, r, g, b, traced = put_half(
        spreads + 2 * size, n, top, bottom, left, right, down, across, free, r, g, b, traced, PLANES
    )
    free, r, g, b, traced = put_half(
        spreads + 3 * size, n, top, bottom, left, right, down, across, free, r, g, b, traced, PLANES
    )
    covered = 1 - free
    tl.store(out + at, (r + TRACE * tl.load(light + at)) / (covered + TRACE), mask=inside)
    tl.store(out + count + at, (g + TRACE * tl.load(light + count + at)) / (covered + TRACE), mask=inside)
    tl.store(out + 2 * count + at, (b + TRACE * tl.load(light + 2 * count + at)) / (covered + TRACE), mask=inside)
    if PLANES == 5:
        share = tl.minimum(tl.maximum(traced / (covered + TRACE), 0.0), 1.0)
        tl.store(out + 3 * count + at, share, mask=inside)
