"""The gated delta recurrence in chunks: matrix products over many chunks at once instead of a loop over tokens.

Special: chunks lie one after the other in memory with all sequences and heads in each, so that a step over chunks is one
batched product, and a block of chunks stays in a CPU's cache from its first product to its last. A CPU walks from state to
state, which is the least work; elsewhere, where the number of steps counts, each chunk is taken as an affine map
S -> S A + B, and maps are scanned level by level in small groups. The inverse that a chunk needs comes from substitution,
never from powers: for alike keys and beta near 1, which every sky and wall is, powers cancel from 1e9 and float32 keeps
nothing. The backward pass is written out, which halves what has to be kept for it; tests hold it against the token loop in
float64.

For one chunk of C rows, with c the inclusive cumulative sum of log a, gamma = exp c and S the state it starts from:

    D_ij = exp(c_i - c_j), i >= j       P = D o Q K^T                       Kd = diag(exp(c_C - c)) K
    T = (I + L)^-1                      L = strict_lower(diag(b) (D o K K^T))
    Z = T diag(b) (V - diag(gamma) K S^T)
    O = diag(gamma) Q S^T + P Z         S' = gamma_C S + Z^T Kd

and as a map of S: S' = S A + B with A = gamma_C I - W^T Kd, B = U^T Kd, U = T diag(b) V, W = T diag(b gamma) K.

Shape letters: N = sequences times heads; n = chunks; C = tokens of a chunk; K = key size; V = value size.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Without gradients a long sequence is walked in parts of this many tokens (over all sequences and heads), which bounds the
# memory of the temporaries: about 1 KB each for head size 24.
TOKENS_AT_ONCE = 1 << 18
BLOCK_BYTES = 1 << 18  # of one (n, N, C, C) matrix; a CPU works on so many chunks at once. 2^17 to 2^19 measured alike
SCAN_GROUP = 8  # maps composed one after the other in a level of the scan


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

    out, final = _run_chunks(q, k, v, log_alpha, beta, state.reshape(-1, value_dim, key_dim))
    out = torch.unflatten(out, 1, (batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)
    return out[:, :length], final.reshape(state.shape)


def _to_chunks(x: Tensor, size: int) -> Tensor:
    """(B, L, H, ...) -> (n, B*H, size, ...); zeros fill the last chunk, and a zero token leaves the state as it is."""
    missing = -x.shape[1] % size
    if missing:
        x = torch.cat([x, x.new_zeros((x.shape[0], missing, *x.shape[2:]))], dim=1)
    x = torch.unflatten(x, 1, (-1, size))
    return x.permute(1, 0, 3, 2, *range(4, x.dim())).flatten(1, 2).contiguous()


def _run_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """q, k (n, N, C, K), v (n, N, C, V), log_alpha, beta (n, N, C), state (N, V, K) -> out like v, final state."""
    out, final = _Chunks.apply(q, k, v, log_alpha, beta, state)  # type: ignore[no-untyped-call]
    return out, final


class _Chunks(torch.autograd.Function):
    """The formulas above, and their gradients, block of chunks by block."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        c = log_alpha.cumsum(-1)
        inverse = q.new_empty((*q.shape[:3], q.shape[2]))
        out, z = torch.empty_like(v), torch.empty_like(v)
        states = q.new_empty((len(q) + 1, *state.shape))
        states[0] = state
        walk = _walk if walks(q.device) else _levels
        for part in _blocks(q):
            q_, k_, step, kt = q[part], k[part], beta[part][..., None], k[part].mT
            decay, gamma, to_end = _decays(c[part])
            inverse[part] = unit_lower_inverse((k_ @ kt).mul_(decay).mul_(step))
            chunk = _Maps(step * gamma * k_, step * v[part], to_end * k_, inverse[part], gamma[..., -1:, :])
            walk(chunk, states[part.start : part.stop + 1], z[part])
            p = (q_ @ kt).mul_(decay).tril_()
            torch.add((q_ @ states[part].mT).mul_(gamma), p @ z[part], out=out[part])
        ctx.save_for_backward(q, k, v, c, beta, inverse, z, states)
        return out, states[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Tensor, ...]:
        q, k, v, c, beta, inverse, z, states = ctx.saved_tensors
        d_q, d_k, d_v, d_c, d_beta = (torch.empty_like(x) for x in (q, k, v, c, beta))
        d_out, d_state = (
            d_out.contiguous(),
            d_final,
        )  # an expanded one, from a sum, would go through bmm matrix by matrix
        walk = _walk_back if walks(q.device) else _levels_back
        for part in _blocks(q)[::-1]:
            q_, k_, kt, z_, given = q[part], k[part], k[part].mT, z[part], d_out[part]
            step, starts = beta[part][..., None], states[part]
            decay, gamma, to_end = _decays(c[part])
            decay.tril_()
            scores, alike = q_ @ kt, k_ @ kt

            # Gradients of the states run backwards through the transposed maps, from where the outputs push them.
            through = (scores * decay).mT @ given
            chunk = _Maps(step * gamma * k_, through, to_end * k_, inverse[part], gamma[..., -1:, :])
            d_r, d_after, d_state = walk(
                chunk, given.mT @ (gamma * q_), d_state
            )  # d_r: of V - diag(gamma) K S^T, over b

            d_system = (d_r @ z_.mT).neg_().mul_(decay).tril_(-1)
            d_scores = (given @ z_.mT).mul_(decay)
            d_pairs = d_system * step
            d_written = -(d_r @ starts)  # of diag(b gamma) K
            d_seen = (given @ starts).mul_(gamma)
            d_carried = (z_ @ d_after).mul_(to_end)

            torch.add(d_seen, d_scores @ k_, out=d_q[part])
            pairs_k = (d_scores.mT @ q_).add_((d_pairs + d_pairs.mT) @ k_).add_(d_carried)
            torch.addcmul(pairs_k, step * gamma, d_written, out=d_k[part])
            torch.mul(d_r, step, out=d_v[part])
            written = (d_written * k_).sum(-1).mul_(gamma[..., 0])
            d_beta[part] = (d_r * v[part]).sum(-1).add_(written).add_(d_system.mul_(alike).sum(-1))

            d_decay = d_scores.mul_(scores).add_(d_system.mul_(step))  # times D: the gradient of the exponent
            kept = (d_carried * k_).sum(-1)
            d_exponent = d_decay.sum(-1) - d_decay.sum(-2) + (d_seen * q_).sum(-1) + beta[part] * written - kept
            d_exponent[..., -1] += kept.sum(-1) + gamma[..., -1, 0] * (d_after * starts).sum((-2, -1))
            d_c[part] = d_exponent
        d_log_alpha = d_c.flip(-1).cumsum(-1).flip(-1)
        return d_q, d_k, d_v, d_log_alpha, d_beta, d_state


