"""FocusMamba: frames of a photograph in, the circle of confusion of every pixel out, in time linear in the pixels.

Special: no depth and no lens are asked for. How much a pixel is blurred can be seen, so it is measured; on which side of the
focus plane it lies can only be guessed from what hides what, so that is a probability of its own.

Shape letters: B = samples; H, W = image; h, w = tokens; C = channels.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.focusmamba.bank import CHANNELS, FilterBank
from model.focusmamba.config import FocusMambaConfig, FocusMambaError
from model.focusmamba.motion import way_back
from model.focusmamba.pyramid import TOKEN_PX, Decoder, Encoder, Residual
from model.focusmamba.state import FocusState
from model.focusmamba.steady import own_variance, steadied
from model.recurrent.blocks import Block
from model.recurrent.motion import CHANGE_GAIN, FRAME_SAMPLES, sample_frame
from pipeline.media.warping import backward_warp
from pipeline.optics.labels import focus_from_radius

LOG_VARIANCE = (-9.0, 7.0)  # of the magnitude, px^2: a standard deviation between 0.01 and 33 px
MEMORY_PLANES = 4  # the last map, its variance, what has changed since, and whether there is one
SMALLEST_PX = 4  # side of a frame
VARIANCE_GAIN = 1 / 8  # brings a logarithm of a variance to the size of other planes
FIRST_LOG_RADIUS = 1.1  # log(1 + 2 px): around what an untrained network weighs most
FIRST_GATE = -2.0  # of the last map in the new one: an eighth


@dataclass(frozen=True, kw_only=True)
class FocusOutput:
    """What one frame gave, float32 or wider.

    Args:
        log_magnitude: (B, 1, H, W) log(1 + radius).
        log_variance: (B, 1, H, W) of the magnitude, log px^2.
        side_logit: (B, 1, H, W) of the probability that the surface lies behind the focus plane.
        bin_logits: (B, radius_bins, H, W) how this frame alone weighs the radii of `FocusMamba.bins`.
    """

    log_magnitude: Tensor
    log_variance: Tensor
    side_logit: Tensor
    bin_logits: Tensor

    @property
    def magnitude_px(self) -> Tensor:
        """(B, 1, H, W) radius of the circle of confusion in pixels of this picture, >= 0."""
        return torch.expm1(self.log_magnitude)

    @property
    def behind(self) -> Tensor:
        """(B, 1, H, W) probability in [0, 1]."""
        return torch.sigmoid(self.side_logit)

    def signed_px(self) -> Tensor:
        """(B, 1, H, W) radius, negative where the nearer side is likelier. No gradient reaches the side."""
        return torch.where(self.side_logit.detach() < 0, -self.magnitude_px, self.magnitude_px)

    def focus_map(self, max_coc_m: float, px_per_mm: float) -> Tensor:
        """(B, 1, H, W) the stored label's own formula: 1 in focus, 0 at least max_coc out of focus."""
        return focus_from_radius(self.magnitude_px, max_coc_m, px_per_mm)


