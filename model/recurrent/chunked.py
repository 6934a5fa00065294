"""The gated delta recurrence in chunks: matrix products over all chunks at once instead of a loop over tokens.

Special: nothing before the scan of the states depends on a state, so every chunk of every sequence and head is one entry
of a few batched products; each chunk then is an affine map S -> S A + B, and maps are scanned level by level in small
groups. The inverse that a chunk needs comes from substitution, never from powers: for alike keys and beta near 1, which every
sky and wall is, powers cancel from 1e9 and float32 keeps nothing. The backward pass is written out, which halves what has to
be kept for it; tests hold it against the token loop in float64.

For one chunk of C rows, with c the inclusive cumulative sum of log a, gamma = exp c and S the state it starts from:

    D_ij = exp(c_i - c_j), i >= j       P = D o Q K^T                       Kd = diag(exp(c_C - c)) K
    T = (I + L)^-1                      L = strict_lower(diag(b) (D o K K^T))
    U = T diag(b) V                     W = T diag(b gamma) K               Z = U - W S^T
    O = diag(gamma) Q S^T + P Z         S' = S A + B                        A = gamma_C I - W^T Kd,  B = U^T Kd

Shape letters: N = sequences times heads; n = chunks; C = tokens of a chunk; K = key size; V = value size.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Without gradients a long sequence is walked in parts of this many tokens (over all sequences and heads), which bounds the
# memory of the temporaries: about 1 KB each for head size 24.
TOKENS_AT_ONCE = 1 << 18
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
    out = out.reshape(batch, heads, -1, value_dim)[:, :, :length].transpose(1, 2)
    return out, final.reshape(state.shape)


def _to_chunks(x: Tensor, size: int) -> Tensor:
    """(B, L, H, ...) -> (B*H, n, size, ...); zeros fill the last chunk, and a zero token leaves the state as it is."""
    batch, length, heads = x.shape[:3]
    x = x.transpose(1, 2)
    missing = -length % size
    if missing:
        x = torch.cat([x, x.new_zeros((batch, heads, missing, *x.shape[3:]))], dim=2)
    return x.reshape(batch * heads, -1, size, *x.shape[3:])


def _run_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """q, k (N, n, C, K), v (N, n, C, V), log_alpha, beta (N, n, C), state (N, V, K) -> out like v, final state."""
    out, final = _Chunks.apply(q, k, v, log_alpha, beta, state)  # type: ignore[no-untyped-call]
    return out, final


class _Chunks(torch.autograd.Function):
    """The formulas above, and their gradients."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        c = log_alpha.cumsum(-1)
        decay, gamma, to_end = _decays(c)
        step, kt = beta[..., None], k.mT
        inverse = unit_lower_inverse(k @ kt * decay * step)
        w, u = inverse @ (step * gamma * k), inverse @ (step * v)
        carried = to_end * k
        keep = torch.diag_embed(gamma[..., -1:, 0].expand(*c.shape[:-1], k.shape[-1]))
        turn = keep - w.mT @ carried
        states = scan_affine(state, turn, u.mT @ carried)
        starts = states[:, :-1]
        z = u - w @ starts.mT
        out = (gamma * q) @ starts.mT + (q @ kt * decay) @ z
        ctx.save_for_backward(q, k, v, c, beta, inverse, w, z, turn, states)
        return out, states[:, -1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Tensor, ...]:
        q, k, v, c, beta, inverse, w, z, turn, states = ctx.saved_tensors
        decay, gamma, to_end = _decays(c)
        step, kt, starts = beta[..., None], k.mT, states[:, :-1]
        d_out = d_out.contiguous()  # an expanded one, from a sum, would go through bmm matrix by matrix
        p, system = q @ kt * decay, (k @ kt * decay).tril(-1)  # the latter still without beta

        # Gradients of the states run backwards through the same kind of scan: G_j = G_{j+1} A^T + dO^T (diag(gamma) Q - P W).
        through = p.mT @ d_out
        pushed = d_out.mT @ (gamma * q) - through.mT @ w
        d_states = scan_affine(d_final, turn.mT.flip(1), pushed.flip(1)).flip(1)
        d_after = d_states[:, 1:]

        d_z = inverse.mT @ (through + (to_end * k) @ d_after.mT)  # of T^-1 Z: b (V - gamma K S^T)
        d_system = -(d_z @ z.mT).tril(-1)
        d_scores = (d_out @ z.mT) * decay
        d_written = -(d_z @ starts)  # of diag(b gamma) K
        d_seen = d_out @ starts  # of diag(gamma) Q
        d_carried = z @ d_after  # of Kd
        d_pairs = d_system * decay * step

        d_q = gamma * d_seen + d_scores @ k
        d_k = d_scores.mT @ q + (d_pairs + d_pairs.mT) @ k + step * gamma * d_written + to_end * d_carried
        d_v = step * d_z
        written = (d_written * k).sum(-1) * gamma[..., 0]
        d_beta = (d_z * v).sum(-1) + written + (d_system * system).sum(-1)

        d_decay = d_scores * (q @ kt) + d_pairs * (k @ kt)  # times D: the gradient of the exponent
        kept = (d_carried * k).sum(-1) * to_end[..., 0]
        d_c = d_decay.sum(-1) - d_decay.sum(-2) + gamma[..., 0] * (d_seen * q).sum(-1) + beta * written - kept
        d_c[..., -1] += kept.sum(-1) + gamma[..., -1, 0] * (d_after * starts).sum((-2, -1))
        d_log_alpha = d_c.flip(-1).cumsum(-1).flip(-1)
        return d_q, d_k, d_v, d_log_alpha, d_beta, d_states[:, 0]


def _decays(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D (N, n, C, C), gamma and exp(c_C - c) (N, n, C, 1) from c (N, n, C)."""
    above = torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool, device=c.device).triu(1)
    # Masked before the exponential: above the diagonal the exponent is positive and overflows. The difference, not the
    # quotient of the exponentials, which underflows to 0 / 0.
    decay = (c[..., :, None] - c[..., None, :]).masked_fill_(above, -math.inf).exp_()
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
