"""Phase 1: check raw scenes, reject bad ones with reasons, split the rest, write output/scene_index.json.

python scripts/01_validate_dataset.py
python scripts/01_validate_dataset.py --raw_root DAVIS/JPEGImages/480p --workers 8
"""

import argparse
import sys

from pipeline import cli
from pipeline.errors import ExitCode
from pipeline.phases.index import IndexSettings, run_index


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--min_frames", type=int, default=16, help="scenes with fewer frames are rejected")
    parser.add_argument("--seed", type=int, default=0, help="project seed of the split")
    parser.add_argument("--workers", type=int, default=2, help="scenes checked at once")
    parser.add_argument(
        "--accept_truncated", action="store_true", help="take cut-off videos up to their last whole frame"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        settings = IndexSettings(
            min_frames=args.min_frames,
            seed=args.seed,
            workers=args.workers,
            accept_truncated=args.accept_truncated,
        )
        return run_index(settings, cli.run_settings(args))

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
