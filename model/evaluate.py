"""Measure a checkpoint on a split, beside the baselines, in one run: a table, a JSON file and a sheet of pictures.

python -m model.evaluate runs/demo                                  # the run's best checkpoint on the test split
python -m model.evaluate runs/demo/checkpoints/step_000100 --split val --max_frames 8
python -m model.evaluate model.safetensors --data_root output --out results/

The baselines: the unchanged frame, the lens renderer with the true depth (which made the generated truth, so it is the ceiling
there), and the lens renderer with the depth that the network predicts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.data.realbokeh import find_pairs
from model.data.scene_manifest import find_scenes
from model.evaluation.eval_clips import EvalClip, pair_clips, scene_clips
from model.evaluation.measure import BASELINES, NETWORK, ClipResult, measure_clip, pool
from model.evaluation.perceptual import load_lpips
from model.evaluation.visualize import write_sheet
from model.training.checkpoint import Loaded, load_model
from pipeline import cli
from pipeline.device import resolve_device
from pipeline.errors import ExitCode, UsageError
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.files import write_json

SHEET_ROWS = 8
_COLUMNS = ("psnr_db", "psnr_frame_db", "ssim", "lpips", "temporal", "abs_rel", "delta1", "depth_temporal")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="model.safetensors, a checkpoint folder, or a run folder")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--data_root", type=Path, default=Path("output"), help="the data (default: output)")
    parser.add_argument(
        "--kind", choices=("scenes", "realbokeh"), help="what data_root holds (default: as in training)"
    )
    parser.add_argument("--out", type=Path, help="folder for the results (default: beside the checkpoint)")
    parser.add_argument("--max_frames", type=int, default=0, help="frames of each take, 0 for all (default: 0)")
    parser.add_argument("--vgg_weights", type=Path, help="VGG-16 weights for LPIPS")
    parser.add_argument(
        "--stateless", action="store_true", help="measure the network also with its state dropped after every frame"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def find_eval_clips(kind: str, root: Path, split: str, coc_model: str) -> tuple[list[EvalClip], str]:
    """What to measure on, and a line that says how much there is; UsageError when the split is empty."""
    if kind == "realbokeh":
        pairs = find_pairs(root, split)
        return pair_clips(pairs), pairs.describe()
    catalogue = find_scenes(root, split, coc_model=coc_model)
    return scene_clips(catalogue), catalogue.describe()


def table(scores: dict[str, dict[str, float | None]]) -> str:
    """The scores as text, one method a line; "-" where nothing was measured or PSNR is infinite."""
    columns = [name for name in _COLUMNS if any(row.get(name) is not None for row in scores.values())]
    width = max(len(name) for name in scores)
    lines = [" " * width + "".join(f"{name:>14}" for name in columns)]
    for name, row in scores.items():
        cells = [row.get(column) for column in columns]
        lines.append(f"{name:<{width}}" + "".join(f"{'-' if c is None else f'{c:.4f}':>14}" for c in cells))
    return "\n".join(lines)


def report_of(
    loaded: Loaded, results: Sequence[ClipResult], split: str, root: Path, device: str, lpips_note: str
) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "checkpoint": {"path": str(loaded.path), "step": loaded.step, "digest": loaded.digest},
        "split": split,
        "data_root": str(root),
        "device": device,
        "frames": sum(result.num_frames for result in results),
        "notes": [lpips_note] if lpips_note else [],
        "scores": pool(results),
        "takes": {result.name: {name: tally.scores() for name, tally in result.tallies.items()} for result in results},
    }


def evaluate(args: argparse.Namespace, signals: StopSignals) -> ExitCode:
    """Load, measure, write, print."""
    device = resolve_device(args.device)
    if args.max_frames < 0:
        raise UsageError(f"--max_frames must be >= 0, got {args.max_frames}")
    loaded = load_model(args.checkpoint, device)
    kind = args.kind or loaded.training.get("data", {}).get("kind", "scenes")
    root = args.data_root
    takes, line = find_eval_clips(kind, root, args.split, loaded.net.config.coc_model)
    lpips = load_lpips(args.vgg_weights)
    note = lpips if isinstance(lpips, str) else ""
    out = args.out or loaded.path.parent
    out.mkdir(parents=True, exist_ok=True)
    with Reporter("evaluate", None) as reporter:
        reporter.info(f"{loaded.path} (step {loaded.step}) on {line}")
        if note:
            reporter.info(note)
        reporter.begin_progress("evaluate", len(takes))
        results = []
        for take in takes:
            results.append(
                measure_clip(
                    loaded.net,
                    take,
                    device=device,
                    autocast=device.startswith("cuda"),
                    baselines=BASELINES,
                    lpips=None if isinstance(lpips, str) else lpips.to(device),
                    stateless=args.stateless,
                    max_frames=args.max_frames,
                    safe_point=signals.safe_point,
                )
            )
            if len(results) > SHEET_ROWS:
                results[-1].pictures = []  # only the first rows are shown; the others would stay in memory
            reporter.advance()
        reporter.end_progress()
        report = report_of(loaded, results, args.split, root, device, note)
        reporter.info(table(report["scores"]))
        write_json(out / f"evaluation_{args.split}.json", report)
        sheet = out / f"evaluation_{args.split}.png"
        write_sheet(sheet, [(result.name, result.pictures) for result in results[:SHEET_ROWS]])
        ours, plain = report["scores"][NETWORK]["psnr_db"], report["scores"][BASELINES[0]]["psnr_db"]
        if ours is not None and plain is not None:
            reporter.info(f"evaluate: {ours - plain:+.2f} dB against the unchanged frame; {sheet}")
    return ExitCode.DONE


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parse(argv)

    def body() -> ExitCode:
        with StopSignals() as signals:
            return evaluate(args, signals)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
