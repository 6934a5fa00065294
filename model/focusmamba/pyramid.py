"""The convolutions around the scans: down from pixels to tokens of 8x8 pixels, and back up beside what was passed on the way.

Special: the stream itself is never normalised, only what is added to it. A norm over the picture takes away how strongly the
filters answer in all of it, and that is how blurred the picture is.

Shape letters: B = samples; C = channels; H, W = image, multiples of 8.
"""

import torch
from torch import Tensor, nn

from model.focusmamba.config import FocusMambaConfig
from model.recurrent.config import NORM_GROUPS

TOKEN_PX = 8  # pixels per token, each way: scans cost four times less than at 4, and blur of 20 px spans few tokens


class Residual(nn.Module):
    """(B, C, H, W) -> the same plus two 3x3 convolutions of it, normalised; adds little at the start of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(nn.functional.gelu(self.first(self.norm(x))))
        return x + added


class Encoder(nn.Module):
    """Planes at half of the size -> features at 1/2, 1/4 and 1/8.

    The frame's own pixels lie in the planes four by four, so that nothing is lost by starting there, at a quarter of the cost.
    """

    def __init__(self, config: FocusMambaConfig, planes: int) -> None:
        super().__init__()
        half, quarter, eighth = config.stem_channels, config.middle_channels, config.channels
        self.to_half = nn.Sequential(nn.Conv2d(planes, half, 3, padding=1), nn.GELU(), Residual(half))
        self.to_quarter = nn.Sequential(nn.Conv2d(half, quarter, 3, stride=2, padding=1), nn.GELU(), Residual(quarter))
        self.to_eighth = nn.Sequential(nn.Conv2d(quarter, eighth, 3, stride=2, padding=1), nn.GELU(), Residual(eighth))

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half: Tensor = self.to_half(planes)
        quarter: Tensor = self.to_quarter(half)
        return half, quarter, self.to_eighth(quarter)


class Decoder(nn.Module):
    """Features at 1/8, and those passed on the way down -> (B, out_channels, H, W), four pixels from each place at 1/2.

    Args:
        config: widths.
        out_channels: planes to predict.
        guide_channels: planes beside the last features, at half of the size.
    """

    def __init__(self, config: FocusMambaConfig, out_channels: int, guide_channels: int) -> None:
        super().__init__()
        half, quarter, eighth = config.stem_channels, config.middle_channels, config.channels
        self.from_eighth, self.at_quarter = nn.Conv2d(eighth, quarter, 1), Residual(quarter)
        self.from_quarter, self.at_half = nn.Conv2d(quarter, half, 1), Residual(half)
        self.beside = nn.Conv2d(half + guide_channels, half, 3, padding=1)
        self.last = nn.Conv2d(half, 4 * out_channels, 1)

    def forward(self, passed: tuple[Tensor, Tensor], tokens: Tensor, guide: Tensor) -> Tensor:
        """(half, quarter), features at 1/8 and the guide (B, guide_channels, H/2, W/2) -> planes at full size."""
        half, quarter = passed
        x = self.at_quarter(quarter + double(self.from_eighth(tokens)))
        x = self.at_half(half + double(self.from_quarter(x)))
        x = nn.functional.gelu(self.beside(torch.cat([x, guide.to(x.dtype)], dim=1)))
        planes: Tensor = nn.functional.pixel_shuffle(self.last(x), 2)
        return planes


def double(x: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
