"""LIFT: encoder, temporal transformer, flow, coarse synthesis, refinement. What goes in is any layout of frames.

Frames are known by their offset in time from the target, never by their place in a list: the published layout has eight before
the target and six after it, a clip's end has fewer, and an absent frame is masked. The two that enclose the target are its
neighbours; only they are warped. B samples, N frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model.lift.choice import Choice
from model.lift.config import PAD_TO, LiftConfig, LiftError
from model.lift.encoder import Encoder, Features, position_code
from model.lift.flow import FlowNet
from model.lift.prior import flow_prior
from model.lift.synthesis import ClassicalMix, CoarseSynthesis, Refinement
from model.lift.temporal import TemporalTransformer

_T_TOLERANCE = 1e-3  # between t and what the offsets of the neighbours say


@dataclass(frozen=True)
class LiftOutput:
    """A picture and how it was made.

    Args:
        image: (B, 3, H, W) in [0, 1].
        raw: the same before it was clamped, for losses.
        coarse, blend: (B, 3, h, w) at 1/4 of the padded size, after and before ContextNet.
        alpha: (B, N, h/8, w/8) weights of the frames, in the order they were given in; they sum to 1, absent ones have 0.
        flows_s4: (B, 4, h, w) pixels at 1/4 size: from the target to the neighbour before (x, y) and after (x, y).
        occlusion_s4: (B, 2, h, w) in (0, 1): 1 where the neighbour before or after shows what the target shows.
        occlusion_logits_s4: the same before the sigmoid.
        flows_s8: (B, 4, h/2, w/2) pixels at 1/8 size.
        warped_s4: the two neighbours warped at 1/4 size.
        height, width: of the target; the maps above are of the padded one.
    """

    image: Tensor
    raw: Tensor
    coarse: Tensor
    blend: Tensor
    alpha: Tensor
    flows_s4: Tensor
    occlusion_s4: Tensor
    occlusion_logits_s4: Tensor
    flows_s8: Tensor
    warped_s4: tuple[Tensor, Tensor]
    height: int
    width: int


def neighbours(offsets: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Places (B,), twice, of the frames next to the target, before and after it.

    Raises:
        LiftError: there is none on one side, or a frame is the target itself.
    """
    if bool((present & (offsets == 0)).any()):
        raise LiftError("the target is among the frames: an offset is 0")
    early, late = present & (offsets < 0), present & (offsets > 0)
    if not bool((early.any(1) & late.any(1)).all()):
        raise LiftError("a target needs a present frame on either side of it")
    before = offsets.masked_fill(~early, float("-inf")).argmax(1)
    after = offsets.masked_fill(~late, float("inf")).argmin(1)
    return before, after


