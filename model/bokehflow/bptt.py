"""One micro-batch through the network: truncated backpropagation over stretches of a clip, with the state carried on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.bokehflow import BokehFlow, BokehFlowError, BokehFlowState, LensBatch
from model.bokehflow.losses import BokehLoss
from model.data.samples import ClipBatch
from model.errors import ADVICE, TrainingDivergedError
from pipeline.errors import InputError
from pipeline.optics import OpticsError


@dataclass
class Measured:
    """Weighted sums of what was run so far, as numbers: means, once the weights add up to 1."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float], weight: float) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + weight * value


def lenses_of(batch: ClipBatch) -> LensBatch:
    """The batch's lenses; where photographs do not saturate, the network's own limit holds."""
    limits = None if bool(batch.max_radius_px.isinf().any()) else batch.max_radius_px
    return LensBatch(
        f_m=batch.f_m,
        f_number=batch.f_number,
        focus_m=batch.focus_m,
        px_per_mm=batch.px_per_mm,
        max_radius_px=limits,
    )


def check_batch(batch: ClipBatch) -> None:
    """InputError, with the sample's name, when a picture or a depth is not a number."""
    for name in ("frames", "bokeh", "depth_m"):
        values: Tensor | None = getattr(batch, name)
        if values is None or bool(torch.isfinite(values).all()):
            continue
        bad = [sample for sample, one in zip(batch.names, values, strict=True) if not bool(torch.isfinite(one).all())]
        raise InputError(f"{name} of {'; '.join(bad)} holds NaN or Inf")


def backpropagate(
    net: BokehFlow, loss: BokehLoss, batch: ClipBatch, *, step: int, backprop_frames: int, weight: float
) -> Measured:
    """Add a micro-batch's gradients, times `weight`, to the parameters'.

    The clip is cut into stretches of `backprop_frames`. Within one, gradients flow through time; between two, only the
    state goes on. A stretch counts by its number of frames.

    Args:
        net: in training mode.
        loss: what to minimise.
        batch: on the network's device.
        step: for messages.
        backprop_frames: T, >= 1.
        weight: share of this micro-batch in the step.

    Returns:
        Terms and total as numbers, times `weight`.

    Raises:
        InputError: the batch holds NaN or Inf.
        TrainingDivergedError: a term does; the message names step, term and samples.
    """
    check_batch(batch)
    lens = lenses_of(batch)
    measured = Measured()
    state: BokehFlowState | None = None
    previous: tuple[Tensor, Tensor] | None = None
    for start in range(0, batch.num_frames, backprop_frames):
        part = slice(start, min(start + backprop_frames, batch.num_frames))
        share = weight * (part.stop - part.start) / batch.num_frames
        bokeh, depth, facts, state = _forward(net, batch, lens, part, state, step)
        truth_depth = None if batch.depth_m is None else batch.depth_m[:, part]
        terms = loss(bokeh, batch.bokeh[:, part], depth, truth_depth, previous)
        names = [*terms.values, "loss", *facts]
        numbers = torch.stack([*terms.values.values(), terms.total, *facts.values()]).detach().double().tolist()
        found = dict(zip(names, numbers, strict=True))
        bad = [name for name in (*terms.values, "loss") if not abs(found[name]) < float("inf")]
        if bad:
            raise TrainingDivergedError(_message(step, f"the loss term {bad[0]!r} is {found[bad[0]]}", batch))
        (terms.total * share).backward()  # type: ignore[no-untyped-call]
        measured.add(found, share)
        previous = (bokeh[:, -1].detach(), batch.bokeh[:, part.stop - 1])
        state = state.detach()
    return measured


def _forward(
    net: BokehFlow, batch: ClipBatch, lens: LensBatch, part: slice, state: BokehFlowState | None, step: int
) -> tuple[Tensor, Tensor, dict[str, Tensor], BokehFlowState]:
    """Pictures (B, T, 3, H, W), depth (B, T, 1, H, W), facts for the log, and the state after the stretch."""
    pictures, depths, clipped = [], [], []
    outside = torch.zeros((), device=batch.frames.device)
    for t in range(part.start, part.stop):
        try:
            out, state = net(batch.frames[:, t], lens, state)
        except (OpticsError, BokehFlowError) as error:  # frames and lenses were checked: the network's own values
            raise TrainingDivergedError(
                _message(step, f"the network's prediction cannot be rendered ({error})", batch)
            ) from None
        pictures.append(out.bokeh)
        depths.append(out.depth_m)
        clipped.append(out.clipped_share.mean())
        outside = outside + out.lens_values_outside
    assert state is not None, "a stretch has at least one frame"
    facts = {
        "clipped_share": torch.stack(clipped).mean(),
        "lens_values_outside": outside / len(pictures),
        "state_norm": state.largest_norm(),
    }
    return torch.stack(pictures, 1), torch.stack(depths, 1), facts, state


def _message(step: int, what: str, batch: ClipBatch) -> str:
    return f"step {step}: {what}; samples: {'; '.join(batch.names)}. {ADVICE}"
