"""What several kernels share: borders, ladders, places."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


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
