"""Measure a network and its baselines on takes, frame by frame with the carried state, all in one run.

PSNR is pooled: the mean squared error over all frames first, decibels last. A lens that blurs nothing leaves frames whose
photograph *is* the frame; their PSNR is infinite, and a mean of decibels would be infinite with it. `psnr_frame_db`, the mean
over frames that papers print, therefore counts each frame as 60 dB at most (rounding to 8 bits alone is 58.9 dB).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.bokehflow import BokehFlow, BokehFlowOutput, LensBatch
from model.bokehflow.config import FAR_M
from model.errors import TrainingDivergedError
from model.evaluation import metrics
from model.evaluation.baselines import lens_render, unchanged
from model.evaluation.eval_clips import EvalClip
from model.evaluation.perceptual import Lpips
from model.evaluation.visualize import row
from pipeline.media.images import Picture
from pipeline.optics import OpticsError

FRAME_CAP_DB = 60.0
NETWORK = "bokehflow"
STATELESS = "bokehflow, state dropped"  # every frame as if it were the first
BASELINES = ("unchanged frame", "lens renderer, true depth", "lens renderer, predicted depth")
_MEANS = ("ssim", "lpips", "temporal", "abs_rel", "delta1", "depth_temporal")


@dataclass
class Tally:
    """Sums over frames of what one method scored; NaN (a depth figure without a valid pixel) is not counted."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        if not math.isnan(value):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def merge(self, other: "Tally") -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.counts[name] if self.counts.get(name) else None

    def scores(self) -> dict[str, float | None]:
        """For JSON: None where nothing was measured; a pooled PSNR of equal pictures is None beside an MSE of 0."""
        pooled = self.mean("mse")
        found: dict[str, float | None] = {
            "psnr_db": None if not pooled else metrics.psnr_of_mse(pooled),
            "psnr_frame_db": self.mean("psnr_frame_db"),
            "mse": pooled,
        }
        return found | {name: self.mean(name) for name in _MEANS if name in self.counts}


@dataclass(kw_only=True)
class ClipResult:
    """One take: a tally per method, and a row of pictures of its middle frame."""

    name: str
    num_frames: int
    tallies: dict[str, Tally]
    pictures: list[Picture]


@torch.no_grad()
def measure_clip(
    net: BokehFlow,
    take: EvalClip,
    *,
    device: torch.device | str,
    autocast: bool = False,
    baselines: Sequence[str] = BASELINES,
    lpips: Lpips | None = None,
    stateless: bool = False,
    max_frames: int = 0,
    safe_point: Callable[[], None] = lambda: None,
) -> ClipResult:
    """Run one take.

    Args:
        net: in evaluation mode, on the device.
        take: what to run on.
        device: where.
        autocast: bf16 autocast.
        baselines: which of BASELINES to measure beside it.
        lpips: on the device, or None.
        stateless: measure the network also without the state of the frame before, at twice its cost.
        max_frames: 0 for all.
        safe_point: called between frames.

    Raises:
        TrainingDivergedError: the network's values are not numbers; the message names take and frame.
    """
    lens = LensBatch.of(take.lens, take.px_per_mm, take.max_radius_px).to(device)
    tallies = {name: Tally() for name in (NETWORK, *([STATELESS] if stateless else []), *baselines)}
    before: dict[str, Tensor] = {}
    depths_before: dict[str, Tensor] = {}
    state, pictures = None, []
    total = min(max_frames, take.num_frames) if max_frames else take.num_frames
    for number, moment in enumerate(take.moments(max_frames)):
        safe_point()
        frame, truth = moment.frame[None].to(device), moment.bokeh[None].to(device)
        depth = None if moment.depth_m is None else moment.depth_m[None].to(device)
        outs: dict[str, BokehFlowOutput] = {}
        try:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                outs[NETWORK], state = net(frame, lens, state)
                if stateless:
                    outs[STATELESS], _ = net(frame, lens)
        except OpticsError as error:
            raise TrainingDivergedError(
                f"{take.name}, frame {number}: the network's prediction cannot be rendered ({error})"
            ) from None
        for out in outs.values():
            if not bool(torch.isfinite(out.bokeh).all() and torch.isfinite(out.depth_m).all()):
                raise TrainingDivergedError(
                    f"{take.name}, frame {number}: the network's picture or depth holds NaN or Inf"
                )
        answers = {name: out.bokeh.float().clamp(0, 1) for name, out in outs.items()}
        answers |= dict(_answers(take, frame, depth, outs[NETWORK].depth_m, baselines))
        for name, picture in answers.items():
            _score(tallies[name], picture, truth, lpips)
            if number:
                pair = (torch.stack([before[name], picture], 1), torch.stack([before["truth"], truth], 1))
                tallies[name].add("temporal", float(metrics.temporal_error(*pair)))
        before = {**answers, "truth": truth}
        if depth is not None:
            depths = {name: out.depth_m for name, out in outs.items()} | {"truth": depth}
            for name in outs:
                _score_depth(tallies[name], name, depths, depths_before)
            depths_before = depths
        if number == total // 2:
            pictures = row(frame[0], outs[NETWORK].depth_m[0], answers[NETWORK][0], truth[0])
    return ClipResult(name=take.name, num_frames=total, tallies=tallies, pictures=pictures)


def _answers(
    take: EvalClip, frame: Tensor, depth: Tensor | None, predicted: Tensor, baselines: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    limit = math.inf if take.max_radius_px is None else take.max_radius_px
    for name in baselines:
        if name == "unchanged frame":
            yield name, unchanged(frame)
        elif name == "lens renderer, predicted depth":
            yield name, lens_render(frame, predicted, take.lens, take.px_per_mm, limit)
        elif depth is not None:
            yield name, lens_render(frame, depth, take.lens, take.px_per_mm, limit)


def _score(tally: Tally, picture: Tensor, truth: Tensor, lpips: Lpips | None) -> None:
    error = float(metrics.mse(picture, truth))
    tally.add("mse", error)
    tally.add("psnr_frame_db", min(FRAME_CAP_DB, metrics.psnr_of_mse(error)))
    tally.add("ssim", float(metrics.ssim(picture, truth)))
    if lpips is not None:
        tally.add("lpips", float(lpips(picture, truth)))


def _score_depth(tally: Tally, name: str, depths: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    predicted, truth = depths[name], depths["truth"]
    valid = truth <= FAR_M  # sky is stored as 1000 m, beyond what the network can say
    tally.add("abs_rel", float(metrics.abs_rel(predicted, truth, valid)))
    tally.add("delta1", float(metrics.delta1(predicted, truth, valid)))
    if before:
        ours, true = (torch.stack([before[key], depths[key]], 1) for key in (name, "truth"))
        both = torch.stack([before["truth"] <= FAR_M, valid], 1)
        tally.add("depth_temporal", float(metrics.depth_temporal_error(ours, true, both)))


def pool(results: Sequence[ClipResult]) -> dict[str, dict[str, float | None]]:
    """Scores per method over all frames of all takes."""
    totals: dict[str, Tally] = {}
    for result in results:
        for name, tally in result.tallies.items():
            totals.setdefault(name, Tally()).merge(tally)
    return {name: tally.scores() for name, tally in totals.items()}
