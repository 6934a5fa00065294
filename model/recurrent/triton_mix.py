"""What a block does around its scans, in two Triton kernels, and what the streams exchange, in one: inference.

    x1 = x + LN(sum of the directions' outputs, weighed per token)          `merge`
    x2 = x1 + depthwise 3x3 of x1;  x3 = x2 + feed-forward(LN x2);  FiLM     `local_and_feed`
    depth + sigmoid(W bokeh) P bokeh, bokeh + sigmoid(W' depth) P' depth     `exchange`

Shape letters: B = samples; h, w = tokens; C = channels; S = directions; T = tokens of a tile; F = hidden width.
"""

import triton
import triton.language as tl
from torch import Tensor, nn

from model.recurrent.triton_chunk import weighted
from model.recurrent.triton_tokens import gelu, layer_norm, rows_of, times, vector
from pipeline.kernel_launch import launch, power

TILE = 32  # tokens of a program
MERGED = 16  # of `merge`, which holds more of each
HIDDEN_AT_ONCE = 32


def merge(x: Tensor, planes: Tensor, scan_norm: tuple[Tensor, Tensor], gate: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """x (B, h, w, C) and the directions' outputs (S, B, h, w, C) -> (B, h, w, C)."""
    channels, rows = x.shape[-1], x[..., 0].numel()
    merged = x.new_empty(x.shape)
    weights = (*scan_norm, gate.weight, gate.bias, norm.weight, norm.bias)
    launch(
        block_merge, (-(-rows // MERGED),), (x, planes, *weights, merged, rows),
        reads=[x, planes, *weights], writes=[merged],
        flops=2 * rows * channels * len(planes),
        CHANNELS=channels, CP=power(channels, 16), DIRECTIONS=len(planes), TILE=MERGED,
    )  # fmt: skip
    return merged


def local_and_feed(
    x: Tensor, local: nn.Conv2d, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear, film: Tensor | None
) -> Tensor:
    """The rest of a block; film (B, 2 C) is scale and shift."""
    batch, height, width, channels = x.shape
    given = x.new_empty(x.shape)
    rows = batch * height * width
    # Nine shifted loads, less what lies beyond the borders.
    window = (3 * height - 2) * (3 * width - 2) / (height * width)
    weights = [
        local.weight, local.bias, norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias, film
    ]  # fmt: skip
    launch(
        block_feed, (-(-height * width // TILE), batch), (x, *weights, given, height, width),
        reads=[(x, window), *weights], writes=[given], flops=2 * rows * channels * (9 + 2 * first.out_features),
        CHANNELS=channels, CP=power(channels, 16), HIDDEN=first.out_features, BLOCK=HIDDEN_AT_ONCE,
        HAS_FILM=film is not None, TILE=TILE,
    )  # fmt: skip
    return given


def exchange(depth: Tensor, bokeh: Tensor, gates: nn.ModuleList, values: nn.ModuleList) -> tuple[Tensor, Tensor]:
    """Both streams after what they learn from each other, see `bokehflow.blocks.CrossStreamFusion`."""
    channels, rows = depth.shape[-1], depth[..., 0].numel()
    results = depth.new_empty(depth.shape), bokeh.new_empty(bokeh.shape)
    weights: list[Tensor] = []
    for gate, value in zip(gates, values, strict=True):
        weights += [gate.weight, gate.bias, value.weight]  # type: ignore[list-item]
    launch(
        stream_exchange, (-(-rows // TILE),), (depth, bokeh, *weights, *results, rows), reads=[depth, bokeh, *weights],
        writes=list(results), flops=8 * rows * channels**2,
        CHANNELS=channels, CP=power(channels, 16), TILE=TILE,
    )  # fmt: skip
    return results


@triton.jit
def _store(target, places, inside, rows, CHANNELS: tl.constexpr, CP: tl.constexpr):
    c = tl.arange(0, CP)[None, :]
    offsets = places[:, None].to(tl.int64) * CHANNELS + c
    tl.store(target + offsets, rows.to(target.dtype.element_ty), mask=inside[:, None] & (c < CHANNELS))


@triton.jit
def _weighed(tokens, gate, bias, direction, CHANNELS: tl.constexpr, CP: tl.constexpr):
    """(T,) logits of a direction."""
    return tl.sum(tokens * vector(gate + direction * CHANNELS, CHANNELS, CP), 1) + tl.load(bias + direction).to(
        tl.float32
    )


@triton.jit
def block_merge(
    x, planes, scan_norm_weight, scan_norm_bias, gate, gate_bias, norm_weight, norm_bias, merged, rows,
    CHANNELS: tl.constexpr, CP: tl.constexpr, DIRECTIONS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = places < rows
    before = rows_of(x, places, inside, CHANNELS, CP)
    tokens = layer_norm(before, scan_norm_weight, scan_norm_bias, CHANNELS, CP)
    highest = tl.full((TILE,), float("-inf"), tl.float32)
    for direction in tl.static_range(DIRECTIONS):
        highest = tl.maximum(highest, _weighed(tokens, gate, gate_bias, direction, CHANNELS, CP))
    total, mixed = tl.zeros((TILE,), tl.float32), tl.zeros((TILE, CP), tl.float32)
    for direction in tl.static_range(DIRECTIONS):
        share = tl.exp(_weighed(tokens, gate, gate_bias, direction, CHANNELS, CP) - highest)
        plane = planes + tl.cast(rows, tl.int64) * (direction * CHANNELS)
        mixed += share[:, None] * rows_of(plane, places, inside, CHANNELS, CP)
        total += share
    mixed = layer_norm(mixed / total[:, None], norm_weight, norm_bias, CHANNELS, CP)
    _store(merged, places, inside, before + mixed, CHANNELS, CP)


@triton.jit
def block_feed(
    x, local, local_bias, norm_weight, norm_bias, first, first_bias, second, second_bias, film, given, height, width,
    CHANNELS: tl.constexpr, CP: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, HAS_FILM: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    x += sample * height * width * CHANNELS
    given += sample * height * width * CHANNELS
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = places < height * width
    row, column = places // width, places % width
    c = tl.arange(0, CP)[None, :]
    now = vector(local_bias, CHANNELS, CP) + tl.zeros((TILE, CP), tl.float32)
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        near = inside & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        seen = rows_of(x, places + down * width + right, near, CHANNELS, CP)
        now += seen * tl.load(local + c * 9 + tap, mask=c < CHANNELS, other=0.0).to(tl.float32)
        if tap == 4:
            now += seen
    tokens = layer_norm(now, norm_weight, norm_bias, CHANNELS, CP)
    now += vector(second_bias, CHANNELS, CP)
    for start in range(0, HIDDEN, BLOCK):
        f = start + tl.arange(0, BLOCK)
        hidden = times(tokens, first, f, f < HIDDEN, CHANNELS, CP)
        hidden += tl.load(first_bias + f, mask=f < HIDDEN, other=0.0).to(tl.float32)[None, :]
        hidden = gelu(hidden)
        w = tl.load(second + c * HIDDEN + f[:, None], mask=(c < CHANNELS) & (f[:, None] < HIDDEN), other=0.0)
        now += weighted(hidden, w)
    if HAS_FILM:
        scale = vector(film + sample * 2 * CHANNELS, CHANNELS, CP)
        now = now * (1.0 + scale) + vector(film + sample * 2 * CHANNELS + CHANNELS, CHANNELS, CP)
    _store(given, places, inside, now, CHANNELS, CP)


@triton.jit
def _learned(tokens, gate, gate_bias, value, CHANNELS: tl.constexpr, CP: tl.constexpr):
    c = tl.arange(0, CP)
    share = tl.sigmoid(times(tokens, gate, c, c < CHANNELS, CHANNELS, CP) + vector(gate_bias, CHANNELS, CP))
    return share * times(tokens, value, c, c < CHANNELS, CHANNELS, CP)


@triton.jit
def stream_exchange(
    depth, bokeh, gate, gate_bias, value, other_gate, other_bias, other_value, new_depth, new_bokeh, rows,
    CHANNELS: tl.constexpr, CP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = places < rows
    one = rows_of(depth, places, inside, CHANNELS, CP)
    two = rows_of(bokeh, places, inside, CHANNELS, CP)
    learned = _learned(two, gate, gate_bias, value, CHANNELS, CP)
    _store(new_depth, places, inside, one + learned, CHANNELS, CP)
    learned = _learned(one, other_gate, other_bias, other_value, CHANNELS, CP)
    _store(new_bokeh, places, inside, two + learned, CHANNELS, CP)
