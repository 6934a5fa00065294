"""The Triton kernels against the token loop and the plain block in float64: what they must pass before first use on a GPU.

Tests run the same comparisons in Triton's interpreter. Errors are norms of differences over norms of results.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.recurrent.chunked import Tokens
from model.recurrent.config import Backend

HEADS = (
    (4, 24),
    (3, 32),
)  # both ways that 96 channels are divided into heads; kernels pad the first to 32, the second to 4


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """A stream's settings, as small as they show every path; fields as in `config.StreamConfig`."""

    channels: int = 48
    heads: int = 2
    head_dim: int = 24
    stem_channels: int = 8
    ffn_mult: int = 2
    dropout: float = 0.0
    enable_dahg: bool = True
    dahg_lambda: float = 0.1
    enable_tsp: bool = True
    memory_tokens: int = 100
    max_state_norm: float = 3.0
    chunk_size: int = 16
    backend: Backend = "triton"


def errors(device: torch.device) -> Iterator[tuple[str, torch.dtype, float]]:
    """What was compared, in which precision, and its error."""
    with torch.inference_mode(False):
        for size in (24, 32):
            yield "the recurrence", torch.float32, max(scan_errors(device, size=size, alike=0.05))
        for heads, size in HEADS:
            config = CheckConfig(channels=96, heads=heads, head_dim=size)
            for dtype in (torch.float32, torch.bfloat16) if size % 16 else (torch.bfloat16,):
                yield (
                    f"a block of {heads} x {size}",
                    dtype,
                    max(block_errors(config, device, dtype, height=9, width=31)),
                )


def scan_errors(
    device: torch.device, *, size: int, length: int = 150, heads: int = 2, alike: float = 1.0,
    from_zero: bool = False, gradients: bool = False,
) -> list[float]:  # fmt: skip
    """Of outputs, final state and, if asked for, all six gradients; `alike` is how far keys are from one direction."""
    from model.recurrent.recurrence import gated_delta_rule_reference, unit_keys
    from model.recurrent.triton_scan import triton_gated_delta_rule

    draw = torch.Generator().manual_seed(0)
    shape = (2, length, heads, size)
    q, k, v = (torch.randn(shape, generator=draw) for _ in range(3))
    k = unit_keys(torch.randn(2, 1, heads, size, generator=draw) + alike * k)
    beta = 0.999 - (0.01 if alike < 0.5 else 0.998) * torch.rand(shape[:3], generator=draw)
    state = torch.randn(2, heads, size, size, generator=draw) * (not from_zero)
    inputs = [q, k, v, -0.1 * torch.rand(shape[:3], generator=draw), beta, state]

    def results(dtype: torch.dtype, fast: bool) -> list[Tensor]:
        leaves = [x.to(device, dtype).requires_grad_(gradients) for x in inputs]
        with torch.set_grad_enabled(gradients):
            tokens = Tokens(*leaves[:5])
            found = triton_gated_delta_rule(tokens, leaves[5], 16) if fast else gated_delta_rule_reference(*leaves)
            if not gradients:
                return list(found)
            loss = (found[0].sin() * 3).sum() + (found[1] * found[1].cos()).sum()
            return [*found, *torch.autograd.grad(loss, leaves)]

    return [relative(*pair) for pair in zip(results(torch.float32, True), results(torch.float64, False), strict=True)]


def block_errors(
    config: CheckConfig, device: torch.device, dtype: torch.dtype, *, height: int, width: int, used: int = 4,
    first: bool = False, blur: bool = True,
) -> list[float]:  # fmt: skip
    """Of a block's tokens, states and pooled input, against the plain block on the same rounded weights and inputs."""
    from model.recurrent.blocks import Block
    from model.recurrent.triton_backend import fused_block

    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        block = Block(config, 0.5).eval().requires_grad_(False)
    for parameter in block.parameters():  # nothing may stay at 0 or 1
        parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.05)
    block = block.to(device, dtype)
    block.scans.used = used
    exact = copy.deepcopy(block).double()
    exact.config = exact.scans.config = replace(config, backend="reference")
    heads, size = config.heads, config.head_dim
    x, pooled = (
        torch.randn(2, height, width, config.channels, generator=draw),
        torch.randn(2, config.channels, generator=draw),
    )
    states, mean_blur = torch.randn(2, 4, heads, size, size, generator=draw), torch.rand(2, generator=draw) * 3

    def results(net: Block, wide: torch.dtype) -> tuple[Tensor, ...]:
        given, before = (one.to(device, dtype).to(wide) for one in (x, pooled))
        previous = (
            None if first else (states.to(device, torch.float64 if wide == torch.float64 else torch.float32), before)
        )
        blurred = mean_blur.to(device) if blur else None
        with torch.no_grad():
            if net.config.backend == "triton":  # not through `forward`, which asks whether this check was passed
                return fused_block(net, given, previous, None, blurred)
            return net(given, previous, None, blurred)

    return [relative(*pair) for pair in zip(results(block, dtype), results(exact, torch.float64), strict=True)]


def relative(found: Tensor, truth: Tensor) -> float:
    """|found - truth| / |truth|."""
    return float((found.detach().double() - truth.detach()).norm() / truth.detach().norm().clamp(min=1e-12))
