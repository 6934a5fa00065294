"""BokehDiff with PISA against without: train both for every seed, measure all on the same data, print one table.

    python -m model.bokehdiff.tiny tiny/RealVisXL_V5.0
    python benchmarks/bokehdiff_ablation.py --pairs cutouts --photographs photographs --seeds 0 1 2 --steps 400

Runs that are finished are not made again, a stopped one goes on. Without PISA nothing tells the network of the lens, so the
figure says what the attention brings in, and not how well another way of telling would do. What it prints is the mean over
seeds and, in brackets, the smallest and the largest.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model import evaluate, train

CONFIG = Path(train.__file__).parent / "configs" / "bokehdiff_tiny.toml"
VARIANTS = {"with PISA": True, "without": False}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("tiny/RealVisXL_V5.0"))
    parser.add_argument("--pairs", type=Path, required=True, help="folder with fg/ and bg/")
    parser.add_argument("--photographs", type=Path, required=True, help="tree of ray-traced photographs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--crop", type=int, default=160, help="of pairs; several tokens of PISA's, which are 16 px wide"
    )
    parser.add_argument("--strength_px", type=float, default=14.0, help="of pairs: radii of whole tokens (default: 14)")
    parser.add_argument("--test_pairs", type=int, default=24)
    parser.add_argument("--split", default="val", help="of the photographs that are measured")
    parser.add_argument("--out", type=Path, default=Path("runs/bokehdiff_ablation"))
    return parser.parse_args()


def one_run(args: argparse.Namespace, name: str, seed: int) -> dict[str, dict[str, float]]:
    """Train and measure one variant with one seed: PSNR of every method, on pairs and on photographs."""
    out = args.out / f"{name.replace(' ', '_')}_{seed}"
    settings = {
        "model.base": f"'{args.base}'", "model.pisa": str(VARIANTS[name]).lower(), "data.pairs": f"'{args.pairs}'",
        "data.photographs": f"'{args.photographs}'", "data.crop": args.crop, "data.strength_px": args.strength_px,
        "run.out_dir": f"'{out}'", "run.seed": seed, "run.steps": args.steps, "run.validate_every": args.steps,
        "run.val_pairs": 2, "run.val_frames": 2, "loss.gan": 0.0,
        "run.val_contrast": 3 + 2 * args.steps,
    }  # fmt: skip
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    if train.main(["--config", str(CONFIG), *given]):
        raise SystemExit("the training did not end; the same command goes on")
    found = {}
    for kind, root, more in (
        ("pairs", args.pairs, ["--pairs", str(args.test_pairs)]),
        ("photographs", args.photographs, ["--max_frames", "1"]),
    ):
        folder = out / kind
        result = folder / f"evaluation_{args.split}.json"
        flags = [str(out), "--data_root", str(root), "--split", args.split, "--out", str(folder), "--device", "cpu"]
        if not result.is_file() and evaluate.main([*flags, *more]):
            raise SystemExit("the evaluation did not end")
        scores = json.loads(result.read_text())["scores"]
        found[kind] = {method: row["psnr_frame_db"] for method, row in scores.items()}
    return found


def main() -> int:
    args = parse()
    rows = {name: [one_run(args, name, seed) for seed in args.seeds] for name in VARIANTS}
    table = Table("PSNR, dB", "pairs", "photographs")

    def cells(values: list[list[float]]) -> list[str]:
        return [f"{sum(some) / len(some):.2f} ({min(some):.2f} to {max(some):.2f})" for some in values]

    kinds = ("pairs", "photographs")
    for name, found in rows.items():
        table.add_row(name, *cells([[one[kind]["bokehdiff"] for one in found] for kind in kinds]))
    first = rows["without"][0]
    table.add_row("unchanged", *[f"{first[kind]['unchanged frame']:.2f}" for kind in kinds])
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
