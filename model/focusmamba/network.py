"""FocusMamba: frames of a photograph in, the circle of confusion of every pixel out, in time linear in the pixels.

Special: no depth and no lens are asked for. How much a pixel is blurred can be seen, so it is measured; on which side of the
focus plane it lies can only be guessed from what hides what, so that is a probability of its own.

Shape letters: B = samples; H, W = image; h, w = tokens; C = channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.focusmamba.bank import CHANNELS, FilterBank
from model.focusmamba.config import FocusMambaConfig, FocusMambaError
from model.focusmamba.state import FocusState
from model.recurrent.blocks import Block, ConvStem, FullResolutionHead
from model.recurrent.config import STRIDE
from model.recurrent.motion import FRAME_SAMPLES, MotionCue, sample_frame
from pipeline.optics.labels import focus_from_radius

FIRST_MAGNITUDE_PX = 2.0  # what an untrained network says
LOG_VARIANCE = (-9.0, 7.0)  # of the magnitude, px^2: a standard deviation between 0.01 and 33 px
MEMORY_PLANES = 2  # the last map, and whether there is one


@dataclass(frozen=True, kw_only=True)
class FocusOutput:
    """What one frame gave, float32 or wider.

    Args:
        log_magnitude: (B, 1, H, W) log(1 + radius).
        log_variance: (B, 1, H, W) of the magnitude, log px^2.
        side_logit: (B, 1, H, W) of the probability that the surface lies behind the focus plane.
    """

    log_magnitude: Tensor
    log_variance: Tensor
    side_logit: Tensor

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


class FocusMamba(nn.Module):
    """The network.

    The filter bank and the frame go into a stem of stride 4, blocks of four directed scans look at all of the image, and a head
    comes back to full size beside the bank's planes: maps have edges where the picture has. With a state, the last frame and
    the last map are seen beside the new frame, and the scans begin where the last frame's ended.

    Args:
        config: its size and switches.

    Example:
        >>> net = FocusMamba(VARIANTS["focus_nano"])
        >>> out, state = net(torch.rand(1, 3, 60, 80))
        >>> out, state = net(torch.rand(1, 3, 60, 80), state)
        >>> out.magnitude_px.shape
        torch.Size([1, 1, 60, 80])
    """

    def __init__(self, config: FocusMambaConfig) -> None:
        super().__init__()
        self.config = config
        seen = 3 + (CHANNELS if config.enable_bank else 0)
        self.bank = FilterBank() if config.enable_bank else None
        self.stem = ConvStem(config, seen)
        # The stem's GroupNorm takes away how strong a plane is in the whole picture, which is how blurred the picture is.
        self.levels = nn.Sequential(
            nn.Linear(2 * seen, config.channels), nn.GELU(), nn.Linear(config.channels, config.channels)
        )
        self.blocks = nn.ModuleList(Block(config, i / max(1, config.blocks - 1)) for i in range(config.blocks))
        self.norm = nn.LayerNorm(config.channels)
        self.head = FullResolutionHead(config, 3, gain=1.0, guide_channels=seen + MEMORY_PLANES)
        self.cue = MotionCue(config, extra=MEMORY_PLANES) if config.enable_cue else None
        self._largest = math.log1p(config.max_radius_px)
        share = math.log1p(FIRST_MAGNITUDE_PX) / self._largest
        assert self.head.last.bias is not None, "the head makes one"
        with torch.no_grad():
            self.head.last.bias[0] = math.log(share / (1 - share))

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
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        padded = nn.functional.pad(wide, padding, mode="replicate") if any(padding) else wide
        planes = padded * 2 - 1
        if self.bank is not None:
            planes = torch.cat([planes, self.bank(padded)], dim=1)
        samples = sample_frame(wide)
        memory = self._memory(samples, state)
        planes = planes.to(self.norm.weight.dtype)
        pooled_planes = [pool(planes, STRIDE) for pool in (nn.functional.avg_pool2d, nn.functional.max_pool2d)]
        x = self.stem(planes) + self.levels(torch.cat(pooled_planes, dim=1).permute(0, 2, 3, 1))
        if self.cue is not None:
            before = samples if state is None else state.frame_samples
            x = x + self.cue(samples, before, *x.shape[1:3], memory)
        kept: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            previous = None if state is None else (state.scan_states[i], state.pooled[i])
            x, states, pooled = block(x, previous, None, None)
            kept.append((states, pooled))
        spread = nn.functional.interpolate(memory, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        raw = self.head(self.norm(x), torch.cat([planes, spread.to(planes)], dim=1))[..., :height, :width]
        output = self._output(raw.to(wide.dtype))
        following = FocusState(
            scan_states=torch.stack([states for states, _ in kept]),
            pooled=torch.stack([pooled for _, pooled in kept]),
            frame_samples=samples,
            map_samples=sample_frame(output.log_magnitude),
        )
        return output, following

    def _memory(self, samples: Tensor, state: FocusState | None) -> Tensor:
        """(B, 2, 128, 128): the last map where there is one, and 1 there."""
        size = (len(samples), 1, FRAME_SAMPLES, FRAME_SAMPLES)
        if state is None or self.cue is None:
            return samples.new_zeros((size[0], MEMORY_PLANES, *size[2:]))
        return torch.cat([state.map_samples.to(samples), samples.new_ones(size)], dim=1)

    def _output(self, raw: Tensor) -> FocusOutput:
        """Three planes -> what they mean: smooth bounds, whose slope vanishes nowhere."""
        low, high = LOG_VARIANCE
        return FocusOutput(
            log_magnitude=self._largest * torch.sigmoid(raw[:, :1]),
            log_variance=low + (high - low) * torch.sigmoid(raw[:, 1:2]),
            side_logit=raw[:, 2:],
        )

    def _check(self, frame: Tensor, state: FocusState | None) -> None:
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[0] < 1:
            raise FocusMambaError(f"frame must be (B, 3, H, W) with at least one sample, got {tuple(frame.shape)}")
        if min(frame.shape[-2:]) < STRIDE:
            raise FocusMambaError(f"frame must be at least {STRIDE}x{STRIDE} px, one token, got {tuple(frame.shape)}")
        if not frame.is_floating_point():
            raise FocusMambaError(
                f"frame must be floating point sRGB in [0, 1], got {frame.dtype}; divide bytes by 255"
            )
        if frame.device != self.norm.weight.device:
            raise FocusMambaError(
                f"frame must be on the network's device, {self.norm.weight.device}, got {frame.device}"
            )
        if state is not None:
            state.check(self.config, len(frame))
