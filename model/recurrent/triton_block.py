"""The scans of a block in Triton kernels that read its tokens as they lie in memory: inference.

Special: all directions of a block in one launch each of maps, walk and outputs (see `triton_scan.py`). Programs normalise and
project their tokens themselves, so neither q, k, v and gates nor anything in a scan's order is ever stored; what is, are maps
and states of groups of chunks, and each direction's normalised output at the token's own place.

Shape letters: B = samples; h, w = tokens; C = channels; S = directions; H = heads; D = head size; G = groups.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.recurrent.triton_chunk import advance, chunk_of, identity, outputs, weighted
from model.recurrent.triton_scan import CHUNK, _matrices, grouping
from model.recurrent.triton_tokens import (
    by_head,
    head_rows,
    keys_values_gates,
    layer_norm,
    position,
    rows_of,
    times,
)
from pipeline.kernel_launch import launch, power


class Scans(NamedTuple):
    """The weights of one block's scans, direction first, see `scans.BiGDR`; `floor` (B,) or (1,) logits, or None."""

    scan_norm: tuple[Tensor, Tensor]
    project: Tensor
    gate_bias: Tensor
    out_gate: Tensor
    out_gate_bias: Tensor
    out: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    floor: Tensor | None
    heads: int
    used: int


class Cut(NamedTuple):
    """How a frame's tokens are cut into chunks and groups of them."""

    height: int
    width: int
    groups: int
    each: int


def cut_of(x: Tensor) -> Cut:
    """Of tokens (B, h, w, C)."""
    return Cut(x.shape[1], x.shape[2], *grouping(x.shape[1] * x.shape[2]))


def _constants(scans: Scans) -> dict[str, int]:
    _, inner, channels = scans.out_gate.shape
    size = inner // scans.heads
    return {
        "CHANNELS": channels, "CP": power(channels, 16), "HEADS": scans.heads, "HP": power(scans.heads), "SIZE": size,
        "DP": power(size, 16), "CHUNK": CHUNK, "HAS_FLOOR": scans.floor is not None,
        "FLOOR_EACH": scans.floor is not None and len(scans.floor) > 1,
        "num_warps": 8 if power(scans.heads) == 4 else 4,  # with 4, four heads spill more registers
        "num_stages": 1,  # loads ahead of a chunk would hold its weights in shared memory several times
    }  # fmt: skip


def maps(x: Tensor, scans: Scans, cut: Cut) -> tuple[Tensor, Tensor, Tensor]:
    """Affine maps of all groups of all directions.

    Returns:
        turns, shifts (B, S * H, G, D, D), and (B, G, C) sums of the normalised tokens of each group of direction 0, float32.
    """
    batch, height, width, channels = x.shape
    heads, directions = scans.heads, scans.used
    size = scans.out.shape[1] // heads
    turns = x.new_empty((batch, directions * heads, cut.groups, size, size), dtype=torch.float32)
    shifts = torch.empty_like(turns)
    sums = x.new_empty((batch, cut.groups, channels), dtype=torch.float32)
    rows = batch * height * width * directions
    launch(
        block_maps, (cut.groups, directions, batch),
        (x, *scans.scan_norm, scans.project, scans.gate_bias, scans.floor, turns, shifts, sums, *cut),
        reads=[(x, directions), *scans.scan_norm, scans.project, scans.gate_bias, scans.floor],
        writes=[turns, shifts, sums],
        flops=2 * rows * (channels * 2 * heads * (size + 1) + heads * size * (4 * CHUNK + 4 * size)),
        **_constants(scans),
    )  # fmt: skip
    return turns, shifts, sums


