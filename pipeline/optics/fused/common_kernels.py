"""What several kernels share: borders, ladders, places."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def share_of(count, BLOCK: tl.constexpr):
    """A program's places among so many, and which of them are there; the others repeat the first."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    return tl.where(inside, at, 0), inside


@triton.jit
def store_spread(out, n, cover, r, g, b, invented, inside, PLANES: tl.constexpr):
    """Planes of a spread, n places apart; the invented share is the fifth, where there is one."""
    tl.store(out, cover, mask=inside)
    tl.store(out + n, r, mask=inside)
    tl.store(out + 2 * n, g, mask=inside)
    tl.store(out + 3 * n, b, mask=inside)
    if PLANES == 5:
        tl.store(out + 4 * n, invented, mask=inside)


@triton.jit
def load_spread(surface, n, share):
    """Coverage and light * coverage of a surface, n places apart, times a share."""
    cover, r = share * tl.load(surface), share * tl.load(surface + n)
    return cover, r, share * tl.load(surface + 2 * n), share * tl.load(surface + 3 * n)


@triton.jit
def clamped(y, x, height, width):
    """Flat index of a pixel, the border's own beyond the border."""
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return y * width + x


@triton.jit
def mirrored(i, n):
    """Index within n of a place that may lie beyond the border by up to 64 n, by reflection as `layers.mirror` does."""
    i = (i + 128 * n) % (2 * n)
    return tl.where(i < n, i, 2 * n - 1 - i)


@triton.jit
def climb(defocus, steps, num_steps):
    """Signed radius -> signed position on a ladder, see `layers.Ladder`."""
    least, most = tl.load(steps), tl.load(steps + num_steps - 1)
    radius = tl.minimum(tl.maximum(tl.abs(defocus), least), most)
    upper = tl.full(radius.shape, 0, tl.int32)
    for k in range(num_steps):
        upper += (tl.load(steps + k) < radius).to(tl.int32)
    upper = tl.maximum(upper, 1)
    low, high = tl.load(steps + upper - 1), tl.load(steps + upper)
    t = (radius - low) / (high - low)
    position = (upper - 1).to(tl.float32) + t * high * high / (low * low + t * (high * high - low * low))
    return tl.where(defocus > 0, position, tl.where(defocus < 0, -position, 0.0))


@triton.jit
def hat(position, step):
    """Weight of the layer at a step, see `layers.hat`."""
    return tl.maximum(1 - tl.abs(position - step), 0.0)
