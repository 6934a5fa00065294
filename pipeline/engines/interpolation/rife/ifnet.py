"""IFNet, the network of RIFE, in the three layouts whose published weights can be had: 4.0, 4.6 and 4.25.

Source: Huang, Zhang, Heng, Shi, Zhou, "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", ECCV 2022; the
layouts are read off the names and shapes of the weights. Blocks from coarse to fine each look at both frames warped with the
flow so far and add to it; a mask says which frame shows each pixel. 4.0 adds a residual from warped features, 4.25 hands
features of the frames and of the last block along.

Shapes: B batch, H W height and width (multiples of `Layout.multiple`), C channels; flows are (B, 4, H, W), px: x and y from the
instant to the first frame, then to the second.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.media.warping import backward_warp

_SLOPE = 0.2  # of LeakyReLU in 4.6 and 4.25


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What differs between versions.

    Args:
        channels: of each block; scales: how much smaller each block sees the frames.
        prelu: learned slopes and a residual around each block, in place of LeakyReLU and a residual in each convolution.
        features: channels that a block hands to the next.
        encoded: channels of the features of a frame, 0 without.
        refined: a residual from warped features at the end.
    """

    channels: tuple[int, ...]
    scales: tuple[int, ...]
    prelu: bool = False
    features: int = 0
    encoded: int = 0
    refined: bool = False

    @property
    def multiple(self) -> int:
        """Sides must be a multiple of this, px: of the coarsest scale and the two halvings of a block."""
        return 4 * max(self.scales)


LAYOUTS = {
    "4.0": Layout(channels=(192, 128, 96, 64), scales=(8, 4, 2, 1), prelu=True, refined=True),
    "4.6": Layout(channels=(192, 128, 96, 64), scales=(8, 4, 2, 1)),
    "4.25": Layout(channels=(192, 128, 96, 64, 32), scales=(16, 8, 4, 2, 1), features=8, encoded=4),
}


def _warp(picture: Tensor, flow: Tensor) -> Tensor:
    return backward_warp(picture, flow).to(picture.dtype)


def resize(values: Tensor, factor: float) -> Tensor:
    """Bilinear, by corners of pixels."""
    return values if factor == 1 else interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)


def _conv(inner: int, outer: int, stride: int, prelu: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1), nn.PReLU(outer) if prelu else nn.LeakyReLU(_SLOPE, inplace=True)
    )


class _ResidualConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.conv(x) * self.beta + x, _SLOPE)