def planes(x: Tensor, scans: Scans, cut: Cut, starts: Tensor) -> Tensor:
    """Each direction's output, projected and normalised: (S, B, h, w, C) in the dtype of x."""
    batch, height, width, channels = x.shape
    heads, inner = scans.heads, scans.out.shape[1]
    given = x.new_empty((scans.used, *x.shape))
    rows = batch * height * width * scans.used
    per_token = channels * (5 * inner + 2 * heads) + inner * (4 * CHUNK + 3 * inner // heads)
    launch(
        block_outputs, (cut.groups, scans.used, batch),
        (
            x, *scans.scan_norm, scans.project, scans.gate_bias, scans.floor, scans.out_gate, scans.out_gate_bias,
            scans.out, scans.norm_weight, scans.norm_bias, starts, given, *cut,
        ),
        reads=[(x, scans.used), starts, *scans.scan_norm, *scans[1:9]], writes=[given],
        flops=2 * rows * per_token, **_constants(scans),
    )  # fmt: skip
    return given


@triton.jit
def block_maps(
    x, scan_norm_weight, scan_norm_bias, project, gate_bias, floor, turns, shifts, sums, height, width, groups, each,
    CHANNELS: tl.constexpr, CP: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr,
    DP: tl.constexpr, CHUNK: tl.constexpr, HAS_FLOOR: tl.constexpr, FLOOR_EACH: tl.constexpr,
):  # fmt: skip
    """A and B of one group of chunks of one direction."""
    group, direction, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = height * width
    x += sample * length * CHANNELS
    project += direction * (3 * HEADS * SIZE + 2 * HEADS) * CHANNELS
    gate_bias += direction * 2 * HEADS
    if FLOOR_EACH:
        floor += sample
    turn, shift = identity(HP, DP), tl.zeros((HP, DP, DP), tl.float32)
    nothing = tl.zeros((HP, CHUNK, DP), tl.float32)
    total = tl.zeros((CP,), tl.float32)
    for j in range(each):
        t = (group * each + j) * CHUNK + tl.arange(0, CHUNK)
        inside = t < length
        tokens = rows_of(x, position(t, direction, height, width), inside, CHANNELS, CP)
        tokens = layer_norm(tokens, scan_norm_weight, scan_norm_bias, CHANNELS, CP)
        total += tl.sum(tl.where(inside[:, None], tokens, 0.0), 0)
        k, v, forget, step = keys_values_gates(
            tokens, inside, project, gate_bias, floor, CHUNK, CHANNELS, CP, HEADS, HP, SIZE, DP, HAS_FLOOR
        )
        _, gamma, inverse, carried, last = chunk_of(k, forget, step, CHUNK)
        _, turn = advance(turn, k, nothing, step, gamma, inverse, carried, last)
        _, shift = advance(shift, k, v, step, gamma, inverse, carried, last)
    heads = direction * HEADS + tl.arange(0, HP)
    offsets, exists = _matrices(heads, groups, group, sample, HEADS * tl.num_programs(1), SIZE, DP, SIZE, DP)
    exists = exists & (tl.arange(0, HP)[:, None, None] < HEADS)
    tl.store(turns + offsets, turn, mask=exists)
    tl.store(shifts + offsets, shift, mask=exists)
    if direction == 0:
        c = tl.arange(0, CP)
        tl.store(sums + (sample * groups + group) * CHANNELS + c, total, mask=c < CHANNELS)


@triton.jit
def block_outputs(
    x, scan_norm_weight, scan_norm_bias, project, gate_bias, floor, out_gate, out_gate_bias, out, norm_weight,
    norm_bias, starts, given, height, width, groups, each,
    CHANNELS: tl.constexpr, CP: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr,
    DP: tl.constexpr, CHUNK: tl.constexpr, HAS_FLOOR: tl.constexpr, FLOOR_EACH: tl.constexpr,
):  # fmt: skip
    """One group of chunks of one direction, from its first state to outputs that are gated, projected and normalised."""
    group, direction, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = height * width
    INNER: tl.constexpr = HEADS * SIZE
    x += sample * length * CHANNELS
    given += (direction * tl.num_programs(2) + sample) * length * CHANNELS
    project += direction * (3 * INNER + 2 * HEADS) * CHANNELS
    gate_bias += direction * 2 * HEADS
    if FLOOR_EACH:
        floor += sample
    out_gate += direction * INNER * CHANNELS
    out += direction * INNER * CHANNELS
    heads = direction * HEADS + tl.arange(0, HP)
    offsets, exists = _matrices(heads, groups, group, sample, HEADS * tl.num_programs(1), SIZE, DP, SIZE, DP)
    exists = exists & (tl.arange(0, HP)[:, None, None] < HEADS)
    state = tl.load(starts + offsets, mask=exists, other=0.0)
    rows, exist = head_rows(0, HEADS, HP, SIZE, DP)
    c = tl.arange(0, CP)
    for j in range(each):
        t = (group * each + j) * CHUNK + tl.arange(0, CHUNK)
        inside = t < length
        places = position(t, direction, height, width)
        tokens = rows_of(x, places, inside, CHANNELS, CP)
        tokens = layer_norm(tokens, scan_norm_weight, scan_norm_bias, CHANNELS, CP)
        k, v, forget, step = keys_values_gates(
            tokens, inside, project, gate_bias, floor, CHUNK, CHANNELS, CP, HEADS, HP, SIZE, DP, HAS_FLOOR
        )
        decay, gamma, inverse, carried, last = chunk_of(k, forget, step, CHUNK)
        z, after = advance(state, k, v, step, gamma, inverse, carried, last)
        q = by_head(times(tokens, project, rows, exist, CHANNELS, CP), CHUNK, HP, DP)
        y = tl.reshape(tl.permute(outputs(q, k, z, state, decay, gamma), (1, 0, 2)), (CHUNK, HP * DP))
        bias = tl.load(out_gate_bias + direction * INNER + rows, mask=exist, other=0.0).to(tl.float32)
        y *= tl.sigmoid(times(tokens, out_gate, rows, exist, CHANNELS, CP) + bias[None, :])
        w = tl.load(
            out + rows[:, None] * CHANNELS + c[None, :], mask=exist[:, None] & (c < CHANNELS)[None, :], other=0.0
        )
        y = weighted(y, w)
        y = layer_norm(y, norm_weight + direction * CHANNELS, norm_bias + direction * CHANNELS, CHANNELS, CP)
        target = given + places[:, None].to(tl.int64) * CHANNELS + c[None, :]
        tl.store(target, y.to(given.dtype.element_ty), mask=inside[:, None] & (c < CHANNELS)[None, :])
        state = after
