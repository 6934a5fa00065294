"""Phase 6: check every output, write output/validation_report.json and output/report/index.html.

python scripts/06_validate_outputs.py
python scripts/06_validate_outputs.py --scene bear
"""

import argparse
import sys

from pipeline import cli
from pipeline.errors import ExitCode
from pipeline.phases.validate import run_validate


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--workers", type=int, default=2, help="scenes checked at once")
    parser.add_argument("--if_changed", action="store_true", help="nothing to do when a passing report is still good")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        return run_validate(cli.run_settings(args), args.workers, args.if_changed)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
