"""The arithmetic of one chunk of the gated delta recurrence, for all heads of a direction at once, as Triton functions.

Formulas and names as in `chunked.py`. Everything is in float32. A state walks through a chunk by

    Z = T (b (V - gamma K S^T))     S' = gamma_C S + Z^T Kd     O = gamma Q S^T + (D o Q K^T) Z

and so does the affine map of many chunks: its B is where the zero state arrives, its A where the identity arrives when no
values are written. T is put together from blocks of 2, 4, 8 .. rows,

    (I + [[L1, 0], [M, L2]])^-1 = [[T1, 0], [-T2 M T1, T2]],

which is substitution in matrix products: blocks of T stay as small as T is, where powers of L would reach 1e9.

Shape letters: H = heads, padded to a power of two; C = tokens of a chunk; K, V = key and value size, padded.
"""

import triton
import triton.language as tl

from pipeline.kernel_launch import interpreted

# Products in three parts of tf32 keep 22 bits on tensor cores; one part keeps 11, and a map of a thousand tokens needs more.
PRECISION = tl.constexpr("tf32x3")
INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def product(a, b):
    """(.., M, K) @ (.., K, N) in float32."""
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def weighted(x, weight):
    """(M, K) @ (K, N) in the weight's precision, summed in float32."""
    x = x.to(weight.dtype)
    if INTERPRETED:  # which multiplies the bits of bfloat16 as integers
        return tl.dot(x.to(tl.float32), weight.to(tl.float32))
    return tl.dot(x, weight, input_precision=PRECISION)


@triton.jit
def unit_lower_inverse(system, CHUNK: tl.constexpr):
    """(I + strictly lower (H, C, C))^-1."""
    row = tl.arange(0, CHUNK)[None, :, None]
    column = tl.arange(0, CHUNK)[None, None, :]
    pairs = tl.where((row // 2 == column // 2) & (row > column), system, 0.0)
    inverse = tl.where(row == column, 1.0, 0.0) - pairs
    for level in tl.static_range(1, 8):
        if 2**level < CHUNK:
            together = row // (2 * 2**level) == column // (2 * 2**level)
            below = together & (row // 2**level > column // 2**level)
            inverse -= product(inverse, product(tl.where(below, system, 0.0), inverse))
    return inverse


@triton.jit
def chunk_of(k, log_alpha, beta, CHUNK: tl.constexpr):
    """What a chunk's states and outputs share.

    Args: k (H, C, K), log_alpha and beta (H, C).

    Returns: lower D (H, C, C), gamma (H, C, 1), T (H, C, C), Kd (H, C, K), gamma_C (H, 1, 1).
    """
    c = tl.cumsum(log_alpha, 1)
    row = tl.arange(0, CHUNK)[None, :, None]
    column = tl.arange(0, CHUNK)[None, None, :]
    # Masked before the exponential, which would overflow above the diagonal.
    decay = tl.where(row >= column, tl.exp(tl.minimum(c[:, :, None] - c[:, None, :], 0.0)), 0.0)
    alike = product(k, tl.permute(k, (0, 2, 1)))
    system = tl.where(row > column, decay * alike * beta[:, :, None], 0.0)
    inverse = unit_lower_inverse(system, CHUNK)
    last = tl.sum(log_alpha, 1)
    carried = tl.exp(last[:, None] - c)[:, :, None] * k
    return decay, tl.exp(c)[:, :, None], inverse, carried, tl.exp(last)[:, None, None]


@triton.jit
def advance(state, k, v, beta, gamma, inverse, carried, last):
    """A state (H, V, K) through a chunk: Z (H, C, V) and the state after it."""
    wanted = (v - gamma * product(k, tl.permute(state, (0, 2, 1)))) * beta[:, :, None]
    z = product(inverse, wanted)
    return z, last * state + product(tl.permute(z, (0, 2, 1)), carried)


@triton.jit
def outputs(q, k, z, state, decay, gamma):
    """(H, C, V) outputs of a chunk that starts from a state."""
    scores = product(q, tl.permute(k, (0, 2, 1))) * decay
    return gamma * product(q, tl.permute(state, (0, 2, 1))) + product(scores, z)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0 to the last bits: gates near 1 forget so little that 1 + x would round it away."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def log_add_exp(a, b):
    return tl.maximum(a, b) + log1p(tl.exp(-tl.abs(a - b)))


@triton.jit
def identity(HEADS: tl.constexpr, SIZE: tl.constexpr):
    """(H, K, K)."""
    row = tl.arange(0, SIZE)[None, :, None]
    column = tl.arange(0, SIZE)[None, None, :]
    return tl.where(row == column, 1.0, 0.0) + tl.zeros((HEADS, SIZE, SIZE), tl.float32)
