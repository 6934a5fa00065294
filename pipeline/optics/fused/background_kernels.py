"""`background.hidden_background`: one kernel for the blocks, one for each step of looking and of filling, one for the end.

Special: places are those of the reference, in double buffers; a block that is no hole copies itself. All of it is on the half
grid and small: what counts here is the number of launches, one for each doubling of the reach.

Shape letters: H, W = picture; h, w = half-resolution grid; n = h * w.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from pipeline.optics import background
from pipeline.optics.fused.common_kernels import clamped, climb, share_of

GAP_PX, SLACK_PX = tl.constexpr(background.GAP_PX), tl.constexpr(background.SLACK_PX)
FAR_PX = tl.constexpr(background.FAR_PX)


@triton.jit
def make_blocks(light, defocus, edge, blocks, source, height, width, h, w, BLOCK: tl.constexpr):
    """Near and far defocus, how far it can be seen, (3, n); chosen compressed light and defocus, planes 1 to 4 of (5, n)."""
    count, n = height * width, h * w
    at, inside = share_of(n, BLOCK)
    y, x = at // w * 2, at % w * 2
    near, far = tl.full([BLOCK], 1e30, tl.float32), tl.full([BLOCK], -1e30, tl.float32)
    on_edge = tl.zeros([BLOCK], tl.float32)
    for k in range(4):
        there = clamped(y + k // 2, x + k % 2, height, width)
        radius = tl.load(defocus + there)
        near, far = tl.minimum(near, radius), tl.maximum(far, radius)
        on_edge = tl.maximum(on_edge, tl.load(edge + there))
    total, r, g, b, chosen = on_edge * 0, on_edge * 0, on_edge * 0, on_edge * 0, on_edge * 0
    for k in range(4):
        there = clamped(y + k // 2, x + k % 2, height, width)
        radius = tl.load(defocus + there)
        share = tl.exp(4 * (radius - far))
        its_r, its_g = tl.load(light + there), tl.load(light + count + there)
        its_b = tl.load(light + 2 * count + there)
        bright = share / (1 + tl.maximum(tl.maximum(its_r, its_g), its_b))
        total += share
        r, g, b, chosen = r + bright * its_r, g + bright * its_g, b + bright * its_b, chosen + share * radius
    tl.store(blocks + at, near, mask=inside)
    tl.store(blocks + n + at, far, mask=inside)
    tl.store(blocks + 2 * n + at, far + SLACK_PX * on_edge, mask=inside)
    tl.store(source + n + at, r / total, mask=inside)
    tl.store(source + 2 * n + at, g / total, mask=inside)
    tl.store(source + 3 * n + at, b / total, mask=inside)
    tl.store(source + 4 * n + at, chosen / total, mask=inside)


@triton.jit
def length(square):
    """The root of 0, 1 or 2; a loop's counter is no tensor in the interpreter."""
    return square - (square > 1) * (2 - 1.4142135623730951)


@triton.jit
def look(reach, y, x, stride, least, h, w):
    """Largest reach of the blocks `stride` away, less the distance; that of `least` at least."""
    for k in range(9):
        down, right = k // 3 - 1, k % 3 - 1
        i, j = y + down * stride, x + right * stride
        within = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        moved = tl.load(reach + clamped(i, j, h, w))
        moved = tl.where(within, moved, -FAR_PX)
        away = 2 * stride * length(down * down + right * right)
        least = tl.where(down * down + right * right > 0, tl.maximum(least, moved - away), least)
    return least


