"""One micro-batch through the network: truncated backpropagation over segments of a clip, with the state carried on."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.bokehflow.config import BokehFlowError
from model.bokehflow.lens import LensBatch
from model.bokehflow.losses import BokehLoss
from model.bokehflow.network import BokehFlow, BokehFlowOutput
from model.bokehflow.temporal import BokehFlowState
from model.data.samples import ClipBatch
from model.training.task import Loss, diverged, measured_values
from pipeline.errors import InputError
from pipeline.optics import OpticsError


def lenses_of(batch: ClipBatch, frame: int = 0) -> LensBatch:
    """The batch's lenses at a frame of its clips; where photographs do not saturate, the network's own limit holds."""
    limits = None if bool(batch.max_radius_px.isinf().any()) else batch.max_radius_px
    return LensBatch(
        f_m=batch.f_m,
        f_number=batch.f_number,
        focus_m=batch.focus_m[:, frame],
        px_per_mm=batch.px_per_mm,
        max_radius_px=limits,
    )


def check_batch(batch: ClipBatch) -> None:
    """InputError, with the sample's name, when an image or a depth is not a number."""
    for name in ("frames", "bokeh", "depth_m"):
        values: Tensor | None = getattr(batch, name)
        if values is None or bool(torch.isfinite(values).all()):
            continue
        bad = [sample for sample, one in zip(batch.names, values, strict=True) if not bool(torch.isfinite(one).all())]
        raise InputError(f"{name} of {'; '.join(bad)} holds NaN or Inf")


def clip_losses(
    net: BokehFlow, loss: BokehLoss, batch: ClipBatch, *, step: int, backprop_frames: int, given: bool = False
) -> Iterator[Loss]:
    """The losses of a micro-batch, each to be followed backwards before the next is asked for.

    The clip is cut into segments of `backprop_frames`. Within one, gradients flow through time; between two, only the
    state goes on. A segment counts by its number of frames.

    Args:
        net: in training mode.
        loss: what to minimise.
        batch: on the network's device.
        step: for messages.
        backprop_frames: T, >= 1.
        given: hand the true depth in, which the batch must have.

    Raises:
        InputError: the batch holds NaN or Inf.
        TrainingDivergedError: a term does; the message names step, term and samples.
    """
    check_batch(batch)
    lenses = [lenses_of(batch, frame) for frame in range(batch.num_frames)]
    state: BokehFlowState | None = None
    previous: tuple[Tensor, Tensor] | None = None
    for start in range(0, batch.num_frames, backprop_frames):
        part = slice(start, min(start + backprop_frames, batch.num_frames))
        out, facts, state = _forward(net, batch, lenses, part, state, step, given)
        bokeh = out["bokeh"]
        truth_depth = None if batch.depth_m is None else batch.depth_m[:, part]
        depth = None if given else out["depth_m"]
        terms = loss(bokeh, batch.bokeh[:, part], depth, truth_depth, previous, out["invented"])
        values = measured_values({**terms.values, "loss": terms.total}, step=step, names=batch.names, facts=facts)
        yield Loss(total=terms.total, values=values, share=(part.stop - part.start, batch.num_frames))
        previous = (bokeh[:, -1].detach(), batch.bokeh[:, part.stop - 1])
        state = state.detach()


def _forward(
    net: BokehFlow,
    batch: ClipBatch,
    lenses: Sequence[LensBatch],
    part: slice,
    state: BokehFlowState | None,
    step: int,
    given: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor], BokehFlowState]:
    """Outputs of a segment by name, (B, T, ...) each, facts for the log, and the state after the segment."""
    outs: list[BokehFlowOutput] = []
    for t in range(part.start, part.stop):
        depth = batch.depth_m[:, t] if given and batch.depth_m is not None else None
        try:
            out, state = net(batch.frames[:, t], lenses[t], state, depth)
        except (OpticsError, BokehFlowError) as error:  # frames and lenses were checked: the network's own values
            raise diverged(step, f"the network's prediction cannot be rendered ({error})", batch.names) from None
        outs.append(out)
    assert state is not None, "a segment has at least one frame"
    facts = {
        "clipped_share": torch.stack([out.clipped_share.mean() for out in outs]).mean(),
        "lens_values_outside": torch.stack([out.lens_values_outside for out in outs]).float().mean(),
        "state_norm": state.largest_norm(),
        "mix": torch.stack([out.mix.detach().mean() for out in outs]).mean(),
        "brightening": torch.stack([out.light.detach().amax() for out in outs]).mean(),
    }
    stacked = {name: torch.stack([getattr(out, name) for out in outs], 1) for name in ("bokeh", "depth_m", "invented")}
    return stacked, facts, state
