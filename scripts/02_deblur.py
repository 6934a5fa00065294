"""Phase 2: sharpen every frame and average over time.

python scripts/02_deblur.py
python scripts/02_deblur.py --scene bear --engine none --no_temporal_avg
"""

import argparse
import sys

from pipeline import cli
from pipeline.engines import DEFAULTS, load_engine
from pipeline.engines.base import Deblurrer
from pipeline.phases.deblur import DeblurPhase, DeblurSettings
from pipeline.runner import ExitCode, run_scenes


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_engine_flags(parser, DEFAULTS["deblur"], "wiener, none; reserved: genfocus")
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
        engine = load_engine("deblur", args.engine, cli.engine_options(args), args.device, Deblurrer)
        return run_scenes(DeblurPhase(settings, engine, run), run)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
