"""`edges.split_mixed` in three passes over the picture: course of the edge, colours of both sides, shares.

Special: blocks without an edge cost a few loads. The passes meet in memory because every edge pixel reads what its neighbours
found in the pass before.

Shape letters: H, W = picture; N = H * W.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from pipeline.optics import coverage, edges
from pipeline.optics.fused.common_kernels import clamped, climb, share_of

STEP_LOW, STEP_HIGH = (tl.constexpr(value) for value in edges.STEP_PX)
REACH, DIRECTIONS, LINE = (tl.constexpr(value) for value in (coverage.REACH, coverage.DIRECTIONS, coverage.LINE))
BENT, CORNER = tl.constexpr(coverage.BENT_VARIANCE), tl.constexpr(coverage.CORNER_VARIANCE)
WINDOW, NOISE, PULL = (tl.constexpr(value) for value in (edges.WINDOW, edges.NOISE, edges.PULL))
COLOUR_VARIANCE, SURE_VARIANCE = tl.constexpr(edges.COLOUR_VARIANCE), tl.constexpr(edges.SURE_VARIANCE)
DISTINCT = tl.constexpr(edges.DISTINCT)
SIDE = tl.constexpr(2 * coverage.REACH + 1)


@triton.jit
def bend(defocus, centre, y, x, down, right, height, width):
    """Second difference along one direction."""
    before = tl.load(defocus + clamped(y - down, x - right, height, width))
    after = tl.load(defocus + clamped(y + down, x + right, height, width))
    return tl.abs(before + after - 2 * centre)


@triton.jit
def find_course(defocus, course, direction, fade, turns, line_place, line_weight, line_variance, height, width,
                BLOCK: tl.constexpr):  # fmt: skip
    """Edge strength, near and far defocus, share and its variance, (5, N), and the edge's direction, (N)."""
    count = height * width
    at, inside = share_of(count, BLOCK)
    y, x = at // width, at % width
    own = tl.load(defocus + at)
    change = tl.maximum(
        tl.maximum(bend(defocus, own, y, x, 0, 1, height, width), bend(defocus, own, y, x, 1, 0, height, width)),
        tl.maximum(bend(defocus, own, y, x, 1, 1, height, width), bend(defocus, own, y, x, 1, -1, height, width)),
    )
    edge = tl.minimum(tl.maximum((change - STEP_LOW) / (STEP_HIGH - STEP_LOW), 0.0), 1.0)
    tl.store(course + at, edge, mask=inside)
    if tl.max(edge, axis=0) > 0:
        low, high = own, own
        for down in range(-1, 2):
            for right in range(-1, 2):
                beside = tl.load(defocus + clamped(y + down, x + right, height, width))
                low, high = tl.minimum(low, beside), tl.maximum(high, beside)
        middle = (low + high) / 2
        near = tl.zeros([BLOCK], tl.int64)  # one bit for each pixel of the window
        for place in range(SIDE * SIDE):
            row = place // SIDE
            there = clamped(y + row - REACH, x + place - row * SIDE - REACH, height, width)
            near |= (tl.load(defocus + there) < middle).to(tl.int64) << place

        xx, yy, xy = (tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32))
        for k in range((SIDE - 2) * (SIDE - 2)):
            corner = k + 2 * (k // (SIDE - 2))
            bits = near >> corner
            a, b, c = bits & 1, (bits >> 1) & 1, (bits >> 2) & 1
            d, f = (bits >> SIDE) & 1, (bits >> (SIDE + 2)) & 1
            g, h, i = (bits >> (2 * SIDE)) & 1, (bits >> (2 * SIDE + 1)) & 1, (bits >> (2 * SIDE + 2)) & 1
            across = (c + 2 * f + i - a - 2 * d - g).to(tl.float32)
            below = (g + 2 * h + i - a - 2 * b - c).to(tl.float32)
            weight = tl.load(fade + k)
            xx, yy, xy = xx + weight * across * across, yy + weight * below * below, xy + weight * across * below
        # The direction nearest to the gradient's is the one whose double angle has the largest scalar product with its.
        normal = tl.zeros([BLOCK], tl.int32)
        most = tl.full([BLOCK], -1e30, tl.float32)
        for k in range(DIRECTIONS):
            along = (xx - yy) * tl.load(turns + 2 * k) + 2 * xy * tl.load(turns + 2 * k + 1)
            normal = tl.where(along > most, k, normal)
            most = tl.maximum(along, most)
        coherence = tl.sqrt((xx - yy) * (xx - yy) + 4 * xy * xy) / (xx + yy + 1e-6)
        share = tl.zeros([BLOCK], tl.float32)
        for k in range(LINE):
            crossed = tl.load(line_place + normal * LINE + k).to(tl.int64)
            share += tl.load(line_weight + normal * LINE + k) * ((near >> crossed) & 1).to(tl.float32)
        variance = tl.load(line_variance + normal) + BENT + CORNER * (1 - coherence) * (1 - coherence)
        tl.store(course + count + at, low, mask=inside)
        tl.store(course + 2 * count + at, high, mask=inside)
        tl.store(course + 3 * count + at, share, mask=inside)
        tl.store(course + 4 * count + at, variance, mask=inside)
        tl.store(direction + at, normal, mask=inside)


@triton.jit
def solve(near_mean, far_mean, nn, nf, ff):
    """One colour channel of both surfaces, and what it explains of the squares."""
    near_target, far_target = near_mean + PULL * (near_mean + far_mean), far_mean + PULL * (near_mean + far_mean)
    determinant = tl.maximum((nn + PULL) * (ff + PULL) - nf * nf, PULL * PULL)
    near = tl.maximum(((ff + PULL) * near_target - nf * far_target) / determinant, 0.0)
    far = tl.maximum(((nn + PULL) * far_target - nf * near_target) / determinant, 0.0)
    left = nn * near * near + 2 * nf * near * far + ff * far * far - 2 * (near * near_mean + far * far_mean)
    return near, far, left


@triton.jit
def fit_colours(light, defocus, course, fit, evidence, height, width, BLOCK: tl.constexpr):
    """Colours of both surfaces and their confidence, (7, N), and precision-weighted correction and precision, (2, N)."""
    count = height * width
    at, inside = share_of(count, BLOCK)
    y, x = at // width, at % width
    edge = tl.load(course + at)
    zero = tl.zeros([BLOCK], tl.float32)
    correction, precision = zero, zero
    if tl.max(edge, axis=0) > 0:
        low, high = tl.load(course + count + at), tl.load(course + 2 * count + at)
        reach = tl.maximum(0.5 * (high - low), 1e-6)
        nn, nf, ff, weights, squares = zero, zero, zero, zero, zero
        near_r, near_g, near_b, far_r, far_g, far_b = zero, zero, zero, zero, zero, zero
        for k in range((2 * WINDOW + 1) * (2 * WINDOW + 1)):
            down = k // (2 * WINDOW + 1) - WINDOW
            right = k - (down + WINDOW) * (2 * WINDOW + 1) - WINDOW
            there = clamped(y + down, x + right, height, width)
            mixed = tl.load(course + there) > 0
            alone = tl.load(defocus + there)
            its_low = tl.where(mixed, tl.load(course + count + there), alone)
            its_high = tl.where(mixed, tl.load(course + 2 * count + there), alone)
            r, g, b = tl.load(light + there), tl.load(light + count + there), tl.load(light + 2 * count + there)
            bright = 1 + tl.maximum(tl.maximum(r, g), b)
            variance = tl.load(course + 4 * count + there)
            trusted = tl.where(mixed, SURE_VARIANCE / (SURE_VARIANCE + variance), 1.0) / (bright * bright)
            like_near = tl.maximum(1 - tl.abs(its_low - low) / reach, 0.0)
            like_far = tl.maximum(1 - tl.abs(its_high - high) / reach, 0.0)
            alike = tl.where(mixed, like_near * like_far, tl.maximum(like_near, like_far))
            clean = (like_near > like_far).to(tl.float32)
            share = tl.where(mixed, tl.load(course + 3 * count + there), clean)
            distance = 1 + down * down + right * right
            used = 1.0 * (down * down + right * right <= 2 * WINDOW + 1)
            weight = alike * trusted * (used / (distance * distance))
            for_near, for_far = weight * share, weight * (1 - share)
            nn, nf, ff = nn + for_near * share, nf + for_near * (1 - share), ff + for_far * (1 - share)
            weights += weight
            squares += weight * (r * r + g * g + b * b)
            near_r, near_g, near_b = near_r + for_near * r, near_g + for_near * g, near_b + for_near * b
            far_r, far_g, far_b = far_r + for_far * r, far_g + for_far * g, far_b + for_far * b
        each = 1 / tl.maximum(weights, 1e-20)
        nn, nf, ff, squares = nn * each, nf * each, ff * each, squares * each
        near_r, far_r, left_r = solve(near_r * each, far_r * each, nn, nf, ff)
        near_g, far_g, left_g = solve(near_g * each, far_g * each, nn, nf, ff)
        near_b, far_b, left_b = solve(near_b * each, far_b * each, nn, nf, ff)
        misfit = tl.maximum(squares + left_r + left_g + left_b, 0.0)
        distinct = tl.maximum(nn * ff - nf * nf, 0.0)
        sure = distinct / (distinct + DISTINCT)
        tl.store(fit + at, near_r, mask=inside)
        tl.store(fit + count + at, near_g, mask=inside)
        tl.store(fit + 2 * count + at, near_b, mask=inside)
        tl.store(fit + 3 * count + at, far_r, mask=inside)
        tl.store(fit + 4 * count + at, far_g, mask=inside)
        tl.store(fit + 5 * count + at, far_b, mask=inside)
        tl.store(fit + 6 * count + at, sure, mask=inside)

        r, g, b = tl.load(light + at), tl.load(light + count + at), tl.load(light + 2 * count + at)
        own = tl.load(defocus + at)
        step_r, step_g, step_b = near_r - far_r, near_g - far_g, near_b - far_b
        contrast = step_r * step_r + step_g * step_g + step_b * step_b + 1e-6
        colour = ((r - far_r) * step_r + (g - far_g) * step_g + (b - far_b) * step_b) / contrast
        is_near = own - low < high - own
        colour = tl.where(is_near, tl.maximum(colour, 0.5), tl.maximum(colour, 0.0))
        colour = tl.where(is_near, tl.minimum(colour, 1.0), tl.minimum(colour, 0.5))
        brightest = tl.maximum(tl.maximum(tl.maximum(near_r, near_g), near_b),
                               tl.maximum(tl.maximum(far_r, far_g), far_b))  # fmt: skip
        noise = NOISE * NOISE * brightest * brightest
        precision = tl.where(edge > 0, sure / (COLOUR_VARIANCE + (misfit + noise) / contrast), 0.0)
        correction = tl.where(edge > 0, precision * (colour - tl.load(course + 3 * count + at)), 0.0)
    tl.store(evidence + at, correction, mask=inside)
    tl.store(evidence + count + at, precision, mask=inside)


@triton.jit
def other_colour(mixed, near, far, is_near, other):
    """One channel of the other surface's light, see `edges.split_mixed`."""
    there, here = tl.where(is_near, far, near), tl.where(is_near, near, far)
    most = 2 * here + 0.3
    excess = (mixed - (1 - other) * most) / tl.maximum(other, 0.02)
    there = tl.where(there > most, tl.maximum(there, excess), there)
    return tl.minimum(there, mixed / tl.maximum(other, 1e-3))


@triton.jit
def share_light(light, defocus, course, direction, fit, evidence, line_place, line_weight, steps, num_steps,
                own_light, own, other, height, width, BLOCK: tl.constexpr):  # fmt: skip
    """The pixel's own light, (3, N), and both surfaces: weight, light * weight, position on the ladder, (5, N) each."""
    count = height * width
    at, inside = share_of(count, BLOCK)
    y, x = at // width, at % width
    edge, here = tl.load(course + at), tl.load(defocus + at)
    r, g, b = tl.load(light + at), tl.load(light + count + at), tl.load(light + 2 * count + at)
    weight, other_defocus = tl.zeros([BLOCK], tl.float32), here
    other_r, other_g, other_b = r, g, b
    if tl.max(edge, axis=0) > 0:
        low, high = tl.load(course + count + at), tl.load(course + 2 * count + at)
        share, variance = tl.load(course + 3 * count + at), tl.load(course + 4 * count + at)
        normal = tl.where(edge > 0, tl.load(direction + at), 0)
        correction, precision = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for k in range(LINE):
            place = tl.load(line_place + normal * LINE + k)
            along = tl.load(line_weight + normal * LINE + k)
            there = clamped(y + place // SIDE - REACH, x + place % SIDE - REACH, height, width)
            correction += along * tl.load(evidence + there)
            precision += along * tl.load(evidence + count + there)
        share = tl.minimum(tl.maximum(share + correction / (precision + 1 / variance), 0.0), 1.0)
        is_near = here - low < high - here
        found = tl.where(is_near, 1 - share, share) * tl.load(fit + 6 * count + at) * edge
        found_r = other_colour(r, tl.load(fit + at), tl.load(fit + 3 * count + at), is_near, found)
        found_g = other_colour(g, tl.load(fit + count + at), tl.load(fit + 4 * count + at), is_near, found)
        found_b = other_colour(b, tl.load(fit + 2 * count + at), tl.load(fit + 5 * count + at), is_near, found)
        mixed = edge > 0
        weight = tl.where(mixed, found, weight)
        other_defocus = tl.where(mixed, tl.where(is_near, high, low), here)
        other_r, other_g = tl.where(mixed, found_r, r), tl.where(mixed, found_g, g)
        other_b = tl.where(mixed, found_b, b)
    rest = tl.maximum(1 - weight, 1e-3)
    r, g, b = (r - weight * other_r) / rest, (g - weight * other_g) / rest, (b - weight * other_b) / rest
    tl.store(own_light + at, r, mask=inside)
    tl.store(own_light + count + at, g, mask=inside)
    tl.store(own_light + 2 * count + at, b, mask=inside)
    tl.store(own + at, 1 - weight, mask=inside)
    tl.store(own + count + at, r * (1 - weight), mask=inside)
    tl.store(own + 2 * count + at, g * (1 - weight), mask=inside)
    tl.store(own + 3 * count + at, b * (1 - weight), mask=inside)
    tl.store(own + 4 * count + at, climb(here, steps, num_steps), mask=inside)
    tl.store(other + at, weight, mask=inside)
    tl.store(other + count + at, other_r * weight, mask=inside)
    tl.store(other + 2 * count + at, other_g * weight, mask=inside)
    tl.store(other + 3 * count + at, other_b * weight, mask=inside)
    tl.store(other + 4 * count + at, climb(other_defocus, steps, num_steps), mask=inside)