class _Maps(NamedTuple):
    """What leads from the state before a chunk to the one after it, for some chunks.

    Args:
        seen: (n, N, C, K) diag(b gamma) K.
        given: (n, N, C, V) diag(b) V; on the way back P^T dO.
        carried: (n, N, C, K) Kd.
        inverse: (n, N, C, C) T.
        last: (n, N, 1, 1) gamma_C.
    """

    seen: Tensor
    given: Tensor
    carried: Tensor
    inverse: Tensor
    last: Tensor

    def turns(self) -> Tensor:
        """(N, n, K, K) A."""
        keep = torch.diag_embed(self.last[..., 0].expand(*self.last.shape[:2], self.seen.shape[-1]))
        return (keep - (self.inverse @ self.seen).mT @ self.carried).transpose(0, 1)


def walks(device: torch.device) -> bool:
    """Whether states are walked one by one: where a small product costs no more than its arithmetic."""
    return device.type == "cpu"


def _walk(chunk: _Maps, states: Tensor, z: Tensor) -> None:
    """Fill states (n + 1, N, V, K), whose first is given, and z (n, N, C, V)."""
    for j, (seen, given, carried, inverse, last) in enumerate(zip(*chunk, strict=True)):
        torch.bmm(inverse, torch.baddbmm(given, seen, states[j].mT, alpha=-1), out=z[j])
        torch.baddbmm(last * states[j], z[j].mT, carried, out=states[j + 1])


def _levels(chunk: _Maps, states: Tensor, z: Tensor) -> None:
    shift = ((chunk.inverse @ chunk.given).mT @ chunk.carried).transpose(0, 1)
    states.copy_(scan_affine(states[0], chunk.turns(), shift).transpose(0, 1))
    z.copy_(chunk.inverse @ (chunk.given - chunk.seen @ states[:-1].mT))


