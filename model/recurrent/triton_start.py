"""What a block's scans begin a frame with, in one Triton kernel: `start.TemporalStart` for inference.

Shape letters: B = samples; C = channels; H = heads; D = head size; G = groups of tokens.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.recurrent.start import TemporalStart
from model.recurrent.triton_tokens import gelu, vector
from pipeline.kernel_launch import launch, power


def begin(
    start: TemporalStart, sums: Tensor, tokens: int, previous: tuple[Tensor, Tensor] | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The states of a frame's scans.

    Args:
        start: of the block.
        sums: (B, G, C) of the block's normalised input.
        tokens: that were summed, per sample.
        previous: the last frame's states (B, 4, H, D, D) and pooled input (B, C), or None.
        like: gives the dtype of the pooled input.

    Returns:
        (B, 4, H, D, D) in float32, and the pooled input (B, C).
    """
    batch, groups, channels = sums.shape
    directions, heads, size, _ = start.initial.shape
    begun = sums.new_empty((batch, directions, heads, size, size))
    pooled = like.new_empty((batch, channels))
    carries = previous is not None and start.enabled
    states, before = (x.contiguous() for x in previous) if previous is not None and carries else (None, None)
    mlp = [x for i in (0, 2) for x in (start.keep[i].weight, start.keep[i].bias)] if carries else [None] * 4
    launch(
        temporal_start, (directions, batch),
        (sums, start.initial, states, before, *mlp, begun, pooled, tokens, groups, start.max_norm),
        reads=[(sums, directions), start.initial, states, None if before is None else (before, directions), *mlp],
        writes=[begun, pooled],
        flops=2 * batch * directions * channels**2 if carries else 0,
        CHANNELS=channels, CP=power(channels, 16), HIDDEN=channels // 2, FP=power(channels // 2, 16), HEADS=heads,
        HP=power(heads), SIZE=size, DP=power(size, 16), CARRIES=carries,
    )  # fmt: skip
    return begun, pooled


@triton.jit
def temporal_start(
    sums, initial, states, pooled_before, first, first_bias, second, second_bias, begun, pooled, tokens, groups, max_norm,
    CHANNELS: tl.constexpr, CP: tl.constexpr, HIDDEN: tl.constexpr, FP: tl.constexpr, HEADS: tl.constexpr,
    HP: tl.constexpr, SIZE: tl.constexpr, DP: tl.constexpr, CARRIES: tl.constexpr,
):  # fmt: skip
    """One direction of one sample."""
    direction, sample = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, CP)[None, :]
    mean = tl.zeros((1, CP), tl.float32)
    for group in range(groups):
        mean += vector(sums + (sample * groups + group) * CHANNELS, CHANNELS, CP)
    rounded = (mean / tokens).to(pooled.dtype.element_ty)
    if direction == 0:
        tl.store(pooled + sample * CHANNELS + c, rounded, mask=c < CHANNELS)
    h = tl.arange(0, HP)[:, None, None]
    i, j = tl.arange(0, DP)[None, :, None], tl.arange(0, DP)[None, None, :]
    exists = (h < HEADS) & (i < SIZE) & (j < SIZE)
    place = direction * HEADS * SIZE * SIZE + (h * SIZE + i) * SIZE + j
    start = tl.load(initial + place, mask=exists, other=0.0).to(tl.float32)
    place += sample * tl.num_programs(0) * HEADS * SIZE * SIZE
    if CARRIES:
        now = rounded.to(tl.float32)
        before = vector(pooled_before + sample * CHANNELS, CHANNELS, CP)
        f = tl.arange(0, FP)
        weights = first + f[:, None] * (2 * CHANNELS) + c
        there = (f[:, None] < HIDDEN) & (c < CHANNELS)
        hidden = tl.sum(tl.load(weights, mask=there, other=0.0).to(tl.float32) * now, 1)
        hidden += tl.sum(tl.load(weights + CHANNELS, mask=there, other=0.0).to(tl.float32) * before, 1)
        hidden += tl.load(first_bias + f, mask=f < HIDDEN, other=0.0).to(tl.float32)
        hidden = gelu(hidden)
        weights = second + direction * HIDDEN + f
        logit = tl.sum(hidden * tl.load(weights, mask=f < HIDDEN, other=0.0).to(tl.float32), 0)
        keep = tl.sigmoid(logit + tl.load(second_bias + direction).to(tl.float32))
        carried = tl.load(states + place, mask=exists, other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(tl.sum(carried * carried, 2), 1) + 1e-12)[:, None, None]
        start += keep * (carried * (max_norm / tl.maximum(norm, max_norm)) - start)
    tl.store(begun + place, start, mask=exists)
