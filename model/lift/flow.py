"""Flow from the target to its two neighbours, and how far each of them shows what the target does, at 1/8 and then 1/4.

A state is 6 channels: flow to the frame before (x, y), to the one after (x, y), two visibility logits.
"""

import torch
from torch import Tensor, nn

from model.lift.blocks import ResBlock, conv, cost_volume, enlarge, enlarge_flow, leaky, shrink, zeroed
from model.lift.config import LiftConfig
from pipeline.media.warping import backward_warp

STATE = 6


class FlowScale(nn.Module):
    """One scale: what is there -> a change of the state."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, width), leaky(), *(ResBlock(width) for _ in range(blocks)))
        self.head = zeroed(conv(width, STATE))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class FlowNet(nn.Module):
    """Both scales. Sigmoid is taken by whoever uses the logits."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        self.config = config
        context = config.c16 if config.use_context else 0
        pictures = 6 if config.warp_features else 0
        start = STATE if config.prior != "none" else 0
        more = context + pictures + ((2 * config.cost_radius + 1) ** 2 if config.cost_radius else 0) + 1
        self.scale8 = FlowScale(2 * config.c8 + start + more, config.flow8, config.flow8_blocks)
        self.scale4 = FlowScale(2 * config.c4 + STATE + more, config.flow4, config.flow4_blocks)

    def forward(
        self,
        pictures: tuple[Tensor, Tensor],
        s8: tuple[Tensor, Tensor],
        s4: tuple[Tensor, Tensor],
        context: Tensor | None,
        t: Tensor,
        prior: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Estimate at both scales.

        Args:
            pictures: (B, 3, H, W) the neighbours.
            s8, s4: their taps.
            context: F_ctx (B, C, H/16, W/16), or None.
            t: (B,).
            prior: (B, 4, H, W) flows to start from, or None.

        Returns:
            The states at 1/8 and 1/4 of the size, float32.
        """
        b, _, height, width = s8[0].shape
        state = s8[0].new_zeros((b, STATE, height, width), dtype=torch.float32)
        if prior is not None:
            state = torch.cat([shrink(prior, 8) / 8, state[:, 4:]], 1)
        extra = [state] if prior is not None else []
        at8 = state + self.scale8(self._inputs(pictures, s8, context, t, state, 8, extra)).float()
        state = torch.cat([self.enlarged(at8[:, :4], 8, 4, prior), enlarge(at8[:, 4:], 2)], 1)
        at4 = state + self.scale4(self._inputs(pictures, s4, context, t, state, 4, [state])).float()
        return at8, at4

    def enlarged(self, flows: Tensor, stride: int, to: int, prior: Tensor | None) -> Tensor:
        """Flows (B, 4, h, w) of a grid on a finer one, with the detail that the prior (B, 4, H, W) has there."""
        if prior is None or not self.config.prior_detail:
            return enlarge_flow(flows, stride // to)
        return shrink(prior, to) / to + enlarge_flow(flows - shrink(prior, stride) / stride, stride // to)

    def _inputs(
        self,
        pictures: tuple[Tensor, Tensor],
        taps: tuple[Tensor, Tensor],
        context: Tensor | None,
        t: Tensor,
        state: Tensor,
        stride: int,
        extra: list[Tensor],
    ) -> Tensor:
        flows = (state[:, :2], state[:, 2:4])
        parts = list(taps)
        if self.config.warp_features:
            small = [shrink(picture, stride) for picture in pictures]
            parts = [backward_warp(tap, flow) for tap, flow in zip(taps, flows, strict=True)]
            parts += [backward_warp(picture, flow) for picture, flow in zip(small, flows, strict=True)]
        if self.config.cost_radius:
            parts.append(cost_volume(parts[0], parts[1], self.config.cost_radius))
        if context is not None:
            parts.append(enlarge(context, 16 // stride))
        return torch.cat([*parts, *extra, t.view(-1, 1, 1, 1).expand(-1, 1, *state.shape[-2:]).to(state.dtype)], 1)
