"""`python -m model.evaluate` and `python -m model.report` for BokehFlow: its data, its baselines, its words.

The network is measured with the depth it predicts and, where there is one, with the true depth handed in. The baselines: the
unchanged frame; the lens renderer with the true depth (where it made the truth it is the ceiling), with the network's, and with
blind depth; and how much the truth itself is wrong, where it is a traced photograph.
"""

from argparse import ArgumentParser
from pathlib import Path

from model.bokehflow.measure import (
    BASELINES,
    BLIND,
    HALF_MIX,
    NETWORK,
    NOISE,
    SHEET_COLUMNS,
    STATELESS,
    TRUE_DEPTH,
    measure_clip,
)
from model.bokehflow.network import BokehFlow
from model.data.realbokeh import find_pairs
from model.data.scene_manifest import find_scenes
from model.evaluation.baselines import BlindDepth
from model.evaluation.distances import load_distances
from model.evaluation.eval_clips import EvalClip, pair_clips, scene_clips, spread
from model.evaluation.scores import ClipResult, Evaluation, EvaluationRequest, NetworkPage, pool
from model.evaluation.visualize import SHEET_ROWS
from model.training.network_file import Loaded
from pipeline.errors import UsageError
from pipeline.optics import CocModel

COLUMNS = (
    "psnr_db", "psnr_frame_db", "psnr_band_db", "psnr_highlights_db", "ssim", "ssim_band", "lpips", "st_lpips",
    "st_lpips_band", "temporal", "abs_rel", "delta1", "depth_temporal",
)  # fmt: skip


def add_flags(parser: ArgumentParser) -> None:
    """The flags that only this family has."""
    parser.add_argument(
        "--kind", choices=("scenes", "realbokeh"), help="what data_root holds (default: as in training)"
    )
    parser.add_argument("--vgg_weights", type=Path, help="VGG-16 weights for LPIPS")
    parser.add_argument("--no_blind", action="store_true", help="leave out the renderer with blind depth")
    parser.add_argument("--max_clips", type=int, default=0, help="lens sets of each family, evenly, 0 for all")
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


def find_blind_depth(kind: str, root: Path, coc_model: CocModel) -> BlindDepth | str:
    """The mean depth of the training split, or why there is none."""
    if kind == "realbokeh":
        return "blind depth is left out: these photographs have no depth"
    try:
        return BlindDepth.of(find_scenes(root, "train", coc_model=coc_model))
    except UsageError as error:
        return f"blind depth is left out: {error}"


def evaluate_bokehflow(loaded: Loaded[BokehFlow], request: EvaluationRequest) -> Evaluation:
    """All clips of a split, through the network and the baselines.

    Raises:
        UsageError: the split has nothing that can be measured on.
    """
    flags, reporter = request.flags, request.reporter
    kind = flags.kind or loaded.training.get("data", {}).get("kind", "scenes")
    clips, line = find_eval_clips(kind, request.data_root, request.split, loaded.net.config.coc_model)
    if flags.max_clips < 0:
        raise UsageError(f"--max_clips must be >= 0, got {flags.max_clips}")
    families = sorted({clip.group for clip in clips})
    clips = [c for name in families for c in spread([clip for clip in clips if clip.group == name], flags.max_clips)]
    distances = load_distances(flags.vgg_weights, request.device)
    blind = None if flags.no_blind else find_blind_depth(kind, request.data_root, loaded.net.config.coc_model)
    notes = [*distances.notes, *([blind] if isinstance(blind, str) else [])]
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
                blind=None if isinstance(blind, str) else blind,
                distances=distances.known,
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
        methods=(*BASELINES, *BLIND, HALF_MIX, NOISE, STATELESS, NETWORK, TRUE_DEPTH),
        strong=NETWORK,
    )
