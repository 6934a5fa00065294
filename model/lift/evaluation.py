"""`python -m model.evaluate` for LIFT: protocols, figures by the field's conventions, and the baselines in the same run.

The baselines are the interpolation engines of the pipeline: mean of the neighbours, nearest, DIS-flow warping, and RIFE where
its weights are given. Pictures are rounded to 8 bits before they are measured; there is no test-time augmentation.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from model.evaluation import metrics
from model.evaluation.distances import Distance, load_distances
from model.evaluation.scores import (
    FRAME_CAP_DB,
    ClipResult,
    Evaluation,
    EvaluationRequest,
    NetworkPage,
    Tally,
    gains,
    pool,
)
from model.evaluation.visualize import SHEET_ROWS
from model.lift.config import LiftConfig
from model.lift.losses import sampled
from model.lift.measure import rounded, run_target
from model.lift.network import LiftNet, LiftOutput
from model.lift.pictures import SHEET_COLUMNS, sheet_row
from model.lift.protocols import PROTOCOLS, targets
from model.lift.samples import LiftSample
from model.lift.scores import edge_sharpness, end_point_error, interpolation_error, ssim_volume
from model.lift.targets import Target, by_clip, spread
from model.training.network_file import Loaded
from pipeline.engines import engines_of, load_engine
from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.errors import UsageError
from pipeline.measures import psnr_of_mse
from pipeline.media.convert import tensor_to_image

NETWORK = "lift"
COLUMNS = (
    "psnr_db", "psnr_frame_db", "ssim_volume", "ie", "lpips", "st_lpips", "edge_sharpness", "epe_px",
    "psnr_disoccluded_db",
)  # fmt: skip
_DISOCCLUDED_PX = 50  # fewer pixels than that are no figure


def add_flags(parser: ArgumentParser) -> None:
    """The flags that only this family has."""
    told = "; ".join(f"{p.name}: {p.says}" for p in PROTOCOLS.values())
    parser.add_argument(
        "--protocol", default="folder", metavar="NAME", help=f"what is made from what (default: folder). {told}"
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="the data set's published split file")
    parser.add_argument(
        "--max_targets", type=int, default=0, help="targets of each clip, evenly spread; 0 for all (default: 0)"
    )
    parser.add_argument(
        "--context_frames",
        type=int,
        default=0,
        help="frames around a target that the network gets, the nearest ones; 0 for all that it was trained with (default: 0)",
    )
    parser.add_argument(
        "--baselines",
        default="mean,nearest,flow",
        metavar="NAME[:OPTION=VALUE]...,",
        help="interpolation engines beside it, for example mean,flow,rife:version=4.6 (default: %(default)s)",
    )
    parser.add_argument("--vgg_weights", type=Path, help="VGG-16 weights for LPIPS")


def load_baselines(given: str, device: str) -> dict[str, Interpolator]:
    """Interpolation engines by what the table calls them: "rife:version=4.6:weights=w" is "rife 4.6".

    Raises:
        UsageError: an engine or option that is not there.
    """
    known, found = engines_of("interpolate"), {}
    for text in (part for part in given.split(",") if part):
        name, *options = text.split(":")
        if name not in known:
            raise UsageError(f"--baselines: there is no interpolate engine {name!r}; allowed are: {', '.join(known)}")
        pairs = [option.partition("=") for option in options]
        if not all(equals for _, equals, _ in pairs):
            raise UsageError(f"--baselines takes NAME:OPTION=VALUE, got {text!r}")
        values = {key: value for key, _, value in pairs}
        label = " ".join([name, *(value for key, value in values.items() if key != "weights")])
        found[label] = load_engine("interpolate", name, values, device, Interpolator)
    return found


def evaluate_lift(loaded: Loaded[LiftNet], request: EvaluationRequest) -> Evaluation:
    """All targets of a protocol, through the network and the baselines.

    Raises:
        UsageError: the protocol's data are not there.
    """
    flags, reporter = request.flags, request.reporter
    if flags.max_targets < 0:
        raise UsageError(f"--max_targets must be >= 0, got {flags.max_targets}")
    root = request.data_root
    if flags.protocol == "motion" and (root / request.split).is_dir():
        root = root / request.split
    config = narrowed(loaded.net.config, flags.context_frames)
    everything = targets(flags.protocol, root, flags.list, config)
    grouped = [(name, spread(some, flags.max_targets or request.max_frames)) for name, some in by_clip(everything)]
    chosen = [target for _, some in grouped for target in some]
    baselines = load_baselines(flags.baselines, request.device)
    distances = load_distances(flags.vgg_weights, request.device)
    full = sum(target.full for target in chosen)
    notes = [
        f"protocol {flags.protocol}: {len(chosen)} of {len(everything)} targets in {len(grouped)} clips",
        f"{full} of {len(chosen)} targets had the full context of {config.context_frames} frames",
        *distances.notes,
    ]
    for text in (f"{loaded.path} (step {loaded.step})", *notes):
        reporter.info(text)
    reporter.begin_progress("evaluate", len(chosen))
    results: list[ClipResult] = []
    for name, some in grouped:
        result = measure_clip(loaded.net, name, some, baselines, request, distances.known)
        results.append(result)
        if len(results) > SHEET_ROWS:
            results[-1].images = []
    reporter.end_progress()
    return Evaluation(
        results=results,
        notes=notes,
        columns=COLUMNS,
        sheet_columns=SHEET_COLUMNS,
        summary=gains(pool(results), NETWORK),
    )


def narrowed(config: LiftConfig, count: int) -> LiftConfig:
    """The config with the nearest `count` frames as its context, half of them before the target; 0 for all.

    Raises:
        UsageError: a count that is neither 0 nor in 2 .. all.
    """
    if not count:
        return config
    if not 2 <= count <= config.context_frames:
        raise UsageError(f"--context_frames must be 0 or 2 to {config.context_frames}, as trained, got {count}")
    after = min(config.frames_after, count // 2)
    return replace(config, frames_before=min(config.frames_before, count - after), frames_after=after)


def measure_clip(
    net: LiftNet,
    name: str,
    some: Sequence[Target],
    baselines: Mapping[str, Interpolator],
    request: EvaluationRequest,
    distances: Mapping[str, Distance] = MappingProxyType({}),
) -> ClipResult:
    """Targets of one clip; the middle one is shown."""
    tallies = {method: Tally() for method in (NETWORK, *baselines)}
    images = []
    for number, target in enumerate(some):
        request.safe_point()
        sample = target.load()
        out = run_target(net, sample, request.device, request.device.startswith("cuda"))
        answers = {NETWORK: rounded(out.image.cpu())}
        context = context_of(sample)
        for method, engine in baselines.items():
            picture = torch.from_numpy(engine.interpolate(context, request.safe_point)).permute(2, 0, 1)[None]
            answers[method] = rounded(picture)
        for method, image in answers.items():
            score_image(tallies[method], image, sample, distances)
        score_flow(tallies[NETWORK], out, sample)
        if number == len(some) // 2:
            images = sheet_row(sample, out)
        request.reporter.advance()
    label = f"{some[0].phenomenon}: {name}" if some[0].phenomenon else name
    return ClipResult(name=label, num_frames=len(some), tallies=tallies, images=images, group=some[0].phenomenon)


def context_of(sample: LiftSample) -> Context:
    """The same frames as engines take them. Their numbers are whole, so that offsets in halves and parts are stretched."""
    offsets = [round(offset, 6) for offset in sample.offsets.tolist()]
    order = sorted(range(len(offsets)), key=offsets.__getitem__)
    frames = tuple(tensor_to_image(sample.frames[n]) for n in order)
    whole = all(float(offset).is_integer() for offset in offsets)
    if whole and min(abs(offset) for offset in offsets) == 1:
        return Context(frames=frames, indices=tuple(int(offsets[n]) for n in order), target=0.0)
    first = min(offsets)
    return Context(frames=frames, indices=tuple(round(offsets[n] - first) for n in order), target=-first)


def score_image(tally: Tally, image: Tensor, sample: LiftSample, distances: Mapping[str, Distance]) -> None:
    """One picture (1, 3, H, W), rounded, against the truth."""
    truth = sample.target[None]
    error = float(metrics.mse(image, truth))
    tally.add("mse", error)
    tally.add("psnr_frame_db", min(FRAME_CAP_DB, psnr_of_mse(error)))
    tally.add("ssim_volume", ssim_volume(image, truth))
    tally.add("ie", interpolation_error(image, truth))
    sharpness = edge_sharpness(image, truth)
    if sharpness is not None:
        tally.add("edge_sharpness", sharpness)
    for kind, distance in distances.items():
        tally.add(kind, distance(image, truth))
    if sample.visible is not None:
        hidden = (sample.visible < 0.5).any(0)  # from either neighbour
        if int(hidden.sum()) >= _DISOCCLUDED_PX:
            inside = float((image - truth)[0][:, hidden].double().square().mean())
            tally.add("psnr_disoccluded_db", min(FRAME_CAP_DB, psnr_of_mse(inside)))


def score_flow(tally: Tally, out: LiftOutput, sample: LiftSample) -> None:
    """End-point error in full-size pixels at the centres of the 1/4-size cells, where flow is exact."""
    if sample.flow is None:
        return
    truth = sampled(sample.flow, 4)
    height, width = truth.shape[-2:]
    found = out.flows_s4[0].float().cpu()[:, :height, :width] * 4
    both = [end_point_error(found[pair], truth[pair]) for pair in (slice(0, 2), slice(2, 4))]
    tally.add("epe_px", sum(both) / 2)


def report_page() -> NetworkPage:
    """The page's words and columns."""
    return NetworkPage(
        title="LIFT-15, frames made from up to fourteen others.",
        note=(
            "Columns of the pictures: the blend of the warped neighbours before and after the context corrects it, the result, "
            "the truth, flow to either neighbour (hue is direction, white stands still), where each of them shows what the "
            "target shows, and the weights of the frames in order of time, the two neighbours darker. A network of this size "
            "that trained for minutes is no measure of the architecture."
        ),
        curves={
            "loss": "total loss",
            "l1": "L1 term",
            "epe": "end-point error, px at 1/4 and 1/8",
            "frames_used": "frames that the context is made of",
        },
        columns={
            "psnr_frame_db": ("PSNR, mean over frames (dB)", 2),
            "ssim_volume": ("SSIM, 11×11×11", 4),
            "ie": ("interpolation error (levels)", 2),
            "edge_sharpness": ("gradient at edges, share of the truth's", 3),
            "epe_px": ("end-point error (px)", 2),
            "psnr_disoccluded_db": ("PSNR inside disocclusions (dB)", 2),
        },
        methods=("nearest", "mean", "flow", "rife", "rife 4.0", "rife 4.6", "rife 4.25", NETWORK),
        strong=NETWORK,
    )
