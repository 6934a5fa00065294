"""The gated delta recurrence in chunks: matrix products over all chunks at once instead of a loop over tokens.

Special: nothing before the scan of the states depends on a state, so every chunk of every sequence and head is one entry
of a few batched products; each chunk then is an affine map S -> S A + B, and maps are scanned in two levels of about the
square root of their number. The inverse that a chunk needs is merged from blocks, never expanded in powers: for alike keys
and beta near 1, which every sky and wall is, powers cancel from 1e9 and float32 keeps nothing.

Shape letters: N = sequences times heads; n = chunks; C = tokens of a chunk; K = key size; V = value size.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Without gradients a long sequence is walked in parts of this many tokens (over all sequences and heads), which bounds
# the memory of the temporaries: about 2 KB a token for head size 24.
TOKENS_AT_ONCE = 1 << 17


class Tokens(NamedTuple):
    """q, k (B, L, H, K), v (B, L, H, V), log_alpha and beta (B, L, H): what the recurrence reads, token by token."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_alpha: Tensor
    beta: Tensor


def chunked_gated_delta_rule(tokens: Tokens, state: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The recurrence of `recurrence.gated_delta_rule`, which checks what arrives here.

    Args:
        tokens: all in float32 or all in float64.
        state: (B, H, V, K) to start from, likewise.
        chunk_size: C, a power of two.

    Returns:
        out (B, L, H, V) and the final state (B, H, V, K).
    """
    batch, length, heads, _ = tokens.q.shape
    part = length
    if not torch.is_grad_enabled():
        part = max(1, TOKENS_AT_ONCE // (batch * heads * chunk_size)) * chunk_size
    outs = []
    for start in range(0, length, part):
        here = Tokens(*(x[:, start : start + part] for x in tokens))
        out, state = _one_part(here, state, chunk_size)
        outs.append(out)
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1), state


def _one_part(tokens: Tokens, state: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    batch, length, heads, key_dim = tokens.q.shape
    value_dim = tokens.v.shape[-1]
    size = min(chunk_size, 1 << (length - 1).bit_length())
    q, k, v, log_alpha, beta = (_to_chunks(x, size) for x in tokens)

    c = log_alpha.cumsum(-1)  # (N, n, C), at most 0
    lower = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    # Masked before the exponential: above the diagonal the exponent is positive, and inf * 0 is NaN in the backward pass.
    decay = (c[..., :, None] - c[..., None, :]).masked_fill(~lower, -math.inf).exp()
    gamma, last = c.exp()[..., None], c[..., -1:]

    keys = k.transpose(-1, -2)
    system = (k @ keys * decay * beta[..., None]).tril(-1)
    u_w = solve_unit_lower(system, torch.cat([beta[..., None] * v, beta[..., None] * gamma * k], dim=-1))
    mixed = (q @ keys * decay) @ u_w  # rows of [M U, M W]
    # exp of the difference: the quotient of the exponentials underflows to 0 / 0
    carried = u_w.transpose(-1, -2) @ (k * (last - c).exp()[..., None])  # [U^T Kd; W^T Kd]
    shift, turn = torch.split(carried, [value_dim, key_dim], dim=-2)
    keep = torch.eye(key_dim, dtype=q.dtype, device=q.device) * last.exp()[..., None]

    states = scan_states(state.reshape(-1, value_dim, key_dim), keep - turn, shift)
    local, seen = torch.split(mixed, [value_dim, key_dim], dim=-1)
    out = local + (q * gamma - seen) @ states[:, :-1].transpose(-1, -2)
    out = out.reshape(batch, heads, -1, value_dim)[:, :, :length].transpose(1, 2)
    return out, states[:, -1].reshape(state.shape)


def _to_chunks(x: Tensor, size: int) -> Tensor:
    """(B, L, H, ...) -> (B*H, n, size, ...); zeros fill the last chunk, and a zero token leaves the state as it is."""
    batch, length, heads = x.shape[:3]
    x = x.transpose(1, 2)
    missing = -length % size
    if missing:
        x = torch.cat([x, x.new_zeros((batch, heads, missing, *x.shape[3:]))], dim=2)
    return x.reshape(batch * heads, -1, size, *x.shape[3:])


def unit_lower_inverse(system: Tensor) -> Tensor:
    """(I + system)^-1 for strictly lower triangular matrices, by merging blocks of twice the size each time.

    [[P, 0], [R, Q]]^-1 = [[P^-1, 0], [-Q^-1 R P^-1, Q^-1]]: as exact as substitution, in log2(C) batched products.

    Args:
        system: (..., C, C), C a power of two; what is on and above the diagonal must be 0.
    """
    size = system.shape[-1]
    inverse = torch.eye(size, dtype=system.dtype, device=system.device).expand_as(system).clone()
    half = 1
    while half < size:
        # Views of the blocks on the diagonal, (..., C / 2half, 2half, 2half).
        blocks, done = _diagonal_blocks(system, 2 * half), _diagonal_blocks(inverse, 2 * half)
        first, second = done[..., :half, :half], done[..., half:, half:]
        done[..., half:, :half] = -(second @ (blocks[..., half:, :half] @ first))
        half *= 2
    return inverse


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    count = matrix.shape[-1] // size
    rows = matrix.view(*matrix.shape[:-2], count, size, count, size)  # (..., i, size, j, size)
    return rows.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def solve_unit_lower(system: Tensor, right: Tensor) -> Tensor:
    """(I + system)^-1 right for strictly lower triangular (..., C, C) and (..., C, M)."""
    solution: Tensor = _SolveUnitLower.apply(system, right)  # type: ignore[no-untyped-call]
    return solution


class _SolveUnitLower(torch.autograd.Function):
    """With the backward pass of a triangular solve: two products, whatever computed the inverse."""

    @staticmethod
    def forward(ctx: Any, system: Tensor, right: Tensor) -> Tensor:
        inverse = unit_lower_inverse(system)
        solution = inverse @ right
        ctx.save_for_backward(inverse, solution)
        return solution

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        inverse, solution = ctx.saved_tensors
        right = inverse.transpose(-1, -2) @ grads[0]
        return -(right @ solution.transpose(-1, -2)).tril(-1), right


def scan_states(start: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """`scan_affine`, differentiable."""
    states: Tensor = _ScanAffine.apply(start, turn, shift)  # type: ignore[no-untyped-call]
    return states


def scan_affine(start: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """All states of S_{j+1} = S_j A_j + B_j, in two levels.

    Args:
        start: (N, V, K) S_0.
        turn: (N, n, K, K) A.
        shift: (N, n, V, K) B.

    Returns:
        (N, n + 1, V, K): S_0 to S_n.
    """
    count, chunks = turn.shape[:2]
    group = max(1, math.isqrt(chunks))
    groups = -(-chunks // group)
    maps = torch.cat([turn, shift], dim=-2)  # (N, n, K + V, K): both are multiplied by the next A from the right
    if missing := groups * group - chunks:
        identity = torch.eye(maps.shape[-2], maps.shape[-1], dtype=maps.dtype, device=maps.device)
        maps = torch.cat([maps, identity.expand(count, missing, -1, -1)], dim=1)
    maps = maps.reshape(count * groups, group, *maps.shape[2:])
    key_dim = turn.shape[-1]
    # Level 1: compose from each group's start to each of its chunks, all groups at once.
    composed = [maps[:, 0]]
    for j in range(1, group):
        following = composed[-1] @ maps[:, j, :key_dim]
        following[:, key_dim:] += maps[:, j, key_dim:]
        composed.append(following)
    inside = torch.stack(composed, dim=1).reshape(count, groups, group, *maps.shape[2:])
    # Level 2: walk from group to group.
    states = [start]
    for g in range(groups - 1):
        states.append(torch.baddbmm(inside[:, g, -1, key_dim:], states[-1], inside[:, g, -1, :key_dim]))
    at_group = torch.stack(states, dim=1)[:, :, None]
    after = at_group @ inside[..., :key_dim, :] + inside[..., key_dim:, :]
    return torch.cat([start[:, None], after.flatten(1, 2)[:, :chunks]], dim=1)


class _ScanAffine(torch.autograd.Function):
    """The backward pass is the same scan from the end with transposed maps."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
        states = scan_affine(start, turn, shift)
        ctx.save_for_backward(turn, states)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turn, states = ctx.saved_tensors
        grad = grads[0]
        # G_j = dS_j + G_{j+1} A_j^T, from G_n = dS_n down to G_0
        back = scan_affine(grad[:, -1], turn.transpose(-1, -2).flip(1), grad[:, :-1].flip(1)).flip(1)
        return back[:, 0], states[:, :-1].transpose(-1, -2) @ back[:, 1:], back[:, 1:]
