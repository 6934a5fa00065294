"""BokehFlow: a frame and a lens in, the photograph of that lens and metric depth out, in time linear in the pixels.

Special: two streams of directional recurrences, one for depth and one for bokeh; the depth drives a physical renderer, the
bokeh stream what the renderer cannot know. A state of constant size makes it a video network. No attention anywhere.

Shape letters: B = samples; H, W = image; h, w = tokens; C = channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.bokehflow.blocks import ApertureEncoder, ApertureFilm, CrossStreamFusion
from model.bokehflow.config import FAR_M, NEAR_M, BokehFlowConfig, BokehFlowError
from model.bokehflow.lens import LensBatch, check_focus, mean_radius_share, radius_limit_px, unseen_mean_radius_share
from model.bokehflow.physics import PhysicsBlur
from model.bokehflow.temporal import BokehFlowState, sample_depth
from model.recurrent.blocks import Block, ConvStem, FullResolutionHead
from model.recurrent.config import STRIDE
from model.recurrent.motion import MotionCue, sample_frame
from pipeline.optics import FixedShapes

RESIDUAL_GAIN = 0.1  # of the bokeh head's last layer: the first prediction is nearly the frame itself


@dataclass(frozen=True, kw_only=True)
class BokehFlowOutput:
    """What one frame gave.

    Args:
        bokeh: (B, 3, H, W) the photograph, sRGB; clamped to [0, 1] outside training only.
        depth_m: (B, 1, H, W) z-depth in metres, between 0.1 and 100, float32 or wider.
        coc_px: (B, 1, H, W) signed radius of the circle of confusion in pixels of the full frame, < 0 in front of the focus
            plane, clipped to the largest radius that is rendered. Its size is the CoC radius.
        physics: (B, 3, H, W) the lens renderer's image from `depth_m`, with its small correction; not clamped.
        residual: (B, 3, H, W) what the bokeh stream adds to the frame.
        clipped_share: (B,) share of pixels whose radius was clipped, detached.
        lens_values_outside: scalar, how many lens values of the batch lay outside the embedding's ranges.
    """

    bokeh: Tensor
    depth_m: Tensor
    coc_px: Tensor
    physics: Tensor
    residual: Tensor
    clipped_share: Tensor
    lens_values_outside: Tensor


class BokehFlow(nn.Module):
    """The network.

    Weights may be in float32, under autocast or not, in float64, or for inference in bfloat16 (`net.bfloat16()`, half the
    memory); states, the recurrence, depth and the renderer are in float32 or wider either way.

    Args:
        config: its size and switches.

    Example:
        >>> net = BokehFlow(VARIANTS["demo"])
        >>> lens = LensBatch.of(Lens(f_m=0.05, f_number=2.0, focus_m=2.0), px_per_mm=320 / 36)
        >>> out, state = net(torch.rand(1, 3, 60, 80), lens)
        >>> out, state = net(torch.rand(1, 3, 60, 80), lens, state)
        >>> out.bokeh.shape, out.depth_m.shape
        (torch.Size([1, 3, 60, 80]), torch.Size([1, 1, 60, 80]))
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvStem(config)
        self.aperture = ApertureEncoder(config)
        self.depth_blocks = nn.ModuleList(_stream(config, config.depth_blocks, film=False))
        self.bokeh_blocks = nn.ModuleList(_stream(config, config.bokeh_blocks, film=True))
        shared = min(config.depth_blocks, config.bokeh_blocks)
        exchanges = shared // config.fusion_every if config.fusion_every else 0
        self.fusions = nn.ModuleList(CrossStreamFusion(config) for _ in range(exchanges))
        self.depth_norm = nn.LayerNorm(config.channels)
        self.bokeh_norm = nn.LayerNorm(config.channels)
        self.depth_head = FullResolutionHead(config, 1, gain=1.0)
        self.bokeh_head = FullResolutionHead(config, 3, gain=RESIDUAL_GAIN)
        self.physics = PhysicsBlur(config)
        self.mix_logit = nn.Parameter(torch.zeros(()))
        self.motion = MotionCue(config) if config.enable_motion else None

    def forward(
        self, frame: Tensor, lens: LensBatch, state: BokehFlowState | None = None
    ) -> tuple[BokehFlowOutput, BokehFlowState]:
        """One frame of a video, or an image.

        Args:
            frame: (B, 3, H, W) all-in-focus sRGB in [0, 1], at least 4x4.
            lens: one lens per sample, on the frame's device.
            state: what the previous frame returned; None for the first. Sizes may change between frames, B may not.

        Returns:
            The output, and the state for the next frame; it carries gradients, `detach` it to cut them.

        Raises:
            BokehFlowError: a shape, dtype, device or lens that the network cannot work with.
            OpticsError: the frame holds values that are no sRGB image.
        """
        self._check(frame, lens, state)
        wide = frame if frame.dtype == torch.float64 else frame.float()
        aperture, outside = self.aperture(lens)
        depth_m, residual, state = self.predict(wide, aperture, self.mean_blur(lens, state), state)
        physics, coc_px, clipped = self.physics(wide, depth_m, lens)
        share = torch.sigmoid(self.mix_logit)
        bokeh = share * physics + (1 - share) * (wide + residual)
        if not self.training:
            bokeh = bokeh.clamp(0, 1)
        output = BokehFlowOutput(
            bokeh=bokeh.to(frame.dtype),
            depth_m=depth_m,
            coc_px=coc_px,
            physics=physics.to(frame.dtype),
            residual=residual.to(frame.dtype),
            clipped_share=clipped,
            lens_values_outside=outside,
        )
        return output, state

    def fix_shapes(self, lens: LensBatch | None) -> None:
        """Prepare for frames without a wait: the host then reads nothing from the device, as a CUDA graph needs.

        For inference: with gradients the renderer refuses. The caller promises that the following frames are images and that
        no lens of theirs blurs wider than the widest of these is allowed to.

        Args:
            lens: lenses of the frames to come, checked here; None adapts to each frame again.

        Raises:
            BokehFlowError: a lens cannot focus where it should.
        """
        if lens is None:
            self.physics.fixed = None
            return
        check_focus(lens, self.config.coc_model)
        self.physics.fixed = FixedShapes(max_radius_px=float(radius_limit_px(lens, self.config).max()))

    def mean_blur(self, lens: LensBatch, state: BokehFlowState | None) -> Tensor:
        """(B,) mean blur radius over the largest: under this lens at the last frame's depth, else of an unseen scene."""
        if state is None:
            return unseen_mean_radius_share(lens, self.config)
        return mean_radius_share(state.depth_samples_m, lens, self.config)

    def predict(
        self, frame: Tensor, aperture: Tensor, mean_blur: Tensor, state: BokehFlowState | None
    ) -> tuple[Tensor, Tensor, BokehFlowState]:
        """Everything that is learned except PG-CoC's correction.

        Args:
            frame: (B, 3, H, W) float32 or float64, any size from 4x4.
            aperture: (B, aperture_dim).
            mean_blur: (B,) see `mean_blur`.
            state: of the previous frame, or None.

        Returns:
            depth (B, 1, H, W) in metres, the residual (B, 3, H, W) on the frame, and the next state.
        """
        height, width = frame.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        padded = nn.functional.pad(frame, padding, mode="replicate") if any(padding) else frame
        planes = padded.to(self.mix_logit.dtype) * 2 - 1
        depth = bokeh = self.stem(planes)
        samples = frame.new_zeros((len(frame), 3, 0, 0)) if self.motion is None else sample_frame(frame)
        if self.motion is not None:
            before = samples if state is None else state.frame_samples
            depth = depth + self.motion(samples, before, *depth.shape[1:3])
        kept: dict[str, list[tuple[Tensor, Tensor]]] = {"depth": [], "bokeh": []}
        for i in range(max(len(self.depth_blocks), len(self.bokeh_blocks))):
            if i < len(self.depth_blocks):
                previous = None if state is None else (state.depth_states[i], state.depth_pooled[i])
                depth, *carried = self.depth_blocks[i](depth, previous, aperture, None)
                kept["depth"].append((carried[0], carried[1]))
            if i < len(self.bokeh_blocks):
                previous = None if state is None else (state.bokeh_states[i], state.bokeh_pooled[i])
                bokeh, *carried = self.bokeh_blocks[i](bokeh, previous, aperture, mean_blur)
                kept["bokeh"].append((carried[0], carried[1]))
            every = self.config.fusion_every
            if every and (i + 1) % every == 0 and (i + 1) // every <= len(self.fusions):
                depth, bokeh = self.fusions[(i + 1) // every - 1](depth, bokeh)
        depth_m = bounded_depth_m(self.depth_head(self.depth_norm(depth), planes)[..., :height, :width])
        residual = self.bokeh_head(self.bokeh_norm(bokeh), planes)[..., :height, :width]
        following = BokehFlowState(
            depth_states=torch.stack([states for states, _ in kept["depth"]]),
            bokeh_states=torch.stack([states for states, _ in kept["bokeh"]]),
            depth_pooled=torch.stack([pooled for _, pooled in kept["depth"]]),
            bokeh_pooled=torch.stack([pooled for _, pooled in kept["bokeh"]]),
            depth_samples_m=sample_depth(depth_m),
            frame_samples=samples,
        )
        return depth_m, residual.to(frame.dtype), following

    def _check(self, frame: Tensor, lens: LensBatch, state: BokehFlowState | None) -> None:
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[0] < 1:
            raise BokehFlowError(f"frame must be (B, 3, H, W) with at least one sample, got {tuple(frame.shape)}")
        if min(frame.shape[-2:]) < STRIDE:
            raise BokehFlowError(f"frame must be at least {STRIDE}x{STRIDE} px, one token, got {tuple(frame.shape)}")
        if not frame.is_floating_point():
            raise BokehFlowError(f"frame must be floating point sRGB in [0, 1], got {frame.dtype}; divide bytes by 255")
        if len(lens) != len(frame):
            raise BokehFlowError(f"one lens per sample is needed: {len(frame)} frames and {len(lens)} lenses")
        for name, device in (("frame", frame.device), ("lens", lens.f_m.device)):
            if device != self.mix_logit.device:
                raise BokehFlowError(f"{name} must be on the network's device, {self.mix_logit.device}, got {device}")
        if self.physics.fixed is None:  # else every lens was checked before the first frame
            check_focus(lens, self.config.coc_model)
        if state is not None:
            state.check(self.config, len(frame))


def bounded_depth_m(logits: Tensor) -> Tensor:
    """Any number -> metres in (0.1, 100), in float32 or wider: a sigmoid in log depth, whose slope vanishes nowhere.

    0 gives the geometric mean, 3.2 m.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return NEAR_M * torch.exp(math.log(FAR_M / NEAR_M) * torch.sigmoid(wide))


def _stream(config: BokehFlowConfig, count: int, film: bool) -> list[Block]:
    make = (lambda: ApertureFilm(config)) if film else None
    return [Block(config, i / max(1, count - 1), make) for i in range(count)]
