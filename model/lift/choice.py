"""Which picture shows each pixel best: the network's own, the classical one, or one of the six that the latter is made of.

The classical engine weighs its pictures by how well pairs of them agree around a pixel. Here a small network does, which sees
all of them over some 40 px and knows the context; what none of them shows is a residual.
"""

import torch
from torch import Tensor, nn

from model.lift.blocks import ResBlock, conv, enlarge, leaky, zeroed
from model.lift.config import LiftConfig
from model.lift.prior import PROPOSALS, Prior

_FIRST = (1.0, 2.0)  # logits of the own and the classical picture in a fresh network; those of the proposals are 0
_PICTURES = 2 + PROPOSALS
_CUES = PROPOSALS // 2 + 1 + 2 + 2  # where pairs disagree, own against classical, what each frame saw, visibilities


class Choice(nn.Module):
    """Weights of the pictures at every pixel, from features at 1/2 and 1/4 of the size and the pictures themselves."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        width, inputs = config.choice, 3 * _PICTURES + _CUES
        self.at2 = nn.Sequential(conv(inputs, width, 2), leaky(), ResBlock(width))
        self.at4 = nn.Sequential(conv(width, width, 2), leaky(), ResBlock(width))
        self.context = nn.Conv2d(config.c16, width, 1) if config.use_context else None
        self.join = nn.Sequential(ResBlock(width), leaky())
        self.head = zeroed(conv(width + inputs, _PICTURES + 3))
        assert self.head.bias is not None, "made with a bias"
        with torch.no_grad():
            self.head.bias[:2] = torch.tensor(_FIRST)

    def forward(self, own: Tensor, prior: Prior, visible_s4: Tensor, context: Tensor | None) -> Tensor:
        """The picture (B, 3, H, W), not clamped.

        Args:
            own: (B, 3, H, W) of the network.
            prior: with its picture and proposals.
            visible_s4: (B, 2, H/4, W/4).
            context: F_ctx (B, C, H/16, W/16), or None.
        """
        assert prior.picture is not None and prior.proposals is not None and prior.seen is not None, "asked for"
        pictures = torch.cat([own[:, None], prior.picture[:, None], prior.proposals], 1)
        apart = (prior.proposals[:, 0::2] - prior.proposals[:, 1::2]).abs().mean(2)
        differs = (own - prior.picture).abs().mean(1, keepdim=True)
        inputs = torch.cat([pictures.flatten(1, 2), apart, differs, prior.seen, enlarge(visible_s4, 4)], 1)
        half = self.at2(inputs)
        quarter = self.at4(half)
        if self.context is not None and context is not None:
            quarter = quarter + enlarge(self.context(context), 4)
        joined = self.join(half + enlarge(quarter, 2))
        found = self.head(torch.cat([enlarge(joined, 2), inputs], 1)).float()
        weights = found[:, :_PICTURES].softmax(1)
        return (weights[:, :, None] * pictures).sum(1) + found[:, _PICTURES:]
