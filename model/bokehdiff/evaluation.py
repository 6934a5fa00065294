"""`python -m model.evaluate` for BokehDiff: pairs of held-out files, or photographs of scenes, beside what costs nothing.

The baselines are the unchanged picture, which a network that only redraws cannot beat, one Gaussian blur for all pictures (the
best of a few, chosen on them: a network that knows nothing of the lens can do that), and on scenes the lens renderer with true
depth. What the network draws goes through the engine's code and is rounded to 8 bits.
"""

import math
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from model.bokehdiff.measure import NETWORK, SHEET_COLUMNS, UNCHANGED, measure
from model.bokehdiff.network import BokehDiffNet
from model.bokehdiff.pairs import PairSettings
from model.bokehdiff.samples import PairSample
from model.bokehdiff.sources import frame_of, held_out_pairs
from model.data.scene_manifest import find_scenes
from model.evaluation.baselines import lens_render
from model.evaluation.eval_clips import EvalClip, scene_clips
from model.evaluation.scores import ClipResult, Evaluation, EvaluationRequest, NetworkPage, Tally, gains, pool
from model.training.network_file import Loaded
from pipeline.engines.bokehdiff.pisa import INFERENCE_CONTRAST
from pipeline.errors import UsageError
from pipeline.media.convert import image_to_tensor, tensor_to_image

LENS = "lens renderer, true depth"
COLUMNS = ("psnr_db", "psnr_frame_db", "ssim")
SIGMAS_PX = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What is measured together; the clip is there where pairs come from scenes."""

    name: str
    samples: Callable[[], Iterable[tuple[PairSample, EvalClip | None, int]]]


def add_flags(parser: ArgumentParser) -> None:
    """The flags that only this family has."""
    parser.add_argument(
        "--pairs", type=int, default=0, metavar="N", help="N pairs of the held-out files of --data_root (fg/, bg/)"
    )
    parser.add_argument("--crop", type=int, default=0, help="of pairs; 0 for the training's")
    parser.add_argument(
        "--contrast", type=float, default=0.0,
        help=f"hardness of PISA's circles; 0 for the training's validations' (the engine: {INFERENCE_CONTRAST:g})",
    )  # fmt: skip


def evaluate_bokehdiff(loaded: Loaded[BokehDiffNet], request: EvaluationRequest) -> Evaluation:
    """Measure all of it.

    Raises:
        UsageError: the data cannot be used.
    """
    flags, reporter = request.flags, request.reporter
    contrast = flags.contrast or float(loaded.config["contrast"])
    if flags.pairs < 0 or not (math.isfinite(contrast) and contrast > 1):
        raise UsageError(f"--pairs must be >= 0 and --contrast > 1, got {flags.pairs} and {flags.contrast:g}")
    groups = _pairs(loaded, request) if flags.pairs else _scenes(request)
    notes = [
        f"PISA's contrast is {contrast:g}",
        f"{LENS} made the photographs of the pipeline's scenes, and is their ceiling",
    ]
    for text in (f"{loaded.path} (step {loaded.step})", *notes):
        reporter.info(text)
    reporter.begin_progress("evaluate", len(groups))
    results = []
    for group in groups:
        results.append(_measure(loaded.net, group, contrast, request))
        reporter.advance()
    reporter.end_progress()
    _best_gaussian(results)
    return Evaluation(
        results=results,
        notes=notes,
        columns=COLUMNS,
        sheet_columns=SHEET_COLUMNS,
        summary=gains(pool(results), NETWORK),
    )


def _pairs(loaded: Loaded[BokehDiffNet], request: EvaluationRequest) -> list[_Group]:
    given = loaded.training["data"]
    names = ("strength_px", "foregrounds", "slanted", "curve", "samples")
    settings = PairSettings(crop=request.flags.crop or given["crop"], **{name: given[name] for name in names})
    samples = held_out_pairs(request.data_root, settings, request.flags.pairs)
    return [_Group(name=one.name, samples=partial(list, [(one, None, 0)])) for one in samples]


def _scenes(request: EvaluationRequest) -> list[_Group]:
    clips = scene_clips(find_scenes(request.data_root, request.split))

    def frames(clip: EvalClip) -> Iterable[tuple[PairSample, EvalClip | None, int]]:
        count = min(request.max_frames or clip.num_frames, clip.num_frames)
        return ((frame_of(clip, number), clip, number) for number in range(count))

    return [_Group(name=clip.name, samples=partial(frames, clip)) for clip in clips]


def _measure(net: BokehDiffNet, group: _Group, contrast: float, request: EvaluationRequest) -> ClipResult:
    """One group, and the baselines that need no network."""
    others = {f"gaussian {sigma:g}": Tally() for sigma in SIGMAS_PX}

    def watched() -> Iterable[PairSample]:
        for sample, clip, number in group.samples():
            truth = sample.bokeh[None]
            sharp = tensor_to_image(sample.sharp)
            for sigma in SIGMAS_PX:
                blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), sigma), np.uint8)
                others[f"gaussian {sigma:g}"].add_image(image_to_tensor(blurred)[None], truth)
            depth = None if clip is None else clip.read(number).depth_m
            if clip is not None and depth is not None:
                drawn = lens_render(sample.sharp[None], depth[None], clip.lens, clip.px_per_mm, sample.max_radius_px)
                others.setdefault(LENS, Tally()).add_image(drawn, truth)
            yield sample

    result = measure(
        net, group.name, watched(), contrast=contrast, device=request.device, safe_point=request.safe_point
    )
    result.tallies |= others
    return result


def _best_gaussian(results: Sequence[ClipResult]) -> None:
    """Leave the one blur that is best for all of them together."""
    names = [f"gaussian {sigma:g}" for sigma in SIGMAS_PX]
    scores = pool(results)
    best = max(names, key=lambda name: scores[name]["psnr_frame_db"] or 0.0)
    for result in results:
        for name in names:
            if name != best:
                del result.tallies[name]


def report_page() -> NetworkPage:
    """The page's words and columns."""
    return NetworkPage(
        title="BokehDiff, lens blur in one diffusion step.",
        note=(
            "A network that trained for minutes on a tiny base says that the training works, not how good the method is. "
            "Columns of the pictures: the sharp picture, disparity, the result, the photograph."
        ),
        curves={
            "mse": "squared error on [-1, 1]",
            "edge": "edges",
            "st_lpips": "ST-LPIPS",
            "gan": "generator's cross-entropy",
            "discriminator": "discriminator's cross-entropy",
        },
        columns={"psnr_frame_db": ("PSNR, mean over frames (dB)", 2), "ssim": ("SSIM", 4)},
        methods=(UNCHANGED, *(f"gaussian {sigma:g}" for sigma in SIGMAS_PX), LENS, NETWORK),
        strong=NETWORK,
    )
