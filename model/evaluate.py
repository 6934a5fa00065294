"""Measure a checkpoint on a split, beside the baselines, in one run: a table, a JSON file and a sheet of images.

python -m model.evaluate runs/demo                                  # the run's best checkpoint on the test split
python -m model.evaluate runs/demo/checkpoints/step_000100 --split val --max_frames 8
python -m model.evaluate model.safetensors --data_root output --out results/
python -m model.evaluate --data_root output                         # the BokehFlow that comes with the code

The checkpoint says which network family it is of; the family says what is measured, against which baselines.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from model.errors import CheckpointError
from model.evaluation.scores import Evaluation, EvaluationRequest, pool, pool_groups
from model.evaluation.visualize import SHEET_ROWS, sheet_png
from model.training.families import DEFAULT_FAMILY, family_names, task_class
from model.training.network_file import Loaded, family_of, load_model
from model.weights import default_weights
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.device import resolve_device
from pipeline.errors import ExitCode, UsageError
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.files import dump_json, write_shared


def parse(argv: Sequence[str], family: str) -> argparse.Namespace:
    """The flags that every family has, and those of this one."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        help="model.safetensors, a checkpoint folder, or a run folder (default: the BokehFlow that comes with the code)",
    )
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--data_root", type=Path, default=Path("output"), help="the data (default: output)")
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: beside the checkpoint, or runs/shipped)"
    )
    parser.add_argument("--max_frames", type=int, default=0, help="frames of each clip, 0 for all (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    task_class(family).add_evaluation_flags(parser)
    return parser.parse_args(argv)


def guess_family(argv: Sequence[str]) -> str:
    """The family of the first argument that is a checkpoint: it decides which flags there are, before they are parsed."""
    for text in argv:
        try:
            family = family_of(Path(text))
        except (UsageError, CheckpointError, OSError, ValueError):
            continue  # a flag, another argument, or a checkpoint whose damage is reported when it is loaded
        if family in family_names():
            return family
    return DEFAULT_FAMILY


def table(scores: dict[str, dict[str, float | None]], columns: Sequence[str]) -> str:
    """The scores as text, one method a line; "-" where nothing was measured or PSNR is infinite."""
    shown = [name for name in columns if any(row.get(name) is not None for row in scores.values())]
    width = max(len(name) for name in scores)
    cell = max([14, *(len(name) + 2 for name in shown)])
    lines = [" " * width + "".join(f"{name:>{cell}}" for name in shown)]
    for name, row in scores.items():
        cells = [row.get(column) for column in shown]
        lines.append(f"{name:<{width}}" + "".join(f"{'-' if c is None else f'{c:.4f}':>{cell}}" for c in cells))
    return "\n".join(lines)


def report_of(loaded: Loaded[nn.Module], found: Evaluation, request: EvaluationRequest) -> dict[str, Any]:
    """What the JSON file holds. Its clips are called takes, as in the files of earlier versions."""
    clips = {result.name: {name: tally.scores() for name, tally in result.tallies.items()} for result in found.results}
    return {
        "checkpoint": {"path": str(loaded.path), "step": loaded.step, "digest": loaded.digest},
        "family": loaded.family,
        "split": request.split,
        "data_root": str(request.data_root),
        "device": request.device,
        "frames": sum(result.num_frames for result in found.results),
        "notes": list(found.notes),
        "scores": pool(found.results),
        "groups": pool_groups(found.results),
        "takes": clips,
    }


def evaluate(args: argparse.Namespace, signals: StopSignals) -> ExitCode:
    """Load, measure, write, print."""
    device = resolve_device(args.device)
    if args.max_frames < 0:
        raise UsageError(f"--max_frames must be >= 0, got {args.max_frames}")
    loaded = load_model(args.checkpoint or default_weights(DEFAULT_FAMILY), device)
    out = args.out or (loaded.path.parent if args.checkpoint else Path("runs") / "shipped")
    with Reporter("evaluate", None) as reporter:
        if not args.checkpoint:
            reporter.info(f"network: the one that comes with the code, since no checkpoint was given; results in {out}")
        request = EvaluationRequest(
            split=args.split,
            data_root=args.data_root,
            device=device,
            max_frames=args.max_frames,
            flags=args,
            reporter=reporter,
            safe_point=signals.safe_point,
        )
        found = task_class(loaded.family).evaluate(loaded, request)
        report = report_of(loaded, found, request)
        if len(report["groups"]) > 1:
            for group, scores in report["groups"].items():
                reporter.info(f"{group}\n{table(scores, found.columns)}")
        reporter.info(table(report["scores"], found.columns))
        out.mkdir(parents=True, exist_ok=True)
        write_shared(out / f"evaluation_{args.split}.json", dump_json(report).encode())
        sheet = out / f"evaluation_{args.split}.png"
        rows = [(result.name, result.images) for result in found.results[:SHEET_ROWS] if result.images]
        if rows:
            write_shared(sheet, sheet_png(rows, found.sheet_columns))
        if found.summary:
            reporter.info(f"evaluate: {found.summary}; {sheet}")
    return ExitCode.DONE


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    given = sys.argv[1:] if argv is None else argv
    args = parse(given, guess_family(given))
    args = parse(
        given, guess_family([str(args.checkpoint)] if args.checkpoint else [])
    )  # --out may have named another run before the checkpoint

    def body() -> ExitCode:
        with StopSignals() as signals:
            return evaluate(args, signals)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
