"""BokehFlow: a frame and a lens in, the photograph of that lens and metric depth out, in time linear in the pixels.

Special: two streams of directional recurrences, one for depth and one for bokeh; the depth drives a physical renderer, the
bokeh stream what the renderer cannot know: how bright clipped light was, and what stands behind a blurred edge. Depth may be
handed in; then only the bokeh stream runs. A state of constant size makes it a video network. No attention anywhere.

Shape letters: B = samples; H, W = image; h, w = tokens; C = channels.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.bokehflow.blocks import ApertureEncoder, ApertureFilm, CrossStreamFusion
from model.bokehflow.config import FAR_M, NEAR_M, BokehFlowConfig, BokehFlowError
from model.bokehflow.correction import Correction, Rendered, brightened
from model.bokehflow.lens import LensBatch, check_focus, mean_radius_share, radius_limit_px, unseen_mean_radius_share
from model.bokehflow.physics import PhysicsBlur
from model.bokehflow.temporal import BokehFlowState, sample_depth
from model.recurrent.blocks import Block, ConvStem, FullResolutionHead
from model.recurrent.config import STRIDE
from model.recurrent.motion import MotionCue, sample_frame
from model.recurrent.scans import BiGDR
from pipeline.optics import FixedShapes
from pipeline.optics.fixed import Kernels

HIGHLIGHT_GAIN = 0.1  # of the highlight head's last layer: all that is clipped is brightened alike at first


@dataclass(frozen=True, kw_only=True)
class BokehFlowOutput:
    """What one frame gave.

    Args:
        bokeh: (B, 3, H, W) the photograph, sRGB; clamped to [0, 1] outside training only.
        depth_m: (B, 1, H, W) z-depth in metres, between 0.1 and 100, float32 or wider; the one handed in, if any.
        coc_px: (B, 1, H, W) signed radius of the circle of confusion in pixels of the full frame, < 0 in front of the focus
            plane, clipped to the largest radius that is rendered. Its size is the CoC radius.
        physics: (B, 3, H, W) the lens renderer's image from `depth_m`, in [0, 1].
        mix: (B, 1, H, W) weight of `physics` in its mix with the frame and softer pictures, per pixel, in [0, 1].
        residual: (B, 3, H, W) what is added to that mix.
        light: (B, 3, H, W) linear light that was rendered: the frame's, brighter where it is clipped.
        invented: (B, 1, H, W) share of the render that the frame did not show.
        clipped_share: (B,) share of pixels whose radius was clipped, detached.
        lens_values_outside: scalar, how many lens values of the batch lay outside the embedding's ranges.
    """

    bokeh: Tensor
    depth_m: Tensor
    coc_px: Tensor
    physics: Tensor
    mix: Tensor
    residual: Tensor
    light: Tensor
    invented: Tensor
    clipped_share: Tensor
    lens_values_outside: Tensor


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the streams gave.

    Args:
        depth_m: (B, 1, H, W) metres; None where depth was handed in.
        highlights: (B, 3, H, W) logits of the gain on clipped light, see `correction.brightened`; None without them.
        tokens: (B, h, w, C) normalised, of the bokeh stream.
        depth_tokens: likewise of the depth stream, None where that rested.
        state: for the next frame; its depth samples are still missing if depth was handed in.
    """

    depth_m: Tensor | None
    highlights: Tensor | None
    tokens: Tensor
    depth_tokens: Tensor | None
    state: BokehFlowState


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
        self.highlight_head = FullResolutionHead(config, 3, gain=HIGHLIGHT_GAIN) if config.enable_highlights else None
        self.physics = PhysicsBlur(config)
        self.correction = Correction(config) if config.enable_correction else None
        self.motion = MotionCue(config) if config.enable_motion else None
        for block in [*self.depth_blocks, *self.bokeh_blocks]:
            scans: BiGDR = block.scans  # type: ignore[assignment]
            scans.used = config.scans
        if config.dahg_blur == "pixels":
            for block in self.bokeh_blocks:
                block.scans.decay.learn_weight()  # type: ignore[operator,union-attr]

    def forward(
        self, frame: Tensor, lens: LensBatch, state: BokehFlowState | None = None, depth_m: Tensor | None = None
    ) -> tuple[BokehFlowOutput, BokehFlowState]:
        """One frame of a video, or an image.

        Args:
            frame: (B, 3, H, W) all-in-focus sRGB in [0, 1], at least 4x4.
            lens: one lens per sample, on the frame's device.
            state: what the previous frame returned; None for the first. Sizes may change between frames, B may not.
            depth_m: (B, 1, H, W) z-depth in metres, finite and > 0, where it is known; None predicts it.

        Returns:
            The output, and the state for the next frame; it carries gradients, `detach` it to cut them.

        Raises:
            BokehFlowError: a shape, dtype, device, depth or lens that the network cannot work with.
            OpticsError: the frame holds values that are no sRGB image.
        """
        self._check(frame, lens, state, depth_m)
        wide = frame if frame.dtype == torch.float64 else frame.float()
        aperture, outside = self.aperture(lens)
        known = None if depth_m is None else depth_m.to(wide.dtype)
        found = self.predict(wide, aperture, self.mean_blur(lens, state), state, known)
        depth = found.depth_m if known is None else known
        assert depth is not None, "predicted where it was not handed in"
        logits = torch.full_like(wide, -math.inf) if found.highlights is None else found.highlights
        light, clipped = brightened(wide, logits)
        blurred = self.physics(light, depth, lens, wide)
        bokeh, mix, residual = blurred.image, torch.ones_like(depth), torch.zeros_like(wide)
        if self.correction is not None and (known is None or self.config.correct_given):
            seen = Rendered(
                frame=wide, light=light, clipped=clipped, physics=blurred.image, invented=blurred.invented,
                radius_px=blurred.radius_px, given=known is not None,
                largest_px=None if self.physics.fixed is None else self.physics.fixed.max_radius_px,
            )  # fmt: skip
            bokeh, mix, residual = self.correction(seen, found.tokens, found.depth_tokens)
        if not self.training:
            bokeh = bokeh.clamp(0, 1)
        output = BokehFlowOutput(
            bokeh=bokeh.to(frame.dtype),
            depth_m=depth,
            coc_px=blurred.radius_px,
            physics=blurred.image.to(frame.dtype),
            mix=mix.to(frame.dtype),
            residual=residual.to(frame.dtype),
            light=light,
            invented=blurred.invented,
            clipped_share=blurred.clipped_share,
            lens_values_outside=outside,
        )
        return output, replace(found.state, depth_samples_m=sample_depth(depth))

    def fix_shapes(self, lens: LensBatch | None, kernels: Kernels = "auto") -> None:
        """Prepare for frames without a wait: the host then reads nothing from the device, as a CUDA graph needs.

        For inference: with gradients the renderer refuses. The caller promises that the following frames are images and that
        no lens of theirs blurs wider than the widest of these is allowed to.

        Args:
            lens: lenses of the frames to come, checked here; None adapts to each frame again.
            kernels: of the lens renderer, see `FixedShapes`.

        Raises:
            BokehFlowError: a lens cannot focus where it should.
        """
        if lens is None:
            self.physics.fixed = None
            return
        check_focus(lens, self.config.coc_model)
        self.physics.fixed = FixedShapes(max_radius_px=float(radius_limit_px(lens, self.config).max()), kernels=kernels)

    def mean_blur(self, lens: LensBatch, state: BokehFlowState | None) -> Tensor:
        """(B,) mean blur radius, over the largest or in pixels: at the last frame's depth, else of an unseen scene."""
        if state is None:
            share = unseen_mean_radius_share(lens, self.config)
        else:
            share = mean_radius_share(state.depth_samples_m, lens, self.config)
        return share if self.config.dahg_blur == "share" else share * radius_limit_px(lens, self.config)

    def predict(
        self,
        frame: Tensor,
        aperture: Tensor,
        mean_blur: Tensor,
        state: BokehFlowState | None,
        depth_m: Tensor | None = None,
    ) -> Prediction:
        """The streams and their heads: everything that is learned except the correction.

        Args:
            frame: (B, 3, H, W) float32 or float64, any size from 4x4.
            aperture: (B, aperture_dim).
            mean_blur: (B,) see `mean_blur`.
            state: of the previous frame, or None.
            depth_m: (B, 1, H, W) where depth is handed in: the depth stream rests, and its state stays as it was.
        """
        height, width = frame.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        padded = nn.functional.pad(frame, padding, mode="replicate") if any(padding) else frame
        planes = padded.to(self.depth_norm.weight.dtype) * 2 - 1
        depth = bokeh = self.stem(planes)
        samples = frame.new_zeros((len(frame), 3, 0, 0)) if self.motion is None else sample_frame(frame)
        if self.motion is not None and depth_m is None:
            before = samples if state is None else state.frame_samples
            depth = depth + self.motion(samples, before, *depth.shape[1:3])
        deep = 0 if depth_m is not None else len(self.depth_blocks)
        kept: dict[str, list[tuple[Tensor, Tensor]]] = {"depth": [], "bokeh": []}
        for i in range(max(deep, len(self.bokeh_blocks))):
            if i < deep:
                previous = None if state is None else (state.depth_states[i], state.depth_pooled[i])
                depth, *carried = self.depth_blocks[i](depth, previous, aperture, None)
                kept["depth"].append((carried[0], carried[1]))
            if i < len(self.bokeh_blocks):
                previous = None if state is None else (state.bokeh_states[i], state.bokeh_pooled[i])
                bokeh, *carried = self.bokeh_blocks[i](bokeh, previous, aperture, mean_blur)
                kept["bokeh"].append((carried[0], carried[1]))
            every = self.config.fusion_every
            if deep and every and (i + 1) % every == 0 and (i + 1) // every <= len(self.fusions):
                depth, bokeh = self.fusions[(i + 1) // every - 1](depth, bokeh)
        predicted = depth_tokens = None
        if deep:
            depth_tokens = self.depth_norm(depth)
            predicted = bounded_depth_m(self.depth_head(depth_tokens, planes)[..., :height, :width])
        tokens = self.bokeh_norm(bokeh)
        highlights = None
        if self.highlight_head is not None:
            highlights = self.highlight_head(tokens, planes)[..., :height, :width].to(frame.dtype)
        states, pooled = self._depth_memory(kept["depth"], state, len(frame))
        following = BokehFlowState(
            depth_states=states,
            bokeh_states=torch.stack([states for states, _ in kept["bokeh"]]),
            depth_pooled=pooled,
            bokeh_pooled=torch.stack([pooled for _, pooled in kept["bokeh"]]),
            depth_samples_m=frame.new_zeros((len(frame), 1, 0, 0)),
            frame_samples=samples,
        )
        return Prediction(
            depth_m=predicted, highlights=highlights, tokens=tokens, depth_tokens=depth_tokens, state=following
        )

    def _depth_memory(
        self, kept: list[tuple[Tensor, Tensor]], state: BokehFlowState | None, batch: int
    ) -> tuple[Tensor, Tensor]:
        """States and pooled inputs of the depth stream; of one that rested, what they were, or the learned start."""
        if kept:
            return torch.stack([states for states, _ in kept]), torch.stack([pooled for _, pooled in kept])
        if state is not None:
            return state.depth_states, state.depth_pooled
        starts = [block.start.initial.expand(batch, -1, -1, -1, -1) for block in self.depth_blocks]  # type: ignore[union-attr,operator]
        return torch.stack(starts), starts[0].new_zeros((len(starts), batch, self.config.channels))

    def _check(self, frame: Tensor, lens: LensBatch, state: BokehFlowState | None, depth_m: Tensor | None) -> None:
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[0] < 1:
            raise BokehFlowError(f"frame must be (B, 3, H, W) with at least one sample, got {tuple(frame.shape)}")
        if min(frame.shape[-2:]) < STRIDE:
            raise BokehFlowError(f"frame must be at least {STRIDE}x{STRIDE} px, one token, got {tuple(frame.shape)}")
        if not frame.is_floating_point():
            raise BokehFlowError(f"frame must be floating point sRGB in [0, 1], got {frame.dtype}; divide bytes by 255")
        if len(lens) != len(frame):
            raise BokehFlowError(f"one lens per sample is needed: {len(frame)} frames and {len(lens)} lenses")
        for name, device in (("frame", frame.device), ("lens", lens.f_m.device)):
            if device != self.depth_norm.weight.device:
                raise BokehFlowError(
                    f"{name} must be on the network's device, {self.depth_norm.weight.device}, got {device}"
                )
        if depth_m is not None:
            _check_depth(depth_m, frame, values=self.physics.fixed is None)
        if self.physics.fixed is None:  # else every lens was checked before the first frame
            check_focus(lens, self.config.coc_model)
        if state is not None:
            state.check(self.config, len(frame))


def _check_depth(depth_m: Tensor, frame: Tensor, values: bool) -> None:
    wanted = (len(frame), 1, *frame.shape[-2:])
    if depth_m.shape != wanted or not depth_m.is_floating_point() or depth_m.device != frame.device:
        raise BokehFlowError(
            f"depth_m must be floating point {wanted} on {frame.device}, like the frame, got {depth_m.dtype} "
            f"{tuple(depth_m.shape)} on {depth_m.device}"
        )
    if not values:  # reading them would make the host wait
        return
    bad = depth_m.detach()[~(torch.isfinite(depth_m.detach()) & (depth_m.detach() > 0))]
    if len(bad):
        raise BokehFlowError(f"depth_m must be finite and > 0 everywhere, in metres, got {float(bad[0]):g}")


def bounded_depth_m(logits: Tensor) -> Tensor:
    """Any number -> metres in (0.1, 100), in float32 or wider: a sigmoid in log depth, whose slope vanishes nowhere.

    0 gives the geometric mean, 3.2 m.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return NEAR_M * torch.exp(math.log(FAR_M / NEAR_M) * torch.sigmoid(wide))


def _stream(config: BokehFlowConfig, count: int, film: bool) -> list[Block]:
    make = (lambda: ApertureFilm(config)) if film and config.enable_film else None
    return [Block(config, i / max(1, count - 1), make) for i in range(count)]
