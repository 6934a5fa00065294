"""The backend "triton": whether it may be used, and a block and an exchange of streams through its kernels.

Special: as with fla-core, nobody's word is taken for it. On a GPU the kernels must first reproduce the token loop and the plain
block, in float32 and in bfloat16. On a CPU they run in Triton's interpreter alone, which is for tests and for counting.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.recurrent.config import RecurrenceError, StreamConfig
from pipeline.kernel_launch import why_not_here

if TYPE_CHECKING:
    from model.recurrent.blocks import Block

# Relative to the norm of the result: bfloat16 rounds the block's input and output to 2e-3, a wrong order or gate is off by
# tenths; float32 in three parts of tf32 is good to about 1e-5.
CHECK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
WIDEST = (4, 128)  # heads and channels of a block in fused kernels


def why_not_triton(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a device, or None if they can. The check runs once per process."""
    return why_not_here(device) or (_why_not_cuda(device) if device.type == "cuda" else None)


@cache
def _why_not_cuda(device: torch.device) -> str | None:
    from model.recurrent.triton_check import errors

    try:
        found = errors(device)
    except Exception as failure:  # a broken compiler can raise nearly anything, and then the torch form must serve
        return f"its self-check failed: {type(failure).__name__}: {failure}"
    for what, dtype, error in found:
        if not error < CHECK_TOLERANCE[dtype]:  # not max(), which passes over a NaN
            return f"its self-check found an error of {error:.3g} in {what}, allowed is {CHECK_TOLERANCE[dtype]}"
    return None


def fused(config: StreamConfig, x: Tensor) -> bool:
    """Whether a block's inference on x (B, h, w, C) goes through the kernels.

    Raises:
        RecurrenceError: the backend is asked for and cannot run here; the message says why.
    """
    if config.backend not in ("auto", "triton") or torch.is_grad_enabled():
        return False
    if config.heads > WIDEST[0] or config.channels > WIDEST[1]:
        return False  # its matrices do not fit a program's registers; the recurrence alone takes heads four by four
    if x.dtype == torch.float64 or torch.is_autocast_enabled(x.device.type):
        return False  # the plain block, whose recurrence decides for itself
    if config.backend == "auto" and x.device.type != "cuda":
        return False
    reason = why_not_triton(x.device)
    if reason and config.backend == "triton":
        raise RecurrenceError(f"backend 'triton' cannot run: {reason}; use backend='torch' or 'auto'")
    return reason is None


def fused_block(
    block: "Block",
    x: Tensor,
    previous: tuple[Tensor, Tensor] | None,
    aperture: Tensor | None,
    mean_blur: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`blocks.Block.forward` in six kernels, and one more for the lens."""
    from model.recurrent import triton_block, triton_mix
    from model.recurrent.triton_scan import walk
    from model.recurrent.triton_start import begin

    scans = block.scans
    x = x.contiguous()
    norm = (block.scan_norm.weight, block.scan_norm.bias)
    floor = None
    if scans.decay.floor is not None:
        floor = scans.decay.floor.reshape(1)
        if mean_blur is not None:
            floor = _floor(scans.decay.floor, mean_blur.float(), scans.decay.weight)
    weights = triton_block.Scans(
        norm, scans.project, scans.gate_bias, scans.out_gate, scans.out_gate_bias, scans.out, scans.norm_weight,
        scans.norm_bias, floor, scans.config.heads, scans.used,
    )  # fmt: skip
    cut = triton_block.cut_of(x)
    turns, shifts, sums = triton_block.maps(x, weights, cut)
    begun, pooled = begin(block.start, sums, x.shape[1] * x.shape[2], previous, x)
    starts, final = walk(turns, shifts, begun[:, : scans.used].flatten(1, 2).contiguous())
    planes = triton_block.planes(x, weights, cut, starts)
    x = triton_mix.merge(x, planes, norm, scans.direction_gate, scans.norm)
    film = None if block.film is None or aperture is None else block.film.modulate(aperture)  # type: ignore[operator]
    first, second = block.feed[0], block.feed[3]
    x = triton_mix.local_and_feed(x, block.local, block.feed_norm, first, second, film)  # type: ignore[arg-type]
    states = torch.unflatten(final, 1, (scans.used, -1))
    if scans.used < begun.shape[1]:
        states = torch.cat([states, begun[:, scans.used :]], dim=1)
    return x, states, pooled


def _floor(floor: Tensor, mean_blur: Tensor, weight: float | Tensor) -> Tensor:
    """(B,) logits of the least decay, see `scans.DecayGate`."""
    return floor + weight * mean_blur if isinstance(weight, Tensor) else torch.add(floor, mean_blur, alpha=weight)


def fused_exchange(depth: Tensor, bokeh: Tensor, gates: nn.ModuleList, values: nn.ModuleList) -> tuple[Tensor, Tensor]:
    """`bokehflow.blocks.CrossStreamFusion.forward` in one kernel."""
    from model.recurrent.triton_mix import exchange

    return exchange(depth.contiguous(), bokeh.contiguous(), gates, values)


def fused_rule(tokens: Any, state: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The recurrence alone, see `triton_scan.triton_gated_delta_rule`."""
    from model.recurrent.triton_scan import triton_gated_delta_rule

    return triton_gated_delta_rule(tokens, state, chunk_size)
