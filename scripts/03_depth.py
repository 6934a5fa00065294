"""Phase 3: metric depth for every sharp frame.

python scripts/03_depth.py
python scripts/03_depth.py --scene bear --engine vda --engine_opt encoder=vits
"""

import argparse
import sys

from pipeline import cli
from pipeline.engines import DEFAULTS, load_engine
from pipeline.engines.base import DepthEstimator
from pipeline.errors import ExitCode
from pipeline.phases.depth import DepthPhase, DepthSettings
from pipeline.phases.runner import run_scenes


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_engine_flags(parser, DEFAULTS["depth"], "given, vda")
    parser.add_argument("--chunk", type=int, default=256, help="frames that an engine sees at once")
    parser.add_argument("--overlap", type=int, default=32, help="frames that consecutive chunks share and blend")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        run = cli.run_settings(args)
        engine = load_engine("depth", args.engine, cli.engine_options(args), args.device, DepthEstimator)
        return run_scenes(DepthPhase(DepthSettings(chunk=args.chunk, overlap=args.overlap), engine, run), run)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
