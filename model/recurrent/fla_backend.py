"""The recurrence through the CUDA kernels of fla-core (flash-linear-attention), where they are installed and correct.

Special: nobody's word is taken for it. Before first use the kernels must reproduce the token loop, forward and backward,
on sequences whose keys are alike. They compute in half precision, keep states as (Dk, Dv), and call log_alpha g.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# bfloat16 products of unit keys over the check's 200 tokens: some 1e-2 of the largest value is rounding, a wrong
# convention (state transposed, q scaled, decay applied after the write) is off by tenths
CHECK_TOLERANCE = 0.05
CHECK_HEAD_DIMS = (24, 32)  # of the named sizes; kernels pad the first to 32


def fla_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `recurrence.gated_delta_rule`; call `why_not_fla` first."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    half = v.dtype if v.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    out, state = chunk_gated_delta_rule(
        q.to(half).contiguous(),
        k.to(half).contiguous(),
        v.to(half).contiguous(),
        g=log_alpha.float().contiguous(),
        beta=beta.float().contiguous(),
        scale=1.0,
        initial_state=None if initial_state is None else initial_state.float().transpose(-1, -2).contiguous(),
        output_final_state=True,
    )
    return out.to(v.dtype), state.float().transpose(-1, -2)


@cache
def why_not_fla(device_type: str) -> str | None:
    """Why the kernels cannot be used, or None if they can. The check runs once per process."""
    if device_type != "cuda":
        return f"it needs tensors on a CUDA device, got {device_type}"
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    if importlib.util.find_spec("fla") is None:
        return "fla-core is not installed (pip install fla-core)"
    try:
        errors = [error for size in CHECK_HEAD_DIMS for error in _errors(size)]
    except Exception as failure:  # a broken Triton can raise nearly anything, and then the torch form must serve
        return f"its self-check failed: {type(failure).__name__}: {failure}"
    # Not max(errors), which passes over a NaN that does not come first.
    if bad := [error for error in errors if not error < CHECK_TOLERANCE]:
        return f"its self-check found an error of {bad[0]:.3g}, allowed is {CHECK_TOLERANCE}"
    return None


def _errors(size: int) -> list[float]:
    """Errors against the token loop for heads of `size`: outputs, state and gradients, each relative to its largest value."""
    from model.recurrent.recurrence import gated_delta_rule_reference, unit_keys

    with torch.enable_grad(), torch.inference_mode(False):
        draw = torch.Generator("cpu").manual_seed(0)
        shape = (2, 200, 2, size)
        q, k, v = (torch.randn(shape, generator=draw) for _ in range(3))
        k = unit_keys(k + 2.0)
        log_alpha, beta = -0.1 * torch.rand(shape[:3], generator=draw), torch.rand(shape[:3], generator=draw)
        state = 0.1 * torch.randn(2, 2, size, size, generator=draw)
        weight = torch.randn(shape, generator=draw)
        inputs = [q.bfloat16(), k.bfloat16(), v.bfloat16(), log_alpha, beta, state]

        def results(function: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype | None) -> list[Tensor]:
            leaves = [x.to("cuda", dtype).requires_grad_() for x in inputs]
            out, final = function(*leaves)
            loss = (out.double() * weight.cuda()).sum() + final.double().sum()
            return [x.double() for x in (out, final, *torch.autograd.grad(loss, leaves))]

        found, truth = results(fla_gated_delta_rule, None), results(gated_delta_rule_reference, torch.float64)
        return [
            float((one - two).detach().abs().max() / two.detach().abs().max())
            for one, two in zip(found, truth, strict=True)
        ]
