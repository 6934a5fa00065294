"""LIFT's ablations: train every config for every seed, measure all of them on the same targets, print one table.

    python benchmarks/lift_ablation.py --motion motion/train --photographs photographs --test motion/test
    python benchmarks/lift_ablation.py ... --configs context3 context7 context15 --seeds 0 1 2 --steps 200

Runs that are finished are not made again, a stopped one goes on. Seeds see the same data in their own order. It prints the
mean over seeds and, in brackets, the smallest and the largest, of all targets and of each phenomenon: three short runs say how
large chance is, and no more.
"""

import argparse
import json
import sys
from pathlib import Path

from ablation import print_table, train_once

from model import evaluate, train
from pipeline.raytrace.motion import PHENOMENA

CONFIGS = Path(train.__file__).parent / "configs"
COLUMNS = ("psnr_frame_db", "psnr_disoccluded_db", "edge_sharpness", "epe_px")


def parse() -> argparse.Namespace:
    shipped = [path.stem.removeprefix("lift_ablation_") for path in sorted(CONFIGS.glob("lift_ablation_*.toml"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", type=Path, required=True, help="ray-traced training clips")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--test", type=Path, required=True, help="ray-traced test clips")
    parser.add_argument(
        "--configs", nargs="+", default=shipped, choices=shipped, metavar="NAME", help=", ".join(shipped)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--max_targets", type=int, default=2, help="of each test clip")
    parser.add_argument("--out", type=Path, default=Path("runs/lift_ablation"))
    return parser.parse_args()


def one_run(args: argparse.Namespace, name: str, seed: int) -> dict[str, float | None]:
    """Train and measure one config with one seed."""
    out = args.out / f"{name}_{seed}"
    settings = {
        "data.motion": args.motion, "data.photographs": args.photographs, "run.out_dir": out, "run.seed": seed,
        "run.steps": args.steps, "run.validate_every": args.steps, "run.val_targets": 4,
    }  # fmt: skip
    train_once(CONFIGS / f"lift_ablation_{name}.toml", settings)
    result = out / "evaluation_test.json"
    if not result.is_file():
        code = evaluate.main(
            [str(out), "--protocol", "motion", "--data_root", str(args.test), "--baselines", "", "--out", str(out),
             "--max_targets", str(args.max_targets), "--device", "cpu"]
        )  # fmt: skip
        if code:
            raise SystemExit(code)
    found = json.loads(result.read_text())
    by_phenomenon = {name: scores["lift"]["psnr_frame_db"] for name, scores in found["groups"].items()}
    return {**found["scores"]["lift"], **by_phenomenon}


def main() -> int:
    args = parse()
    rows = {name: [one_run(args, name, seed) for seed in args.seeds] for name in args.configs}
    print_table("config", rows, COLUMNS)
    print_table(
        "PSNR, dB", rows, sorted({name for runs in rows.values() for run in runs for name in run} & set(PHENOMENA))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
