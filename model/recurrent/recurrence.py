"""The gated delta recurrence, the core of BokehFlow: one public function, several ways to compute it.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T        o_t = S_t q_t

S is a small matrix per head that maps keys to values; every token forgets a little (a), and writes its value at its key in
the place of what stood there (b). Time is linear in the number of tokens and the state constant. Not attention: q is not
scaled by 1/sqrt(d) and nothing is normalised over tokens.

Shape letters: B = sequences; L = tokens; H = heads; Dk, Dv = key and value size.
"""

import logging
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from model.recurrent.chunked import Tokens, chunked_gated_delta_rule
from model.recurrent.config import Backend, RecurrenceError
from model.recurrent.fla_backend import fla_gated_delta_rule, why_not_fla
from model.recurrent.triton_backend import fused_rule, why_not_triton

logger = logging.getLogger(__name__)

KEY_EPS = 1e-6
HALF = (torch.float16, torch.bfloat16)


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    *,
    chunk_size: int = 32,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over whole sequences. Autocast is off inside; half precision is computed in float32.

    Args:
        q, k: (B, L, H, Dk); keys of at most unit length (`unit_keys`), or states may grow without bound.
        v: (B, L, H, Dv).
        log_alpha: (B, L, H) log of the decay, <= 0.
        beta: (B, L, H) step, in (0, 1).
        initial_state: (B, H, Dv, Dk), zeros if None.
        chunk_size: tokens per chunk, a power of two; speed and memory, not results.
        backend: "torch" is the chunk form; "triton" this project's kernels on CUDA; "fla" the kernels of fla-core there, which
            compute in half precision; "reference" the loop over tokens. "auto" is "triton" where it runs and no gradient is
            needed, else "fla" where that runs and v is in half precision, else "torch".

    Returns:
        out (B, L, H, Dv) in the dtype of v, and the final state (B, H, Dv, Dk) in float32, or float64 if q, k, v or beta is.

    Raises:
        RecurrenceError: a shape does not fit, or the backend cannot run here; the message says why.

    Example:
        >>> q, k, v = torch.rand(3, 1, 100, 2, 8).unbind()
        >>> out, state = gated_delta_rule(q, unit_keys(k), v, torch.full((1, 100, 2), -0.1), torch.rand(1, 100, 2))
        >>> out.shape, state.shape
        (torch.Size([1, 100, 2, 8]), torch.Size([1, 2, 8, 8]))
    """
    _validate(q, k, v, log_alpha, beta, initial_state, chunk_size, backend)
    if backend == "auto":
        wide = torch.float64 in (q.dtype, k.dtype, v.dtype, beta.dtype)
        asks = v.device.type == "cuda"  # nothing else depends on precision and use, so that it is said once there
        backend = _choose(v.device, asks and v.dtype in HALF, asks and (torch.is_grad_enabled() or wide))
    elif backend == "fla" and (reason := why_not_fla(v.device.type)):
        raise RecurrenceError(f"backend 'fla' cannot run: {reason}; use backend='torch' or 'auto'")
    elif backend == "triton" and (reason := why_not_triton(v.device)):
        raise RecurrenceError(f"backend 'triton' cannot run: {reason}; use backend='torch' or 'auto'")
    with no_autocast(v.device):
        if backend == "fla":
            return fla_gated_delta_rule(q, k, v, log_alpha, beta, initial_state)
        dtype = torch.float64 if torch.float64 in (q.dtype, k.dtype, v.dtype, beta.dtype) else torch.float32
        state = q.new_zeros(_state_shape(k, v)) if initial_state is None else initial_state
        tokens, state = Tokens(*(x.to(dtype) for x in (q, k, v, log_alpha, beta))), state.to(dtype)
        if backend == "reference":
            out, state = gated_delta_rule_reference(*tokens, state)
        elif backend == "triton" and dtype == torch.float32:
            out, state = fused_rule(tokens, state, chunk_size)
        else:
            out, state = chunked_gated_delta_rule(tokens, state, chunk_size)
        return out.to(v.dtype), state


def gated_delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above, token by token, in the dtype of its inputs. For tests: slow, and it can be read.

    Args and Returns:
        As `gated_delta_rule`.
    """
    state = q.new_zeros(_state_shape(k, v)) if initial_state is None else initial_state
    outs = []
    alpha = log_alpha.exp()
    # unbind, since the backward pass of x[:, t] writes a gradient as long as the sequence for every token
    columns = (x[..., None].unbind(1) for x in (q, k, v, alpha[..., None], beta[..., None]))
    for q_t, k_t, v_t, a_t, b_t in zip(*columns, strict=True):
        decayed = a_t * state
        state = decayed + b_t * (v_t - decayed @ k_t) @ k_t.transpose(-1, -2)
        outs.append((state @ q_t)[..., 0])
    return torch.stack(outs, dim=1), state


