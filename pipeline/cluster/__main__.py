"""python -m pipeline.cluster: see commands.py; jobs/*.sh call it."""

import sys

from pipeline import cli
from pipeline.cluster.commands import parse, submit


def main(argv: list[str] | None = None) -> int:
    return cli.main(lambda: submit(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
