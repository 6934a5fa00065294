"""python -m pipeline.cluster: what jobs/*.sh call; see commands.py."""

import sys

from pipeline import cli
from pipeline.errors import ExitCode


def main(argv: list[str] | None = None) -> int:
    def body() -> ExitCode:
        from pipeline.cluster import commands, request  # inside, so that a missing extra becomes one line

        return commands.submit(request.parse(commands.__doc__, argv))

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
