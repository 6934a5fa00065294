"""Tokens of an image as Triton programs meet them: in a direction's order by strides, normalised and projected on the way.

Shape letters: T = tokens of a tile; C = channels; H = heads; D = head size; all padded to powers of two.
"""

import triton
import triton.language as tl

from model.recurrent import recurrence
from model.recurrent.triton_chunk import log_add_exp, log_sigmoid, weighted

LAYER_NORM_EPS = tl.constexpr(1e-5)  # of torch.nn.LayerNorm
KEY_EPS = tl.constexpr(recurrence.KEY_EPS)
NARROWEST = tl.constexpr(16)  # columns of a product on tensor cores


@triton.jit
def position(t, direction, height, width):
    """Where the t-th token of a scan lies in (h, w): 0 and 1 run along rows, 2 and 3 along columns, the odd ones back."""
    t = tl.where(direction % 2 == 1, height * width - 1 - t, t)
    return tl.where(direction < 2, t, (t % height) * width + t // height)


@triton.jit
def rows_of(x, places, inside, CHANNELS: tl.constexpr, CP: tl.constexpr):
    """(T, C) in float32; zeros where there is no token."""
    c = tl.arange(0, CP)[None, :]
    offsets = places[:, None].to(tl.int64) * CHANNELS + c
    return tl.load(x + offsets, mask=inside[:, None] & (c < CHANNELS), other=0.0).to(tl.float32)


@triton.jit
def vector(x, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """(1, C) in float32."""
    c = tl.arange(0, PADDED)[None, :]
    return tl.load(x + c, mask=c < SIZE, other=0.0).to(tl.float32)


@triton.jit
def gelu(x):
    """By the error function, as torch.nn.GELU is."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def layer_norm(x, weight, bias, CHANNELS: tl.constexpr, CP: tl.constexpr):
    """Of (T, C), whose padding stays zero."""
    here = tl.arange(0, CP)[None, :] < CHANNELS
    mean = tl.sum(x, 1)[:, None] / CHANNELS
    away = tl.where(here, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(away * away, 1)[:, None] / CHANNELS + LAYER_NORM_EPS)
    return away * scale * vector(weight, CHANNELS, CP) + vector(bias, CHANNELS, CP)


@triton.jit
def times(x, weight, columns, exist, COLUMNS: tl.constexpr, CP: tl.constexpr):
    """x (T, C) by the transpose of rows of a weight (.., COLUMNS) -> (T, N); products in the weight's precision."""
    c = tl.arange(0, CP)[:, None]
    w = tl.load(weight + columns[None, :] * COLUMNS + c, mask=exist[None, :] & (c < COLUMNS), other=0.0)
    return weighted(x, w)


@triton.jit
def by_head(flat, T: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr):
    """(T, H * D) -> (H, T, D)."""
    return tl.permute(tl.reshape(flat, (T, HP, DP)), (1, 0, 2))


@triton.jit
def head_rows(first, HEADS: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr, DP: tl.constexpr):
    """Which row of a weight each of H * D padded columns takes, and which of them exist."""
    n = tl.arange(0, HP * DP)
    return first + (n // DP) * SIZE + n % DP, (n // DP < HEADS) & (n % DP < SIZE)


@triton.jit
def gate_logits(x, project, bias, first, number, T: tl.constexpr, CHANNELS: tl.constexpr, CP: tl.constexpr,
                HEADS: tl.constexpr, HP: tl.constexpr):  # fmt: skip
    """(H, T) logits: rows `first` to `first + HEADS` of the projection, and from `number` on of the bias."""
    EACH: tl.constexpr = NARROWEST // HP if HP < NARROWEST else 1
    n = tl.arange(0, HP * EACH)
    flat = times(x, project, first + n // EACH, (n % EACH == 0) & (n // EACH < HEADS), CHANNELS, CP)
    logits = tl.permute(tl.sum(tl.reshape(flat, (T, HP, EACH)), 2), (1, 0))
    h = tl.arange(0, HP)
    return logits + tl.load(bias + number + h, mask=h < HEADS, other=0.0).to(tl.float32)[:, None]


@triton.jit
def unit_length(k):
    """Keys (H, T, D) of length 1, as `recurrence.unit_keys`."""
    return k * tl.rsqrt(tl.sum(k * k, 2)[:, :, None] + KEY_EPS)


@triton.jit
def keys_values_gates(
    x, inside, project, gate_bias, floor, T: tl.constexpr, CHANNELS: tl.constexpr, CP: tl.constexpr,
    HEADS: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr, DP: tl.constexpr, HAS_FLOOR: tl.constexpr,
):  # fmt: skip
    """Of normalised tokens (T, C) and one direction's weights: k, v (H, T, D), log of the decay and step (H, T).

    A token that does not exist has decay 1 and step 0, and so leaves the state as it is.
    """
    INNER: tl.constexpr = HEADS * SIZE
    rows, exist = head_rows(INNER, HEADS, HP, SIZE, DP)
    k = unit_length(by_head(times(x, project, rows, exist, CHANNELS, CP), T, HP, DP))
    v = by_head(times(x, project, rows + INNER, exist, CHANNELS, CP), T, HP, DP)
    forget = gate_logits(x, project, gate_bias, 3 * INNER, 0, T, CHANNELS, CP, HEADS, HP)
    step = gate_logits(x, project, gate_bias, 3 * INNER + HEADS, HEADS, T, CHANNELS, CP, HEADS, HP)
    log_alpha = log_sigmoid(forget)
    if HAS_FLOOR:
        least = tl.load(floor).to(tl.float32)
        log_alpha = log_add_exp(log_sigmoid(least), log_sigmoid(-least) + log_alpha)
    alive = inside[None, :] & (tl.arange(0, HP)[:, None] < HEADS)
    return k, v, tl.where(alive, log_alpha, 0.0), tl.where(alive, tl.sigmoid(step), 0.0)
