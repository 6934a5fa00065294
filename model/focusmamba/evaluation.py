"""`python -m model.evaluate` and `python -m model.report` for FocusMamba: its data, its baselines, its words.

One run measures everything: the network with its state and frame by frame, and the classical methods, on clean photographs and
on noisy ones, on rendered scenes and, when they are given, on ray-traced photographs.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from model.data.scene_manifest import find_scenes
from model.evaluation.eval_clips import EvalClip, scene_clips, spread
from model.evaluation.focus_baselines import NAMES, FocusBaselines
from model.evaluation.photographs import find_photographs
from model.evaluation.scores import ClipResult, Evaluation, EvaluationRequest, NetworkPage, pool
from model.evaluation.visualize import SHEET_ROWS
from model.focusmamba.checkpoint import with_over_time
from model.focusmamba.config import OverTime
from model.focusmamba.folders import add_folder_flags, folder_photos, measure_photo
from model.focusmamba.measure import NETWORK, SHEET_COLUMNS, STATELESS, Condition, measure_clip, truth_of, with_noise
from model.focusmamba.network import FocusMamba
from model.training.network_file import Loaded
from pipeline.errors import UsageError

METHODS = (NETWORK, STATELESS, *NAMES)
COLUMNS = (
    "mae_px", "rmse_px", "map_mae", "close", "spearman", "auroc", "f_beta", "iou", "mae_px_edges", "auroc_edges",
    "mae_px_flat", "auroc_flat", "side_auroc", "calibration", "temporal_px", "focus_error_dpt",
)  # fmt: skip
FIT_CLIPS, FIT_FRAMES = 24, 2  # of the training split, for the classical methods' curves
TRACED = ", ray traced"


def add_flags(parser: ArgumentParser) -> None:
    """The flags that only this family has."""
    parser.add_argument("--photographs", type=Path, help="ray-traced photographs to measure on as well")
    parser.add_argument(
        "--noise", type=float, default=2.0, help="of the second measurement, in 8-bit levels; 0 leaves it out"
    )
    parser.add_argument(
        "--fit_root",
        type=Path,
        help="generated scenes whose training split the classical methods are fitted to (default: data_root)",
    )
    parser.add_argument(
        "--over_time",
        choices=get_args(OverTime),
        help="how the past of a film is used, where not as the checkpoint says",
    )
    add_folder_flags(parser)


def conditions(noise_levels: float) -> list[Condition]:
    """Clean, and with noise of so many 8-bit levels."""
    if not 0 <= noise_levels <= 64:
        raise UsageError(f"--noise must be between 0 and 64 levels, got {noise_levels}")
    noisy = [Condition(noise=noise_levels / 255, suffix=f", noise {noise_levels:g}")] if noise_levels else []
    return [Condition(), *noisy]


def fit_baselines(clips: Sequence[EvalClip], noise: float) -> FocusBaselines:
    """The classical methods, told by training photographs of the same noise: their best case."""
    photos, radii = [], []
    for clip in spread(list(clips), FIT_CLIPS):
        for number, sample in enumerate(clip.frames(FIT_FRAMES)):
            photo = with_noise(sample.bokeh, noise, clip.name, number)
            photos.append(np.ascontiguousarray(photo.permute(1, 2, 0).numpy()))
            radii.append(np.abs(truth_of(clip, sample)))
    return FocusBaselines.fit(photos, radii)


def _work(request: EvaluationRequest) -> Iterator[tuple[EvalClip, Condition, str]]:
    """What is measured: clip, condition and where the clip comes from."""
    flags = request.flags
    groups = [("", scene_clips(find_scenes(request.data_root, request.split, coc_model="contract")))]
    if flags.photographs is not None:
        groups.append((TRACED, list(find_photographs(flags.photographs).clips)))
    for source, clips in groups:
        for condition in conditions(flags.noise):
            for clip in clips:
                yield clip, Condition(noise=condition.noise, suffix=source + condition.suffix), source


def evaluate_focusmamba(loaded: Loaded[FocusMamba], request: EvaluationRequest) -> Evaluation:
    """All clips of a split, through the network and the classical methods.

    Raises:
        UsageError: the split has nothing that can be measured on.
    """
    reporter = request.reporter
    net = with_over_time(loaded.net, request.flags.over_time) if request.flags.over_time else loaded.net
    root = request.flags.fit_root or request.data_root
    training = scene_clips(find_scenes(root, "train", coc_model="contract"))
    work = list(_work(request))
    reporter.info(f"{loaded.path} (step {loaded.step}) on {len(work)} clips and conditions of {request.data_root}")
    fitted: dict[float, FocusBaselines] = {}
    results: list[ClipResult] = []
    photos = list(folder_photos(request.flags, request.split))
    reporter.begin_progress("evaluate", len(work) + len(photos))
    for clip, condition, _ in work:
        if condition.noise not in fitted:
            fitted[condition.noise] = fit_baselines(training, condition.noise)
        results.append(
            measure_clip(
                net,
                clip,
                condition,
                device=request.device,
                autocast=request.device.startswith("cuda"),
                baselines=fitted[condition.noise],
                stateless=True,
                max_frames=request.max_frames,
                safe_point=request.safe_point,
            )
        )
        reporter.advance()
    for suffix, photo in photos:
        request.safe_point()
        width = request.flags.folder_width
        results.append(measure_photo(net, photo, suffix, width, fitted[0.0], request.device))
        reporter.advance()
    reporter.end_progress()
    shown = {number * len(results) // SHEET_ROWS for number in range(SHEET_ROWS)}  # spread over clips and conditions
    for number, result in enumerate(results):
        if number not in shown:
            result.images = []
    results.sort(key=lambda one: not one.images)  # the sheet shows the first ones; the table does not care
    scores = pool(results)
    ours, plain = scores[NETWORK]["mae_px"], scores["constant"]["mae_px"]
    assert ours is not None and plain is not None, "every frame has an error"
    return Evaluation(
        results=results,
        notes=[f"the classical methods are fitted to {min(len(training), FIT_CLIPS)} training clips of {root}"],
        columns=COLUMNS,
        sheet_columns=SHEET_COLUMNS,
        summary=f"radius wrong by {ours:.2f} px, {ours / plain:.0%} of the constant's",
    )


def report_page() -> NetworkPage:
    """The page's words and columns."""
    suffixes = [source + one.suffix for source in ("", TRACED) for one in conditions(2.0)]
    return NetworkPage(
        title="FocusMamba, trained on the scenes of this page.",
        note=(
            "How many pixels of blur each pixel of a photograph carries, from the photograph alone. Every label is exact: it "
            "is computed from depth and lens, by the formula that made the picture. The classical methods are fitted to the "
            "training split, which is their best case. Scenes of one kind tell little about pictures of another."
        ),
        curves={"loss": "total loss", "magnitude": "log radius", "focus_map": "focus map", "render": "re-rendering"},
        columns={
            "mae_px": ("radius error (px)", 3),
            "map_mae": ("map error", 3),
            "auroc": ("in focus AUROC", 3),
            "mae_px_edges": ("at edges (px)", 3),
            "side_auroc": ("side AUROC", 3),
            "temporal_px": ("temporal error (px)", 3),
        },
        methods=tuple(method + suffix for suffix in suffixes for method in METHODS),
        strong=NETWORK,
    )
