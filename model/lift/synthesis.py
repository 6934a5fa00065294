"""The picture: a blend of the warped neighbours at 1/4 size that the context corrects, then detail at full size."""

import torch
from torch import Tensor, nn

from model.lift.blocks import ResBlock, conv, enlarge, shrink, zeroed
from model.lift.config import NORM_GROUPS, LiftConfig
from pipeline.media.warping import Kernel, backward_warp

_NEITHER = 1e-3  # visibilities that sum to less say that no neighbour shows the place: the mean of both


def blend(first: Tensor, second: Tensor, visible: Tensor) -> Tensor:
    """(B, 3, H, W) twice, weighed with their visibilities (B, 2, H, W); their mean where both are near zero."""
    one, other = visible[:, :1], visible[:, 1:]
    total = one + other
    mixed = (first * one + second * other) / (total + 1e-8)
    return torch.where(total < _NEITHER, (first + second) / 2, mixed)


class CoarseSynthesis(nn.Module):
    """Warps at 1/4 size, their blend, and ContextNet's correction of it."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        context = config.c16 if config.use_context else 0
        self.correct = nn.Sequential(
            conv(3 + context, config.synthesis), nn.ReLU(inplace=True), zeroed(conv(config.synthesis, 3))
        )

    def forward(
        self, pictures: tuple[Tensor, Tensor], flows: Tensor, visible: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Returns coarse and blend (B, 3, H/4, W/4), and the two warped neighbours that the blend is made of."""
        small = [shrink(picture, 4) for picture in pictures]
        first, second = backward_warp(small[0], flows[:, :2]), backward_warp(small[1], flows[:, 2:])
        mixed = blend(first, second, visible)
        parts = [mixed] if context is None else [mixed, enlarge(context, 4)]
        return mixed + self.correct(torch.cat(parts, 1)).float(), mixed, (first, second)


class Refinement(nn.Module):
    """Full size: a residual on the enlarged coarse picture, from what the encoder saw at full size."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        self.config = config
        if not config.use_s1:
            self.from_s4 = nn.Conv2d(config.c4, config.c1, 1)
        inputs = 3 + 2 * config.c1 + (6 + 2 if config.warp_s1 else 0)
        width, tail = config.refine, config.refine_tail
        self.body = nn.Sequential(
            conv(inputs, width),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.ReLU(inplace=True),
            *(ResBlock(width) for _ in range(config.refine_blocks)),
            conv(width, tail),
            nn.GroupNorm(4, tail),
            nn.ReLU(inplace=True),
            zeroed(conv(tail, 3)),
        )

    def detail(self, s1: Tensor | None, s4: Tensor) -> Tensor:
        """Full-size features of a neighbour: its tap s1, or the enlarged s4 where that is left out."""
        if self.config.use_s1:
            assert s1 is not None, "the encoder keeps s1 of both neighbours"
            return s1
        enlarged: Tensor = enlarge(self.from_s4(s4), 4)
        return enlarged

    def forward(
        self,
        pictures: tuple[Tensor, Tensor],
        details: tuple[Tensor, Tensor],
        flows: Tensor,
        visible_s4: Tensor,
        coarse: Tensor,
        blend_s4: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """The picture (B, 3, H, W), not clamped, and the warped neighbours if there are any; `flows` are of the full size."""
        base, frames = enlarge(coarse, 4), []
        parts = [base, *details]
        if self.config.warp_s1:
            visible, pair = enlarge(visible_s4, 4), (flows[:, :2], flows[:, 2:])
            kernel: Kernel = "bicubic" if self.config.bicubic else "bilinear"
            frames = [backward_warp(picture, flow, kernel) for picture, flow in zip(pictures, pair, strict=True)]
            warped = [backward_warp(detail, flow) for detail, flow in zip(details, pair, strict=True)]
            parts = [base, *warped, *frames, visible]
            if self.config.refine_on == "blend":
                base = blend(frames[0], frames[1], visible) + enlarge(coarse - blend_s4, 4)
        return base + self.body(torch.cat(parts, 1)).float(), frames


class ClassicalMix(nn.Module):
    """The network's picture and the classical one, mixed pixel by pixel, and a residual; a fresh one takes their mean."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        self.sees_warped = config.mix_warped
        self.body = nn.Sequential(
            conv(3 + 3 + 3 + 2 + (6 if config.mix_warped else 0), config.mix),
            nn.ReLU(inplace=True),
            conv(config.mix, config.mix),
            nn.ReLU(inplace=True),
            zeroed(conv(config.mix, 1 + 3)),
        )

    def forward(self, own: Tensor, classical: Tensor, visible_s4: Tensor, warped: list[Tensor]) -> Tensor:
        """(B, 3, H, W) twice, visibilities (B, 2, H/4, W/4), and the warped neighbours -> (B, 3, H, W)."""
        parts = [own, classical, (own - classical).abs(), enlarge(visible_s4, 4), *(warped if self.sees_warped else [])]
        found = self.body(torch.cat(parts, 1)).float()
        return own + found[:, :1].sigmoid() * (classical - own) + found[:, 1:]