class LiftNet(nn.Module):
    """See the module's heading.

    Args:
        config: sizes and switches.
    """

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.temporal = TemporalTransformer(config) if config.use_context else None
        self.flow = FlowNet(config)
        self.synthesis = CoarseSynthesis(config)
        self.refinement = Refinement(config)
        self.mix = ClassicalMix(config) if config.prior == "classical" else None
        self.choice = Choice(config) if config.prior == "proposals" else None

    def encode(self, frame: Tensor, *, neighbour: bool = True) -> Features:
        """The features of one frame of every sample.

        Args:
            frame: (B, 3, H, W) sRGB in [0, 1].
            neighbour: keep what only a neighbour of a target needs (s1, s4, s8); `drop` forgets it later.

        Raises:
            LiftError: not such a tensor.
        """
        if frame.ndim != 4 or frame.shape[1] != 3:
            raise LiftError(f"a frame must be (B, 3, H, W), got {tuple(frame.shape)}")
        height, width = frame.shape[-2:]
        padded = pad(frame)
        s1, s4, s8, s16 = self.encoder(padded)
        found = Features(frame=padded, s1=s1, s4=s4, s8=s8, s16=s16, height=height, width=width)
        return found if neighbour else drop(found)

    def forward(self, frames: Tensor, offsets: Tensor, present: Tensor, t: Tensor) -> LiftOutput:
        """Make the targets.

        Args:
            frames: (B, N, 3, H, W) sRGB in [0, 1], in any order; what absent ones hold does not matter.
            offsets: (B, N) instants relative to the target, in the unit of the training layouts.
            present: (B, N) bool.
            t: (B,) the target's instant between its neighbours, 0 at the one before and 1 at the one after.

        Raises:
            LiftError: shapes that do not go together, no neighbour on a side, or a t that was not trained or that the
                offsets contradict.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise LiftError(f"frames must be (B, N, 3, H, W), got {tuple(frames.shape)}")
        b, n = frames.shape[:2]
        at = self._check((b, n), offsets, present, t)
        everything = self.encode(frames.flatten(0, 1))
        rows = torch.arange(b, device=frames.device)
        pair = tuple(_picked(everything, rows * n + place) for place in at)
        s16 = everything.s16.view(b, n, *everything.s16.shape[1:])
        return self._make(pair[0], pair[1], s16, offsets, present, t)

    def forward_features(self, features: Sequence[Features], offsets: Tensor, present: Tensor, t: Tensor) -> LiftOutput:
        """As `forward`, from encoded frames: N `Features` of B samples each. Those of the neighbours must be whole."""
        if not features:
            raise LiftError("a target needs a present frame on either side of it, got no frame")
        b, n = features[0].s16.shape[0], len(features)
        at = self._check((b, n), offsets, present, t)
        pair = []
        for place in at:
            one = features[int(place[0])]
            if bool((place == place[0]).all()):
                pair.append(one)
            else:
                pair.append(_joined([_picked(features[int(p)], torch.tensor([row])) for row, p in enumerate(place)]))
        if any(item.s1 is None for item in pair):
            raise LiftError("a neighbour of the target was encoded with neighbour=False")
        return self._make(pair[0], pair[1], torch.stack([f.s16 for f in features], 1), offsets, present, t)

    def _check(self, shape: tuple[int, int], offsets: Tensor, present: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if offsets.shape != shape or present.shape != shape or t.shape != shape[:1] or present.dtype != torch.bool:
            raise LiftError(
                f"offsets and present (bool) must be {shape} and t {shape[:1]}, got {tuple(offsets.shape)}, "
                f"{tuple(present.shape)} ({present.dtype}) and {tuple(t.shape)}"
            )
        low, high = self.config.t_min - 1e-6, self.config.t_max + 1e-6
        if not bool(((t >= low) & (t <= high)).all()):
            raise LiftError(f"t must be in [{self.config.t_min}, {self.config.t_max}], as trained, got {_said(t)}")
        before, after = neighbours(offsets, present)
        first, second = (offsets.gather(1, place[:, None])[:, 0] for place in (before, after))
        said = first / (first - second)
        if not bool(((said - t).abs() < _T_TOLERANCE).all()):
            raise LiftError(f"t contradicts the offsets of the neighbours: {_said(t)} against {_said(said)}")
        return before, after

    def _make(
        self, before: Features, after: Features, s16: Tensor, offsets: Tensor, present: Tensor, t: Tensor
    ) -> LiftOutput:
        context, alpha = self._context(s16, offsets, present)
        pictures = (before.frame, after.frame)
        assert before.s1 is not None and before.s4 is not None and before.s8 is not None, "checked by the callers"
        assert after.s1 is not None and after.s4 is not None and after.s8 is not None, "checked by the callers"
        known = None
        if self.config.prior != "none":
            known = flow_prior(*pictures, t, picture=self.mix is not None, proposals=self.choice is not None)
        prior = None if known is None else known.flows
        at8, at4 = self.flow(pictures, (before.s8, after.s8), (before.s4, after.s4), context, t, prior)
        flows, logits = at4[:, :4], at4[:, 4:]
        visible = logits.sigmoid()
        coarse, mixed, warped = self.synthesis(pictures, flows, visible, context)
        details = (
            self.refinement.detail(before.s1, before.s4),
            self.refinement.detail(after.s1, after.s4),
        )
        height, width = before.height, before.width
        full = self.flow.enlarged(flows, 4, 1, prior)
        raw, frames = self.refinement(pictures, details, full, visible, coarse, mixed)
        if self.mix is not None and known is not None and known.picture is not None:
            raw = self.mix(raw, known.picture, visible, frames)
        if self.choice is not None and known is not None:
            raw = self.choice(raw, known, visible, context)
        raw = raw[..., :height, :width]
        return LiftOutput(
            image=raw.clamp(0, 1), raw=raw, coarse=coarse, blend=mixed, alpha=alpha, flows_s4=flows,
            occlusion_s4=visible, occlusion_logits_s4=logits, flows_s8=at8[:, :4], warped_s4=warped,
            height=height, width=width,
        )  # fmt: skip

    def _context(self, s16: Tensor, offsets: Tensor, present: Tensor) -> tuple[Tensor | None, Tensor]:
        """F_ctx and alpha, with the frames put into the order of time and alpha back into the order given."""
        if self.temporal is None:
            return None, s16.new_zeros((*present.shape, s16.shape[-2] // 2, s16.shape[-1] // 2))
        order = offsets.masked_fill(~present, float("inf")).argsort(1)
        rows = torch.arange(len(order), device=order.device)[:, None]
        code = position_code(offsets, s16.shape[2]).to(s16.dtype)
        coded = (s16 + code[..., None, None])[rows, order]
        context, alpha = self.temporal(coded, present[rows, order])
        return context, torch.zeros_like(alpha).scatter(1, order[..., None, None].expand_as(alpha), alpha)


def _said(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())


def pad(frame: Tensor) -> Tensor:
    """To multiples of 32, below and to the right, by repeating the edge."""
    height, width = frame.shape[-2:]
    below, right = -height % PAD_TO, -width % PAD_TO
    return functional.pad(frame, (0, right, 0, below), mode="replicate") if below or right else frame


def drop(features: Features) -> Features:
    """Without what only a neighbour needs."""
    return Features(
        frame=features.frame[:, :, :0, :0], s1=None, s4=None, s8=None, s16=features.s16,
        height=features.height, width=features.width,
    )  # fmt: skip


def _picked(features: Features, rows: Tensor) -> Features:
    s1, s4, s8 = (None if tap is None else tap[rows] for tap in (features.s1, features.s4, features.s8))
    return Features(
        frame=features.frame[rows], s1=s1, s4=s4, s8=s8, s16=features.s16[rows],
        height=features.height, width=features.width,
    )  # fmt: skip


def _joined(parts: Sequence[Features]) -> Features:
    if any(part.s1 is None for part in parts):
        raise LiftError("a neighbour of the target was encoded with neighbour=False")
    s1, s4, s8 = (torch.cat([getattr(part, name) for part in parts]) for name in ("s1", "s4", "s8"))
    return Features(
        frame=torch.cat([part.frame for part in parts]), s1=s1, s4=s4, s8=s8,
        s16=torch.cat([part.s16 for part in parts]), height=parts[0].height, width=parts[0].width,
    )  # fmt: skip
