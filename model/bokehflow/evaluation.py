"""`python -m model.evaluate` and `python -m model.report` for BokehFlow: its data, its baselines, its words.

The baselines: the unchanged frame, the lens renderer with the true depth (which made the generated truth, so it is the ceiling
there), and the lens renderer with the depth that the network predicts.
"""

from argparse import ArgumentParser
from pathlib import Path

from model.bokehflow.measure import BASELINES, NETWORK, SHEET_COLUMNS, STATELESS, measure_clip
from model.bokehflow.network import BokehFlow
from model.data.realbokeh import find_pairs
from model.data.scene_manifest import find_scenes
from model.evaluation.eval_clips import EvalClip, pair_clips, scene_clips
from model.evaluation.perceptual import load_lpips
from model.evaluation.scores import ClipResult, Evaluation, EvaluationRequest, NetworkPage, pool
from model.evaluation.visualize import SHEET_ROWS
from model.training.network_file import Loaded
from pipeline.optics import CocModel

COLUMNS = ("psnr_db", "psnr_frame_db", "ssim", "lpips", "temporal", "abs_rel", "delta1", "depth_temporal")


def add_flags(parser: ArgumentParser) -> None:
    """The flags that only this family has."""
    parser.add_argument(
        "--kind", choices=("scenes", "realbokeh"), help="what data_root holds (default: as in training)"
    )
    parser.add_argument("--vgg_weights", type=Path, help="VGG-16 weights for LPIPS")
    parser.add_argument(
        "--stateless", action="store_true", help="measure the network also with its state dropped after every frame"
    )


def find_eval_clips(kind: str, root: Path, split: str, coc_model: CocModel) -> tuple[list[EvalClip], str]:
    """What to measure on, and a line that says how much there is; UsageError when the split is empty."""
    if kind == "realbokeh":
        pairs = find_pairs(root, split)
        return pair_clips(pairs), pairs.describe()
    manifest = find_scenes(root, split, coc_model=coc_model)
    return scene_clips(manifest), manifest.describe()


def evaluate_bokehflow(loaded: Loaded[BokehFlow], request: EvaluationRequest) -> Evaluation:
    """All clips of a split, through the network and the baselines.

    Raises:
        UsageError: the split has nothing that can be measured on.
    """
    flags, reporter = request.flags, request.reporter
    kind = flags.kind or loaded.training.get("data", {}).get("kind", "scenes")
    clips, line = find_eval_clips(kind, request.data_root, request.split, loaded.net.config.coc_model)
    lpips = load_lpips(flags.vgg_weights)
    notes = [lpips] if isinstance(lpips, str) else []
    for text in (f"{loaded.path} (step {loaded.step}) on {line}", *notes):
        reporter.info(text)
    reporter.begin_progress("evaluate", len(clips))
    results: list[ClipResult] = []
    for clip in clips:
        results.append(
            measure_clip(
                loaded.net,
                clip,
                device=request.device,
                autocast=request.device.startswith("cuda"),
                baselines=BASELINES,
                lpips=None if isinstance(lpips, str) else lpips.to(request.device),
                stateless=flags.stateless,
                max_frames=request.max_frames,
                safe_point=request.safe_point,
            )
        )
        if len(results) > SHEET_ROWS:
            results[-1].images = []  # only the first rows are shown; the others would stay in memory
        reporter.advance()
    reporter.end_progress()
    scores = pool(results)
    ours, plain = scores[NETWORK]["psnr_db"], scores[BASELINES[0]]["psnr_db"]
    gain = "" if ours is None or plain is None else f"{ours - plain:+.2f} dB against the unchanged frame"
    return Evaluation(results=results, notes=notes, columns=COLUMNS, sheet_columns=SHEET_COLUMNS, summary=gain)


def report_page() -> NetworkPage:
    """The page's words and columns."""
    return NetworkPage(
        title="BokehFlow, trained on the scenes of this page.",
        note=(
            "A network of this size that saw a handful of scenes for minutes shows that everything works and beats leaving "
            "the frame as it is. Its depth is a guess beyond the scenes it saw, and so is its bokeh there; it is no measure "
            "of the architecture. The lens renderer with true depth made the truth: it is the ceiling, not a rival."
        ),
        curves={"loss": "total loss", "depth": "depth term", "l1": "L1 term"},
        columns={
            "psnr_db": ("PSNR (dB)", 2),
            "ssim": ("SSIM", 4),
            "temporal": ("temporal error", 5),
            "abs_rel": ("depth AbsRel", 3),
            "delta1": ("depth δ<1.25", 3),
        },
        methods=(*BASELINES, STATELESS, NETWORK),
        strong=NETWORK,
    )