class MemoryCue(nn.Module):
    """What is remembered, and what has changed since, as features for the tokens. Adds nothing at the start of training."""

    def __init__(self, config: FocusMambaConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(MEMORY_PLANES, config.channels, 3, padding=1)
        self.last = nn.Conv2d(config.channels, config.channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None, "a convolution has one"
        nn.init.zeros_(self.last.bias)

    def forward(self, memory: Tensor, height: int, width: int) -> Tensor:
        """(B, 4, 128, 128) -> (B, height, width, C)."""
        small = nn.functional.adaptive_avg_pool2d(memory, (height, width)).to(self.last.weight.dtype)
        tokens: Tensor = self.last(nn.functional.gelu(self.first(small))).permute(0, 2, 3, 1)
        return tokens


class FocusMamba(nn.Module):
    """The network.

    The filter bank and the frame go down to tokens of 8x8 pixels, blocks of four directed scans look at all of the image, and
    a decoder comes back beside what was passed on: maps have edges where the picture has. The head weighs a row
    of radii; their mean in log(1 + radius) is the map of this frame. With a state, the last frame and the last map are seen
    beside the new frame, the scans begin where the last frame's ended, and a gate per pixel keeps a share of the last map.

    Args:
        config: its size and switches.

    Example:
        >>> net = FocusMamba(VARIANTS["focus_nano"])
        >>> out, state = net(torch.rand(1, 3, 60, 80))
        >>> out, state = net(torch.rand(1, 3, 60, 80), state)
        >>> out.magnitude_px.shape
        torch.Size([1, 1, 60, 80])
    """

    bins: Tensor  # (radius_bins,) log(1 + radius)

    def __init__(self, config: FocusMambaConfig) -> None:
        super().__init__()
        self.config = config
        seen = 4 * 3 + (CHANNELS if config.enable_bank else 0)
        self.bank = FilterBank() if config.enable_bank else None
        self.encoder = Encoder(config, seen)
        self.blocks = nn.ModuleList(Block(config, i / max(1, config.blocks - 1)) for i in range(config.blocks))
        self.local = nn.ModuleList(Residual(config.channels) for _ in range(config.blocks))
        self.head = Decoder(config, config.radius_bins + 3, guide_channels=MEMORY_PLANES)
        self.cue = MemoryCue(config) if config.enable_cue else None
        bins = torch.linspace(0.0, math.log1p(config.max_radius_px), config.radius_bins)
        self.register_buffer("bins", bins, persistent=False)
        assert self.head.last.bias is not None, "a convolution has one"
        with torch.no_grad():
            self.head.last.weight.mul_(0.3)
            self.head.last.bias.zero_()
            # Four pixels lie in a row for every plane, see pixel_shuffle.
            self.head.last.bias[: 4 * config.radius_bins] = -(bins - FIRST_LOG_RADIUS).square().repeat_interleave(4)
            self.head.last.bias[-4:] = FIRST_GATE

    def forward(self, frame: Tensor, state: FocusState | None = None) -> tuple[FocusOutput, FocusState]:
        """One frame of a video, or a photograph.

        Args:
            frame: (B, 3, H, W) sRGB in [0, 1], at least 4x4.
            state: what the previous frame returned; None for the first. Sizes may change between frames, B may not.

        Returns:
            The output, and the state for the next frame; it carries gradients, `detach` it to cut them.

        Raises:
            FocusMambaError: a shape, dtype or device that the network cannot work with.
        """
        self._check(frame, state)
        height, width = frame.shape[-2:]
        wide = frame if frame.dtype == torch.float64 else frame.float()
        padding = (0, -width % TOKEN_PX, 0, -height % TOKEN_PX)
        padded = nn.functional.pad(wide, padding, mode="replicate") if any(padding) else wide
        planes = nn.functional.pixel_unshuffle(padded * 2 - 1, 2)
        if self.bank is not None:
            planes = torch.cat([planes, self.bank(padded)], dim=1)
        planes = planes.to(self.head.last.weight.dtype)
        samples = sample_frame(wide)
        filtered = self.config.over_time == "filter"
        seen = None if filtered else state
        memory = self._memory(samples, seen)
        half, quarter, tokens = self.encoder(planes)
        tokens, kept = self._scan(tokens, memory, seen)
        spread = nn.functional.interpolate(memory, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        raw = self.head((half, quarter), tokens, nn.functional.avg_pool2d(spread, 2))
        raw, spread = (x[..., :height, :width].to(wide.dtype) for x in (raw, spread))
        output = self._output(raw, spread)
        if filtered:
            output, remembered = self._joined(output, samples, state)
        else:
            remembered = sample_frame(torch.cat([output.log_magnitude, VARIANCE_GAIN * output.log_variance], dim=1))
        following = FocusState(
            scan_states=torch.stack([states for states, _ in kept]),
            pooled=torch.stack([pooled for _, pooled in kept]),
            frame_samples=samples,
            map_samples=remembered,
        )
        return output, following

    def _scan(
        self, tokens: Tensor, memory: Tensor, state: FocusState | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(B, C, h, w) tokens through the blocks; also every block's states and pooled input."""
        x = tokens.permute(0, 2, 3, 1).contiguous()
        if self.cue is not None and state is not None:
            x = x + self.cue(memory, *x.shape[1:3])
        kept: list[tuple[Tensor, Tensor]] = []
        for i, (block, local) in enumerate(zip(self.blocks, self.local, strict=True)):
            previous = None if state is None else (state.scan_states[i], state.pooled[i])
            x, states, pooled = block(x, previous, None, None)
            x = local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            kept.append((states, pooled))
        return x.permute(0, 3, 1, 2), kept

    def _joined(self, output: FocusOutput, samples: Tensor, state: FocusState | None) -> tuple[FocusOutput, Tensor]:
        """This frame's output with the past in its map, and what is remembered of it, see `steady`."""
        if state is None:
            variance = sample_frame(own_variance(output.log_magnitude, output.log_variance))
            return output, torch.cat([sample_frame(output.log_magnitude), variance], dim=1)
        log_magnitude, variance = steadied(
            output.log_magnitude, output.log_variance, samples, state.frame_samples, state.map_samples
        )
        return replace(output, log_magnitude=log_magnitude), torch.cat([sample_frame(log_magnitude), variance], dim=1)

    def _memory(self, samples: Tensor, state: FocusState | None) -> Tensor:
        """(B, 4, 128, 128): the last map and its variance, how much the frame has changed since, and 1; 0 without a state.

        With `over_time` = aligned all of it is moved along the motion first: what is left of the change is no motion.
        """
        size = (len(samples), 1, FRAME_SAMPLES, FRAME_SAMPLES)
        if state is None or self.cue is None:
            return samples.new_zeros((size[0], MEMORY_PLANES, *size[2:]))
        before, last = state.frame_samples.to(samples), state.map_samples.to(samples)
        if self.config.over_time == "aligned":
            flow = way_back(samples, before)
            before, last = backward_warp(before, flow), backward_warp(last, flow)
        change = CHANGE_GAIN * (samples - before).abs().mean(1, keepdim=True)
        return torch.cat([last, change, samples.new_ones(size)], dim=1)

    def _output(self, raw: Tensor, memory: Tensor) -> FocusOutput:
        """The head's planes, and the memory at full size -> what they mean."""
        bins = self.config.radius_bins
        logits, (variance, side, gate) = raw[:, :bins], raw[:, bins:].chunk(3, dim=1)
        fresh = (torch.softmax(logits, dim=1) * self.bins.to(raw).view(1, -1, 1, 1)).sum(1, keepdim=True)
        # memory[:, 3] is 0 on a first frame, which has nothing to keep.
        kept = torch.sigmoid(gate) * memory[:, 3:4]
        low, high = LOG_VARIANCE
        return FocusOutput(
            log_magnitude=torch.lerp(fresh, memory[:, :1], kept),
            log_variance=low + (high - low) * torch.sigmoid(variance),  # smooth bounds: a slope everywhere
            side_logit=side,
            bin_logits=logits,
        )

    def _check(self, frame: Tensor, state: FocusState | None) -> None:
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[0] < 1:
            raise FocusMambaError(f"frame must be (B, 3, H, W) with at least one sample, got {tuple(frame.shape)}")
        if min(frame.shape[-2:]) < SMALLEST_PX:
            raise FocusMambaError(f"frame must be at least {SMALLEST_PX}x{SMALLEST_PX} px, got {tuple(frame.shape)}")
        if not frame.is_floating_point():
            raise FocusMambaError(
                f"frame must be floating point sRGB in [0, 1], got {frame.dtype}; divide bytes by 255"
            )
        if frame.device != self.head.last.weight.device:
            raise FocusMambaError(
                f"frame must be on the network's device, {self.head.last.weight.device}, got {frame.device}"
            )
        if state is not None:
            state.check(self.config, len(frame))