@triton.jit
def look_farther(reach, out, stride, h, w, BLOCK: tl.constexpr):
    """One step of the dilation, (n)."""
    at, inside = share_of(h * w, BLOCK)
    tl.store(out + at, look(reach, at // w, at % w, stride, tl.load(reach + at), h, w), mask=inside)


@triton.jit
def find_holes(blocks, reach, weight, path, h, w, BLOCK: tl.constexpr):
    """How much of a block is hidden, (n), and its distance to a source, (n): FAR_PX where it waits for one."""
    n = h * w
    at, inside = share_of(n, BLOCK)
    near, far = tl.load(blocks + at), tl.load(blocks + n + at)
    seen = look(reach, at // w, at % w, 1, far, h, w)
    hidden = tl.minimum(tl.maximum(seen - near - GAP_PX, 0.0), 1.0)
    waits = (hidden > 0) & (far - near < 0.5 * (seen - near))
    tl.store(weight + at, hidden, mask=inside)
    tl.store(path + at, tl.where(waits, FAR_PX, 0.0), mask=inside)


@triton.jit
def fill_step(blocks, weight, source, out, stride, h, w, BLOCK: tl.constexpr):
    """One step of filling: distance, compressed light and defocus, (5, n) each, see `background._fill`."""
    n = h * w
    at, inside = share_of(n, BLOCK)
    y, x = at // w, at % w
    hole = tl.load(weight + at) > 0
    path, r, g = tl.load(source + at), tl.load(source + n + at), tl.load(source + 2 * n + at)
    b, radius = tl.load(source + 3 * n + at), tl.load(source + 4 * n + at)
    if tl.max(hole.to(tl.int32), axis=0) > 0:
        near = tl.load(blocks + at)
        zero = tl.zeros([BLOCK], tl.float32)
        total, paths, sum_r, sum_g, sum_b, sum_radius = zero, zero, zero, zero, zero, zero
        for k in range(9):
            down, right = k // 3 - 1, k % 3 - 1
            i, j = y + down * stride, x + right * stride
            within = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            there = clamped(i, j, h, w)
            away = 2 * stride * length(down * down + right * right)
            distance = tl.where(within, tl.load(source + there), FAR_PX) + away
            its_radius = tl.load(source + 4 * n + there)
            hidden = tl.minimum(tl.maximum(its_radius - near - distance + SLACK_PX, 1e-6), 1.0)
            square = (distance + 1) * (distance + 1)
            share = hidden / (square * square)
            total, paths = total + share, paths + share * distance
            sum_r += share * tl.load(source + n + there)
            sum_g += share * tl.load(source + 2 * n + there)
            sum_b += share * tl.load(source + 3 * n + there)
            sum_radius += share * its_radius
        path, radius = tl.where(hole, paths / total, path), tl.where(hole, sum_radius / total, radius)
        r, g = tl.where(hole, sum_r / total, r), tl.where(hole, sum_g / total, g)
        b = tl.where(hole, sum_b / total, b)
    tl.store(out + at, path, mask=inside)
    tl.store(out + n + at, r, mask=inside)
    tl.store(out + 2 * n + at, g, mask=inside)
    tl.store(out + 3 * n + at, b, mask=inside)
    tl.store(out + 4 * n + at, radius, mask=inside)


@triton.jit
def finish(filled, weight, bridged, steps, num_steps, hidden, height, width, h, w, BLOCK: tl.constexpr):
    """The hidden surface: weight, light * weight, position on the ladder, (5, n)."""
    count, n = height * width, h * w
    at, inside = share_of(n, BLOCK)
    y, x = at // w * 2, at % w * 2
    share = tl.where(tl.load(filled + at) < FAR_PX / 2, tl.load(weight + at), 0.0)
    r, g, b = tl.load(filled + n + at), tl.load(filled + 2 * n + at), tl.load(filled + 3 * n + at)
    bright = tl.maximum(1 - tl.maximum(tl.maximum(r, g), b), 1e-3)
    r, g, b = r / bright, g / bright, b / bright
    zero = tl.zeros([BLOCK], tl.float32)
    known, sum_r, sum_g, sum_b = zero, zero, zero, zero
    for k in range(4):
        there = clamped(y + k // 2, x + k % 2, height, width)
        believed = tl.load(bridged + 3 * count + there)
        known += believed
        sum_r += believed * tl.load(bridged + there)
        sum_g += believed * tl.load(bridged + count + there)
        sum_b += believed * tl.load(bridged + 2 * count + there)
    each, mix = tl.maximum(known, 1e-6), tl.minimum(known, 1.0)
    r, g, b = r + mix * (sum_r / each - r), g + mix * (sum_g / each - g), b + mix * (sum_b / each - b)
    tl.store(hidden + at, share, mask=inside)
    tl.store(hidden + n + at, share * r, mask=inside)
    tl.store(hidden + 2 * n + at, share * g, mask=inside)
    tl.store(hidden + 3 * n + at, share * b, mask=inside)
    tl.store(hidden + 4 * n + at, climb(tl.load(filled + 4 * n + at), steps, num_steps), mask=inside)
