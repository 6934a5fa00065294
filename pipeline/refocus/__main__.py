"""bokehflow-refocus, or python -m pipeline.refocus: a single photograph, refocused; see docs/engines.md.

bokehflow-refocus photo.jpg --focus_px 410,220 --K 20 -o out.png
bokehflow-refocus photo.jpg --engine lens --no_deblur --depth photo.depth.npz -o out.png
"""

import sys

from pipeline.refocus import command


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
