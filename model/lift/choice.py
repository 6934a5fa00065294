"""Which picture shows each pixel best: the network's own, the classical one, or one of the six that the latter is made of.

The classical engine weighs its pictures by how well pairs of them agree around a pixel. Here a small network does, which sees
all of them over some 40 px and knows the context; what none of them shows is a residual.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model.lift.blocks import ResBlock, conv, enlarge, leaky, zeroed
from model.lift.config import LiftConfig
from model.lift.prior import PROPOSALS, Prior

_PICTURES = 2 + PROPOSALS
_FIRST = (2.0, 4.0, *(-1.0,) * PROPOSALS)  # logits of a fresh network: own, classical, proposals
_GAIN = 4.0  # of learned logits: steps of the optimiser move them too little otherwise
_CONTRAST, _DOUBT, _MOST = 4.0, 10.0, 3.0  # differences of pictures are some hundredths, and convolutions want ones
_AROUND_PX = 5  # disagreement is a mean over so many pixels each way, as the engine has it
_CUES = PROPOSALS // 2 + 1 + 2 + 2  # where pairs disagree, own against classical, what each frame saw, visibilities


class Choice(nn.Module):
    """Weights of the pictures at every pixel, from features at 1/2 and 1/4 of the size and the pictures themselves."""

    first: Tensor

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        width, inputs = config.choice, 3 * _PICTURES + _CUES
        self.at2 = nn.Sequential(conv(inputs, width, 2), leaky(), ResBlock(width))
        self.at4 = nn.Sequential(conv(width, width, 2), leaky(), ResBlock(width))
        self.context = nn.Conv2d(config.c16, width, 1) if config.use_context else None
        self.join = nn.Sequential(ResBlock(width), leaky())
        self.head = zeroed(conv(width + inputs, _PICTURES + 3))
        self.register_buffer("first", torch.tensor(_FIRST).view(1, -1, 1, 1), persistent=False)

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
        apart = _doubt((prior.proposals[:, 0::2] - prior.proposals[:, 1::2]).abs().mean(2))
        differs = _doubt((own - prior.picture).abs().mean(1, keepdim=True))
        others = _CONTRAST * (torch.cat([own[:, None], prior.proposals], 1) - prior.picture[:, None])
        shown = torch.cat([2 * prior.picture - 1, others.flatten(1, 2)], 1)
        inputs = torch.cat([shown, apart, differs, prior.seen, enlarge(visible_s4, 4)], 1)
        half = self.at2(inputs)
        quarter = self.at4(half)
        if self.context is not None and context is not None:
            quarter = quarter + enlarge(self.context(context), 4)
        joined = self.join(half + enlarge(quarter, 2))
        found = self.head(torch.cat([enlarge(joined, 2), inputs], 1)).float()
        weights = (self.first + _GAIN * found[:, :_PICTURES]).softmax(1)
        return (weights[:, :, None] * pictures).sum(1) + found[:, _PICTURES:]


def _doubt(difference: Tensor) -> Tensor:
    """(B, C, H, W) absolute differences -> their means around each pixel, scaled for a convolution."""
    around = functional.avg_pool2d(difference, _AROUND_PX, 1, _AROUND_PX // 2, count_include_pad=False)
    return (_DOUBT * around).clamp(max=_MOST)
