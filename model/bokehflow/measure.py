"""Measure a BokehFlow and its baselines on clips, frame by frame with the carried state, all in one run."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from model.bokehflow.config import FAR_M
from model.bokehflow.lens import LensBatch
from model.bokehflow.network import BokehFlow, BokehFlowOutput
from model.bokehflow.temporal import BokehFlowState
from model.errors import TrainingDivergedError
from model.evaluation import metrics
from model.evaluation.baselines import BlindDepth, lens_render, unchanged
from model.evaluation.distances import Distance
from model.evaluation.eval_clips import EvalClip
from model.evaluation.regions import regions_of
from model.evaluation.scores import ClipResult, Tally
from model.evaluation.visualize import colour_depth
from pipeline.media.convert import tensor_to_image
from pipeline.media.images import Picture
from pipeline.optics import Lens, OpticsError, defocus_px

NETWORK = "bokehflow"
TRUE_DEPTH = "bokehflow, true depth"  # handed in
STATELESS = "bokehflow, state dropped"  # every frame as if it were the first
BASELINES = ("unchanged frame", "lens renderer, true depth", "lens renderer, predicted depth")
# What knows nothing of the picture: depth from the training split alone; see `BlindDepth`.
BLIND = {
    "lens renderer, one depth": "constant",
    "lens renderer, depth by row": "rows",
    "lens renderer, mean depth map": "map",
}
HALF_MIX = "half frame, half that"
NOISE = "the truth's own noise"
SHEET_COLUMNS = ("frame", "depth", "bokeh", "truth")


@torch.no_grad()
def measure_clip(
    net: BokehFlow,
    clip: EvalClip,
    *,
    device: torch.device | str,
    autocast: bool = False,
    baselines: Sequence[str] = BASELINES,
    blind: BlindDepth | None = None,
    given: bool = True,
    predict: bool = True,
    distances: Mapping[str, Distance] = MappingProxyType({}),
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
        blind: depth that knows nothing of the picture, rendered as further baselines; None leaves them out.
        given: measure the network also with the true depth handed in, where there is one.
        predict: measure it with its own depth.
        distances: learned ones to measure too, by the name of the figure, on the device.
        stateless: measure the network also without the state of the frame before, at twice its cost.
        max_frames: 0 for all.
        safe_point: called between frames.

    Raises:
        TrainingDivergedError: the network's values are not numbers; the message names clip and frame.
    """
    tallies: dict[str, Tally] = {name: Tally() for name in baselines}  # one that cannot be measured here stays empty
    before: dict[str, Tensor] = {}
    depths_before: dict[str, Tensor] = {}
    states: dict[str, BokehFlowState | None] = {}
    images: list[Picture] = []
    total = min(max_frames, clip.num_frames) if max_frames else clip.num_frames
    for number, sample in enumerate(clip.frames(max_frames)):
        safe_point()
        lens = LensBatch.of(sample.lens, clip.px_per_mm, clip.max_radius_px).to(device)
        frame, truth = sample.frame[None].to(device), sample.bokeh[None].to(device)
        depth = None if sample.depth_m is None else sample.depth_m[None].to(device)
        wanted = [NETWORK] if predict or depth is None else []
        wanted += [TRUE_DEPTH] if given and depth is not None else []
        outs: dict[str, BokehFlowOutput] = {}
        try:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                for name in wanted:
                    known = depth if name == TRUE_DEPTH else None
                    outs[name], states[name] = net(frame, lens, states.get(name), known)
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
        predicted = outs[NETWORK].depth_m if NETWORK in outs else None
        answers |= dict(_answers(clip, sample.lens, frame, depth, predicted, baselines, blind))
        regions = {} if depth is None else _regions(clip, sample.lens, frame, depth)
        for name, image in answers.items():
            tally = tallies.setdefault(name, Tally())
            _score_image(tally, image, truth, regions, distances)
            if number:
                pair = (torch.stack([before[name], image], 1), torch.stack([before["truth"], truth], 1))
                tally.add("temporal", float(metrics.temporal_error(*pair)))
        if clip.noise_db is not None and blind is not None:
            tallies.setdefault(NOISE, Tally()).add("mse", 10 ** (-clip.noise_db / 10))
        before = {**answers, "truth": truth}
        if depth is not None:
            depths = {name: out.depth_m for name, out in outs.items() if name != TRUE_DEPTH} | {"truth": depth}
            for name in [name for name in depths if name != "truth"]:
                _score_depth(tallies[name], name, depths, depths_before)
            depths_before = depths
        if number == total // 2:
            shown = NETWORK if NETWORK in outs else TRUE_DEPTH
            images = sheet_row(frame[0], outs[shown].depth_m[0], answers[shown][0], truth[0])
    return ClipResult(name=clip.name, num_frames=total, tallies=tallies, images=images, group=clip.group)


def _answers(
    clip: EvalClip,
    lens: Lens,
    frame: Tensor,
    depth: Tensor | None,
    predicted: Tensor | None,
    baselines: Sequence[str],
    blind: BlindDepth | None,
) -> Iterator[tuple[str, Tensor]]:
    limit = math.inf if clip.max_radius_px is None else clip.max_radius_px

    def rendered(depth_m: Tensor) -> Tensor:
        return lens_render(frame, depth_m, lens, clip.px_per_mm, limit)

    for name in baselines:
        if name == BASELINES[0]:
            yield name, unchanged(frame)
        elif name == BASELINES[1] and depth is not None:
            yield name, rendered(depth)
        elif name == BASELINES[2] and predicted is not None:
            yield name, rendered(predicted)
    if blind is None:
        return
    for name, kind in BLIND.items():
        image = rendered(blind.depth_m(kind, frame))
        yield name, image
    yield HALF_MIX, (frame + image) / 2


def _regions(clip: EvalClip, lens: Lens, frame: Tensor, depth: Tensor) -> dict[str, Tensor]:
    radius = defocus_px(depth[0].float(), lens, clip.px_per_mm)
    limit = math.inf if clip.max_radius_px is None else clip.max_radius_px
    return regions_of(frame[0].float(), radius.clamp(-limit, limit))


def _score_image(
    tally: Tally, image: Tensor, truth: Tensor, regions: dict[str, Tensor], distances: Mapping[str, Distance]
) -> None:
    """Figures of a picture, and of its regions: squared errors in all of them, the others in the two that matter."""
    tally.add_image(image, truth, distances)
    squares = (image.double() - truth.double()).square().mean(1)
    for name, region in regions.items():
        tally.add_region(name, float(squares[region].sum()), int(region.sum()))
    shown = [name for name in ("band", "highlights") if name in regions and bool(regions[name].any())]
    windows = metrics.ssim_map(image, truth) if shown else None
    for name in shown:
        region = regions[name]
        if windows is not None:
            tally.add(f"ssim_{name}", metrics.mean_in(windows, region))
        for kind, distance in distances.items():  # of the picture that is wrong inside the region alone
            tally.add(f"{kind}_{name}", distance(torch.where(region, image, truth), truth))


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