def _walk_back(chunk: _Maps, pushed: Tensor, d_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of the state after some chunks to that of the state before them.

    Args:
        chunk: with P^T dO as what is given.
        pushed: (n, N, V, K) what the outputs ask of each chunk's first state.
        d_state: (N, V, K).

    Returns:
        (n, N, C, V) gradients of b (V - diag(gamma) K S^T), (n, N, V, K) of the states after each chunk, (N, V, K).
    """
    d_r, d_after = torch.empty_like(chunk.given), torch.empty_like(pushed)
    for j in reversed(range(len(pushed))):
        seen, through, carried, inverse, last = (x[j] for x in chunk)
        d_after[j] = d_state
        torch.bmm(inverse.mT, torch.baddbmm(through, carried, d_state.mT), out=d_r[j])
        d_state = torch.baddbmm(torch.addcmul(pushed[j], last, d_state), d_r[j].mT, seen, alpha=-1)
    return d_r, d_after, d_state


def _levels_back(chunk: _Maps, pushed: Tensor, d_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shift = pushed - (chunk.inverse.mT @ chunk.given).mT @ chunk.seen
    d_states = scan_affine(d_state, chunk.turns().mT.flip(1), shift.transpose(0, 1).flip(1)).flip(1).transpose(0, 1)
    d_after = d_states[1:]
    return chunk.inverse.mT @ (chunk.given + chunk.carried @ d_after.mT), d_after, d_states[0]


def _blocks(q: Tensor) -> list[slice]:
    """Chunks that are worked on together: so many that a cache holds them, or all."""
    chunks, count, size, _ = q.shape
    step = max(1, BLOCK_BYTES // (count * size * size * q.element_size())) if walks(q.device) else chunks
    return [slice(start, min(chunks, start + step)) for start in range(0, chunks, step)]


def _decays(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D (n, N, C, C), 1 above the diagonal, gamma and exp(c_C - c) (n, N, C, 1) from c (n, N, C)."""
    # Above the diagonal the exponent is positive and would overflow: clamped, since exp(-inf) is eight times slower than
    # exp on a CPU. The difference, not the quotient of the exponentials, which underflows to 0 / 0.
    decay = (c[..., :, None] - c[..., None, :]).clamp_(max=0).exp_()
    return decay, c.exp()[..., None], (c[..., -1:] - c).exp()[..., None]


def unit_lower_inverse(system: Tensor) -> Tensor:
    """(I + strict lower part of (..., C, C))^-1 by substitution; what is on and above the diagonal is not read."""
    identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    return torch.linalg.solve_triangular(system, identity.expand_as(system), upper=False, unitriangular=True)


def scan_affine(start: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """All states of S_{j+1} = S_j A_j + B_j, in levels.

    Maps are composed within groups, all groups at once; the groups' maps are scanned the same way, or one by one if they
    are few; then every state follows from its group's. About 8 log_8 n short steps instead of n.

    Args:
        start: (N, V, K) S_0.
        turn: (N, n, K, K) A.
        shift: (N, n, V, K) B.

    Returns:
        (N, n + 1, V, K): S_0 to S_n.
    """
    count, chunks, key_dim = turn.shape[:3]
    if chunks <= SCAN_GROUP:
        states = [start]
        for j in range(chunks):
            states.append(torch.baddbmm(shift[:, j], states[-1], turn[:, j]))
        return torch.stack(states, dim=1)
    groups = -(-chunks // SCAN_GROUP)
    if missing := groups * SCAN_GROUP - chunks:
        identity = torch.eye(key_dim, dtype=turn.dtype, device=turn.device)
        turn = torch.cat([turn, identity.expand(count, missing, -1, -1)], dim=1)
        shift = torch.cat([shift, shift.new_zeros((count, missing, *shift.shape[2:]))], dim=1)
    turns, shifts = (x.reshape(count * groups, SCAN_GROUP, *x.shape[2:]) for x in (turn, shift))
    # From a group's start to each of its chunks: S A_1 .. A_j + (.. (B_1 A_2 + B_2) .. A_j + B_j)
    composed, summed = [turns[:, 0]], [shifts[:, 0]]
    for j in range(1, SCAN_GROUP):
        composed.append(composed[-1] @ turns[:, j])
        summed.append(torch.baddbmm(shifts[:, j], summed[-1], turns[:, j]))
    whole = [x[-1].reshape(count, groups, *x[-1].shape[1:]) for x in (composed, summed)]
    at_group = scan_affine(start, whole[0], whole[1])[:, :-1].flatten(0, 1)
    after = (at_group[:, None] @ torch.stack(composed, dim=1)).add_(torch.stack(summed, dim=1))
    after = after.reshape(count, groups * SCAN_GROUP, *start.shape[1:])
    return torch.cat([start[:, None], after[:, :chunks]], dim=1)
