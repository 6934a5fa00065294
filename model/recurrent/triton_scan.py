"""The gated delta recurrence in three Triton kernels: maps of groups of chunks, a walk over groups, outputs.

Special: a two-level scan. Programs take groups of chunks side by side and compose each group's affine map in registers; one
short walk finds the states that groups start from; then the groups are walked from there, side by side again, and give the
outputs. Nothing of a chunk is ever stored, only one map per group of about a square root of all chunks.

Gradients come from the written-out backward pass of `chunked.py` on the saved inputs.

Shape letters: B = sequences; L = tokens; H = heads; Dk, Dv = key and value size; G = groups.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.recurrent.chunked import Tokens, chunked_gated_delta_rule
from model.recurrent.triton_chunk import advance, chunk_of, identity, outputs, product
from pipeline.kernel_launch import launch, power

HEADS_AT_ONCE = 4  # of one program; matrices of all of them are held in registers
CHUNK = 16  # the fewest rows that tensor cores take; longer chunks cost more arithmetic and more registers


def triton_gated_delta_rule(tokens: Tokens, state: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The recurrence of `recurrence.gated_delta_rule`, which checks what arrives here.

    Args:
        tokens: in float32.
        state: (B, H, Dv, Dk) to start from, likewise.
        chunk_size: of the backward pass, a power of two.

    Returns:
        out (B, L, H, Dv) and the final state (B, H, Dv, Dk).
    """
    out, final = _Scan.apply(*tokens, state, chunk_size)  # type: ignore[no-untyped-call]
    return out, final


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, log_alpha, beta, state)
        ctx.chunk_size = chunk_size
        return _forward(Tokens(q, k, v, log_alpha, beta), state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            results = chunked_gated_delta_rule(Tokens(*leaves[:5]), leaves[5], ctx.chunk_size)
            grads = torch.autograd.grad(results, leaves, (d_out, d_final))
        return *grads, None


def grouping(length: int) -> tuple[int, int]:
    """Groups and chunks in each: as long as their number, in a power of two."""
    chunks = -(-length // CHUNK)
    each = 1 << max(0, (chunks.bit_length() - 1) // 2)
    return -(-chunks // each), each


def _forward(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v, log_alpha, beta = tokens
    batch, length, heads, key_dim = q.shape
    value_dim = v.shape[-1]
    groups, each = grouping(length)
    turns, shifts = walk_room(batch, heads, groups, value_dim, key_dim, q.device)
    out = torch.empty((batch, length, heads, value_dim), dtype=q.dtype, device=q.device)
    strides = [s for x in (q, k, v) for s in x.stride()]
    gates = [s for x in (log_alpha, beta) for s in x.stride()]
    held = min(HEADS_AT_ONCE, power(heads))
    shape = {
        "HEADS": heads, "HP": held, "KEY": key_dim, "KP": power(key_dim, 16), "VALUE": value_dim,
        "VP": power(value_dim, 16), "CHUNK": CHUNK,
    }  # fmt: skip
    grid = (groups, -(-heads // held), batch)
    rows = batch * length * heads
    in_chunk = 2 * rows * CHUNK
    launch(
        scan_maps, grid, (k, v, log_alpha, beta, turns, shifts, *strides[4:], *gates, length, groups, each),
        reads=[k, v, log_alpha, beta], writes=[turns, shifts],
        flops=in_chunk * (3 * key_dim + value_dim) + 4 * rows * key_dim * (key_dim + value_dim), **shape,
    )  # fmt: skip
    starts, final = walk(turns, shifts, state.contiguous())
    launch(
        scan_outputs, grid, (q, k, v, log_alpha, beta, starts, out, *strides, *gates, length, groups, each),
        reads=[q, k, v, log_alpha, beta, starts], writes=[out],
        flops=in_chunk * (2 * key_dim + 2 * value_dim) + 6 * rows * key_dim * value_dim, **shape,
    )  # fmt: skip
    return out, final


def walk_room(
    batch: int, heads: int, groups: int, value_dim: int, key_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Turns (B, H, G, Dk, Dk) and shifts (B, H, G, Dv, Dk) of groups, float32, to be filled."""
    turns = torch.empty((batch, heads, groups, key_dim, key_dim), device=device)
    return turns, torch.empty((batch, heads, groups, value_dim, key_dim), device=device)


def walk(turns: Tensor, shifts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """From group to group.

    Args:
        turns, shifts: see `walk_room`.
        state: (B, H, Dv, Dk) contiguous.

    Returns:
        (B, H, G, Dv, Dk) what each group starts from, and (B, H, Dv, Dk) what the last leaves.
    """
    batch, heads, groups, value_dim, key_dim = shifts.shape
    starts, final = torch.empty_like(shifts), torch.empty_like(state)
    launch(
        scan_walk, (batch * heads,), (turns, shifts, state, starts, final, groups),
        reads=[turns, shifts, state], writes=[starts, final], flops=2 * shifts.numel() * key_dim,
        KEY=key_dim, KP=power(key_dim, 16), VALUE=value_dim, VP=power(value_dim, 16),
    )  # fmt: skip
    return starts, final


@triton.jit
def _rows(pointer, stride_t, stride_h, stride_d, t, heads, inside, SIZE: tl.constexpr, SP: tl.constexpr):
    """(H, C, D) of one sequence."""
    d = tl.arange(0, SP)[None, None, :]
    offsets = t[None, :, None] * stride_t + heads[:, None, None] * stride_h + d * stride_d
    return tl.load(pointer + offsets, mask=inside[:, :, None] & (d < SIZE), other=0.0).to(tl.float32)


@triton.jit
def _gates(pointer, stride_t, stride_h, t, heads, inside):
    """(H, C); zero beyond the end, where a token then leaves the state as it is."""
    offsets = t[None, :] * stride_t + heads[:, None] * stride_h
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _matrices(heads, groups, group, sample, HEADS: tl.constexpr, ROWS: tl.constexpr, RP: tl.constexpr,
              COLUMNS: tl.constexpr, CP: tl.constexpr):  # fmt: skip
    """Offsets of (H, R, C) matrices of a group in (B, H, G, R, C), and which exist."""
    row = tl.arange(0, RP)[None, :, None]
    column = tl.arange(0, CP)[None, None, :]
    matrix = (sample * HEADS + heads) * groups + group
    offsets = matrix[:, None, None].to(tl.int64) * (ROWS * COLUMNS) + row * COLUMNS + column
    return offsets, (heads[:, None, None] < HEADS) & (row < ROWS) & (column < COLUMNS)


@triton.jit
def scan_maps(
    k, v, log_alpha, beta, turns, shifts,
    kb, kt, kh, kd, vb, vt, vh, vd, ab, at, ah, bb, bt, bh, length, groups, each,
    HEADS: tl.constexpr, HP: tl.constexpr, KEY: tl.constexpr, KP: tl.constexpr, VALUE: tl.constexpr,
    VP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A and B of one group of chunks, for some heads of a sequence."""
    group, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    heads = tl.program_id(1) * HP + tl.arange(0, HP)
    turn, shift = identity(HP, KP), tl.zeros((HP, VP, KP), tl.float32)
    nothing = tl.zeros((HP, CHUNK, KP), tl.float32)
    for j in range(each):
        t = (group * each + j) * CHUNK + tl.arange(0, CHUNK).to(tl.int64)
        inside = (t[None, :] < length) & (heads[:, None] < HEADS)
        k_ = _rows(k + sample * kb, kt, kh, kd, t, heads, inside, KEY, KP)
        v_ = _rows(v + sample * vb, vt, vh, vd, t, heads, inside, VALUE, VP)
        step = _gates(beta + sample * bb, bt, bh, t, heads, inside)
        forget = _gates(log_alpha + sample * ab, at, ah, t, heads, inside)
        _, gamma, inverse, carried, last = chunk_of(k_, forget, step, CHUNK)
        _, turn = advance(turn, k_, nothing, step, gamma, inverse, carried, last)
        _, shift = advance(shift, k_, v_, step, gamma, inverse, carried, last)
    offsets, exists = _matrices(heads, groups, group, sample, HEADS, KEY, KP, KEY, KP)
    tl.store(turns + offsets, turn, mask=exists)
    offsets, exists = _matrices(heads, groups, group, sample, HEADS, VALUE, VP, KEY, KP)
    tl.store(shifts + offsets, shift, mask=exists)


@triton.jit
def scan_walk(
    turns, shifts, state, starts, final, groups,
    KEY: tl.constexpr, KP: tl.constexpr, VALUE: tl.constexpr, VP: tl.constexpr,
):  # fmt: skip
    """S_{g+1} = S_g A_g + B_g of one head."""
    one = tl.program_id(0).to(tl.int64)
    key = tl.arange(0, KP)
    value = tl.arange(0, VP)
    square = key[:, None] * KEY + key[None, :]
    squares = (key[:, None] < KEY) & (key[None, :] < KEY)
    place = value[:, None] * KEY + key[None, :]
    places = (value[:, None] < VALUE) & (key[None, :] < KEY)
    now = tl.load(state + one * VALUE * KEY + place, mask=places, other=0.0)
    for group in range(groups):
        turn = tl.load(turns + (one * groups + group) * KEY * KEY + square, mask=squares, other=0.0)
        shift = tl.load(shifts + (one * groups + group) * VALUE * KEY + place, mask=places, other=0.0)
        tl.store(starts + (one * groups + group) * VALUE * KEY + place, now, mask=places)
        now = product(now, turn) + shift
    tl.store(final + one * VALUE * KEY + place, now, mask=places)


@triton.jit
def scan_outputs(
    q, k, v, log_alpha, beta, starts, out,
    qb, qt, qh, qd, kb, kt, kh, kd, vb, vt, vh, vd, ab, at, ah, bb, bt, bh, length, groups, each,
    HEADS: tl.constexpr, HP: tl.constexpr, KEY: tl.constexpr, KP: tl.constexpr, VALUE: tl.constexpr,
    VP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Outputs of one group of chunks, for some heads of a sequence."""
    group, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    heads = tl.program_id(1) * HP + tl.arange(0, HP)
    offsets, exists = _matrices(heads, groups, group, sample, HEADS, VALUE, VP, KEY, KP)
    state = tl.load(starts + offsets, mask=exists, other=0.0)
    d = tl.arange(0, VP)[None, None, :]
    for j in range(each):
        t = (group * each + j) * CHUNK + tl.arange(0, CHUNK).to(tl.int64)
        inside = (t[None, :] < length) & (heads[:, None] < HEADS)
        k_ = _rows(k + sample * kb, kt, kh, kd, t, heads, inside, KEY, KP)
        v_ = _rows(v + sample * vb, vt, vh, vd, t, heads, inside, VALUE, VP)
        step = _gates(beta + sample * bb, bt, bh, t, heads, inside)
        forget = _gates(log_alpha + sample * ab, at, ah, t, heads, inside)
        decay, gamma, inverse, carried, last = chunk_of(k_, forget, step, CHUNK)
        z, after = advance(state, k_, v_, step, gamma, inverse, carried, last)
        q_ = _rows(q + sample * qb, qt, qh, qd, t, heads, inside, KEY, KP)
        given = outputs(q_, k_, z, state, decay, gamma)
        place = ((sample * length + t[None, :, None]) * HEADS + heads[:, None, None]) * VALUE + d
        tl.store(out + place, given, mask=inside[:, :, None] & (d < VALUE))
        state = after
