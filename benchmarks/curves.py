"""A training's curves as a picture: each logged term by step, smoothed, and its validations.

    python benchmarks/curves.py runs/bokehdiff_tiny --terms mse edge st_lpips gan discriminator --mark 1200 --out curves.png

Thin is what was logged, thick its mean over a tenth of the run. Validations are every figure in dB; dashed ones, named
unchanged_..., are what leaving the picture as it is would score.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.evaluation.report import curves
from pipeline.storage.appending import read_records

SMOOTHED = 0.1  # of the logged values


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training")
    parser.add_argument("--terms", nargs="+", required=True, help="names in train.jsonl, or NAME=words to show")
    parser.add_argument("--mark", type=int, default=0, help="a step to draw a line at")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def validations(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Figures in dB by step; a mean of all of them, psnr_db, is left out where its parts are there."""
    found: dict[str, dict[int, float]] = {}
    for record in read_records(run / "train.jsonl"):
        if record.get("kind") == "validation":
            for name, value in record.items():
                if name.endswith("psnr_db") and isinstance(value, float):
                    found.setdefault(name, {})[int(record["step"]) + 1] = value
    if len(found) > 1:
        found.pop("psnr_db", None)
    return {name: (list(points), list(points.values())) for name, points in found.items()}


def main() -> int:
    args = parse()
    words = dict((term.split("=", 1) * 2)[:2] for term in args.terms)
    terms, scores = curves(args.run, words), validations(args.run)
    figure = Figure(figsize=(2.1 * (len(terms) + 1.4), 2.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(terms) + 1, width_ratios=[1.0] * len(terms) + [1.4], squeeze=False)[0]
    for axis, (name, points) in zip(axes, terms, strict=False):
        steps, values = (np.array(x) for x in zip(*points, strict=True))
        axis.plot(steps, values, color="0.8", linewidth=0.7)
        window = max(1, round(SMOOTHED * len(values)))
        ones = np.ones(window)
        smooth = np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
        axis.plot(steps, smooth, color="tab:blue", linewidth=1.6)
        axis.set_title(name, fontsize=9)
        # What single batches scatter to would flatten the curve.
        axis.set_ylim(*np.percentile(values, (2, 98)))
    for name, (steps_, values_) in scores.items():
        parts = name.removesuffix("psnr_db").strip("_").split("_")
        plain = parts[0] == "unchanged"
        label = " ".join(parts[plain:]) or "validation"
        colour = f"C{sorted(scores, key=len).index(name.removeprefix('unchanged_'))}"
        style = {"linestyle": "--", "linewidth": 0.8} if plain else {"marker": "o", "markersize": 3, "label": label}
        axes[-1].plot(steps_, values_, color=colour, **style)
    axes[-1].set_title("validation, dB", fontsize=9)
    axes[-1].legend(fontsize=7)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if args.mark:
            axis.axvline(args.mark, color="tab:red", linestyle=":", linewidth=0.8)
    figure.savefig(args.out, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
