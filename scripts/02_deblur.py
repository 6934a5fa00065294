"""Phase 2: sharpen every frame and average over time.

python scripts/02_deblur.py
python scripts/02_deblur.py --scene bear --engine none --no_temporal_avg
python scripts/02_deblur.py --engine genfocus --steps 8 --device cuda
"""

import argparse
import sys

from pipeline import cli
from pipeline.engines import DEFAULTS, load_engine
from pipeline.engines.base import Deblurrer
from pipeline.errors import ExitCode
from pipeline.phases.deblur import DeblurPhase, DeblurSettings
from pipeline.phases.runner import run_scenes


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_engine_flags(parser, DEFAULTS["deblur"], "wiener, none, genfocus")
    parser.add_argument("--steps", default=argparse.SUPPRESS, help="denoising steps of genfocus; 8 unless given")
    parser.add_argument(
        "--deblur_conditions",
        default=argparse.SUPPRESS,
        help="of genfocus: 1, the frame, or 2, a black picture before it",
    )
    parser.add_argument("--temporal", choices=("flow", "resample"), default="flow", help="how outputs are averaged")
    parser.add_argument("--no_temporal_avg", action="store_true", help="plain per-frame output")
    parser.add_argument("--reach", type=int, default=2, help="frames to each side that flow averaging looks")
    parser.add_argument("--seed", type=int, default=0, help="project seed of the engine's noise")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        settings = DeblurSettings(
            temporal="none" if args.no_temporal_avg else args.temporal, reach=args.reach, seed=args.seed
        )
        run = cli.run_settings(args)
        named = {"steps": "steps", "deblur_conditions": "conditions"}
        options = {option: vars(args)[flag] for flag, option in named.items() if flag in args}
        engine = load_engine("deblur", args.engine, cli.engine_options(args) | options, args.device, Deblurrer)
        return run_scenes(DeblurPhase(settings, engine, run), run)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
