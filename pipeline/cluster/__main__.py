"""python -m pipeline.cluster: what jobs/*.sh call; see commands.py."""

import sys

from pipeline import cli
from pipeline.cluster import commands
from pipeline.cluster.request import parse


def main(argv: list[str] | None = None) -> int:
    return cli.main(lambda: commands.submit(parse(commands.__doc__, argv)))


if __name__ == "__main__":
    sys.exit(main())