def unit_keys(k: Tensor) -> Tensor:
    """Keys divided by their length, in float32 or wider; a zero key stays zero, with moderate gradients.

    k * rsqrt(sum k^2 + eps), which has slope 1/sqrt(eps) at 0, where k / max(|k|, tiny) has 1/tiny.

    Args:
        k: (..., Dk), any floating point dtype.
    """
    wide = k.float() if k.dtype in HALF else k
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + KEY_EPS)


def no_autocast(device: torch.device) -> torch.autocast:
    """Autocast off on the device, also where there is none (meta tensors)."""
    return torch.autocast(device.type if torch.amp.is_autocast_available(device.type) else "cpu", enabled=False)


@cache
def _choose(device: torch.device, half: bool, exact: bool) -> Backend:
    """What "auto" means here, said once per kind of device, precision and use; `exact`: with gradients or in float64."""
    backend: Backend = "torch"
    if device.type != "cuda":
        reason = f"the device is {device.type}"
    elif not exact and not (why_not := why_not_triton(device)):
        reason, backend = "the kernels passed their check", "triton"
    else:
        # The triton backend's backward pass is the torch form's, which would come after a second forward pass.
        reason = "gradients or float64" if exact else f"no triton: {why_not}"
        if not half:
            reason += "; fla-core computes in half precision only and the values are in float32"
        elif no_fla := why_not_fla(device.type):
            reason += f"; no fla: {no_fla}"
        else:
            reason, backend = f"{reason}; fla-core passed its check", "fla"
    logger.info("gated delta recurrence: backend %s (%s)", backend, reason)
    return backend


def _state_shape(k: Tensor, v: Tensor) -> tuple[int, int, int, int]:
    return k.shape[0], k.shape[2], v.shape[3], k.shape[3]


def _validate(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, state: Tensor | None, chunk: int, backend: str
) -> None:
    if backend not in get_args(Backend):
        raise RecurrenceError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if chunk < 1 or chunk & (chunk - 1):
        raise RecurrenceError(f"chunk_size must be a power of two, got {chunk}")
    if q.dim() != 4 or 0 in q.shape:
        raise RecurrenceError(f"q must be (B, L, H, Dk) with at least one token, got {tuple(q.shape)}")
    wanted = {
        "k": (k, tuple(q.shape)),
        "v": (v, (*q.shape[:3], v.shape[-1] if v.dim() == 4 else "Dv")),
        "log_alpha": (log_alpha, tuple(q.shape[:3])),
        "beta": (beta, tuple(q.shape[:3])),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise RecurrenceError(f"{name} must be {shape} to match q {tuple(q.shape)}, got {tuple(tensor.shape)}")
    if state is not None and tuple(state.shape) != _state_shape(k, v):
        raise RecurrenceError(f"initial_state must be (B, H, Dv, Dk) = {_state_shape(k, v)}, got {tuple(state.shape)}")
