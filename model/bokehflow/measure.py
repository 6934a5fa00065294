"""Measure a BokehFlow and its baselines on clips, frame by frame with the carried state, all in one run."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from model.bokehflow.config import FAR_M
from model.bokehflow.lens import LensBatch
from model.bokehflow.network import BokehFlow, BokehFlowOutput
from model.errors import TrainingDivergedError
from model.evaluation import metrics
from model.evaluation.baselines import lens_render, unchanged
from model.evaluation.eval_clips import EvalClip
from model.evaluation.perceptual import Lpips
from model.evaluation.scores import ClipResult, Tally
from model.evaluation.visualize import colour_depth
from pipeline.media.convert import tensor_to_image
from pipeline.media.images import Picture
from pipeline.optics import OpticsError

NETWORK = "bokehflow"
STATELESS = "bokehflow, state dropped"  # every frame as if it were the first
BASELINES = ("unchanged frame", "lens renderer, true depth", "lens renderer, predicted depth")
SHEET_COLUMNS = ("frame", "depth", "bokeh", "truth")


@torch.no_grad()
def measure_clip(
    net: BokehFlow,
    clip: EvalClip,
    *,
    device: torch.device | str,
    autocast: bool = False,
    baselines: Sequence[str] = BASELINES,
    lpips: Lpips | None = None,
    stateless: bool = False,
    max_frames: int = 0,
    safe_point: Callable[[], None] = lambda: None,
) -> ClipResult:
    """Run one clip.

    Args:
        net: in evaluation mode, on the device.
        clip: what to run on.
        device: where.
        autocast: bf16 autocast.
        baselines: which of BASELINES to measure beside it.
        lpips: on the device, or None.
        stateless: measure the network also without the state of the frame before, at twice its cost.
        max_frames: 0 for all.
        safe_point: called between frames.

    Raises:
        TrainingDivergedError: the network's values are not numbers; the message names clip and frame.
    """
    lens = LensBatch.of(clip.lens, clip.px_per_mm, clip.max_radius_px).to(device)
    tallies = {name: Tally() for name in (NETWORK, *([STATELESS] if stateless else []), *baselines)}
    before: dict[str, Tensor] = {}
    depths_before: dict[str, Tensor] = {}
    state, images = None, []
    total = min(max_frames, clip.num_frames) if max_frames else clip.num_frames
    for number, sample in enumerate(clip.frames(max_frames)):
        safe_point()
        frame, truth = sample.frame[None].to(device), sample.bokeh[None].to(device)
        depth = None if sample.depth_m is None else sample.depth_m[None].to(device)
        outs: dict[str, BokehFlowOutput] = {}
        try:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                outs[NETWORK], state = net(frame, lens, state)
                if stateless:
                    outs[STATELESS], _ = net(frame, lens)
        except OpticsError as error:
            raise TrainingDivergedError(
                f"{clip.name}, frame {number}: the network's prediction cannot be rendered ({error})"
            ) from None
        for out in outs.values():
            if not bool(torch.isfinite(out.bokeh).all() and torch.isfinite(out.depth_m).all()):
                raise TrainingDivergedError(
                    f"{clip.name}, frame {number}: the network's image or depth holds NaN or Inf"
                )
        answers = {name: out.bokeh.float().clamp(0, 1) for name, out in outs.items()}
        answers |= dict(_answers(clip, frame, depth, outs[NETWORK].depth_m, baselines))
        for name, image in answers.items():
            tallies[name].add_image(image, truth, lpips)
            if number:
                pair = (torch.stack([before[name], image], 1), torch.stack([before["truth"], truth], 1))
                tallies[name].add("temporal", float(metrics.temporal_error(*pair)))
        before = {**answers, "truth": truth}
        if depth is not None:
            depths = {name: out.depth_m for name, out in outs.items()} | {"truth": depth}
            for name in outs:
                _score_depth(tallies[name], name, depths, depths_before)
            depths_before = depths
        if number == total // 2:
            images = sheet_row(frame[0], outs[NETWORK].depth_m[0], answers[NETWORK][0], truth[0])
    return ClipResult(name=clip.name, num_frames=total, tallies=tallies, images=images)


def _answers(
    clip: EvalClip, frame: Tensor, depth: Tensor | None, predicted: Tensor, baselines: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    limit = math.inf if clip.max_radius_px is None else clip.max_radius_px
    for name in baselines:
        if name == "unchanged frame":
            yield name, unchanged(frame)
        elif name == "lens renderer, predicted depth":
            yield name, lens_render(frame, predicted, clip.lens, clip.px_per_mm, limit)
        elif depth is not None:
            yield name, lens_render(frame, depth, clip.lens, clip.px_per_mm, limit)


def _score_depth(tally: Tally, name: str, depths: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    predicted, truth = depths[name], depths["truth"]
    valid = truth <= FAR_M  # sky is stored as 1000 m, beyond what the network can say
    tally.add("abs_rel", float(metrics.abs_rel(predicted, truth, valid)))
    tally.add("delta1", float(metrics.delta1(predicted, truth, valid)))
    if before:
        ours, true = (torch.stack([before[key], depths[key]], 1) for key in (name, "truth"))
        both = torch.stack([before["truth"] <= FAR_M, valid], 1)
        tally.add("depth_temporal", float(metrics.depth_temporal_error(ours, true, both)))


def sheet_row(frame: Tensor, depth_m: Tensor, bokeh: Tensor, truth: Tensor) -> list[Picture]:
    """One row of a sheet, under SHEET_COLUMNS, from (3, H, W) images and (1, H, W) metres."""
    depth = colour_depth(depth_m[0].detach().float().cpu().numpy())
    return [tensor_to_image(frame), depth, tensor_to_image(bokeh), tensor_to_image(truth)]