class _Block(nn.Module):
    """One scale: flow and mask (and features) from the frames as they are warped so far."""

    def __init__(self, inputs: int, channels: int, layout: Layout) -> None:
        super().__init__()
        prelu = layout.prelu
        self._prelu, self._outputs = prelu, 5 if prelu else 6 if not layout.features else 5 + layout.features
        self.conv0 = nn.Sequential(_conv(inputs, channels // 2, 2, prelu), _conv(channels // 2, channels, 2, prelu))
        inner = [_conv(channels, channels, 1, True) if prelu else _ResidualConv(channels) for _ in range(8)]
        self.convblock = nn.Sequential(*inner)
        if prelu:
            self.lastconv: nn.Module = nn.ConvTranspose2d(channels, 5, 4, 2, 1)
        else:
            up = nn.ConvTranspose2d(channels, 4 * self._outputs, 4, 2, 1)
            self.lastconv = nn.Sequential(up, nn.PixelShuffle(2))

    def forward(self, seen: Tensor, flow: Tensor | None, scale: int) -> tuple[Tensor, Tensor, Tensor]:
        seen = resize(seen, 1 / scale)
        if flow is not None:
            seen = torch.cat([seen, resize(flow, 1 / scale) / scale], 1)
        x = self.conv0(seen)
        x = self.convblock(x) + x if self._prelu else self.convblock(x)
        grown = scale * 2 if self._prelu else scale  # the older head stops at half the block's size
        out = resize(self.lastconv(x), grown)
        return out[:, :4] * grown, out[:, 4:5], out[:, 5:]


class _Encoder(nn.Module):
    """4.25: features of one frame at full size."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.cnn0, self.cnn1 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.cnn2, self.cnn3 = nn.Conv2d(16, 16, 3, 1, 1), nn.ConvTranspose2d(16, outputs, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.cnn0, self.cnn1, self.cnn2):
            x = nn.functional.leaky_relu(layer(x), _SLOPE)
        encoded: Tensor = self.cnn3(x)
        return encoded


class _Pair(nn.Module):
    """Two convolutions; the first halves the size."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(inner, outer, 2, True), _conv(outer, outer, 1, True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return out


class _Context(nn.Module):
    """4.0: a frame's features at four sizes, each warped to the instant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = _Pair(3, 16), _Pair(16, 32), _Pair(32, 64), _Pair(64, 128)

    def forward(self, x: Tensor, flow: Tensor) -> list[Tensor]:
        found = []
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x, flow = layer(x), resize(flow, 0.5) * 0.5
            found.append(_warp(x, flow))
        return found


class _Refiner(nn.Module):
    """4.0: a U-net over everything that is known; gives a residual in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.down0, self.down1, self.down2, self.down3 = _Pair(17, 32), _Pair(64, 64), _Pair(128, 128), _Pair(256, 256)
        sizes = ((512, 128), (256, 64), (128, 32), (64, 16))
        self.up0, self.up1, self.up2, self.up3 = (
            nn.Sequential(nn.ConvTranspose2d(inner, outer, 4, 2, 1), nn.PReLU(outer)) for inner, outer in sizes
        )
        self.conv = nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, known: Tensor, first: list[Tensor], last: list[Tensor]) -> Tensor:
        sizes = [self.down0(known)]
        for level, layer in enumerate((self.down1, self.down2, self.down3)):
            sizes.append(layer(torch.cat([sizes[-1], first[level], last[level]], 1)))
        x = self.up0(torch.cat([sizes[3], first[3], last[3]], 1))
        for grow, beside in ((self.up1, sizes[2]), (self.up2, sizes[1]), (self.up3, sizes[0])):
            x = grow(torch.cat([x, beside], 1))
        return torch.sigmoid(self.conv(x)) * 2 - 1


class IFNet(nn.Module):
    """The frame at t between two.

    Args:
        layout: one of `LAYOUTS`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        first = 7 + 2 * layout.encoded
        later = 12 + 2 * layout.encoded + layout.features
        self._names = [f"block{number}" for number in range(len(layout.channels))]
        for number, (name, channels) in enumerate(zip(self._names, layout.channels, strict=True)):
            self.add_module(name, _Block(later if number else first, channels, layout))
        if layout.encoded:
            self.encode = _Encoder(layout.encoded)
        if layout.refined:
            self.contextnet, self.unet = _Context(), _Refiner()

    def forward(self, before: Tensor, after: Tensor, t: float) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], sides a multiple of `layout.multiple`, t in (0, 1) -> (B, 3, H, W) in [0, 1]."""
        time = torch.full_like(before[:, :1], t)
        codes = [self.encode(before), self.encode(after)] if self.layout.encoded else []
        warped = [before, after]
        flow: Tensor | None = None
        mask = handed = time.new_zeros(0)
        for name, scale in zip(self._names, self.layout.scales, strict=True):
            block = getattr(self, name)
            if flow is None:
                flow, mask, handed = block(torch.cat([*warped, *codes, time], 1), None, scale)
            else:
                moved = [_warp(code, part) for code, part in zip(codes, flow.chunk(2, 1), strict=False)]
                extra = [handed] if self.layout.features else []
                step, change, handed = block(torch.cat([*warped, *moved, time, mask, *extra], 1), flow, scale)
                flow, mask = flow + step, change if self.layout.features else mask + change
            warped = [_warp(frame, part) for frame, part in zip((before, after), flow.chunk(2, 1), strict=True)]
        assert flow is not None, "there is at least one block"
        mask = torch.sigmoid(mask)
        made = warped[0] * mask + warped[1] * (1 - mask)
        if self.layout.refined:
            contexts = [self.contextnet(f, part) for f, part in zip((before, after), flow.chunk(2, 1), strict=True)]
            made = made + self.unet(torch.cat([before, after, *warped, mask, flow], 1), *contexts)
        return made.clamp(0, 1)
