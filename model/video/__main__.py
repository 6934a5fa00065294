"""bokehflow-apply, or python -m model.video: a clip through a lens; see docs/apply.md.

bokehflow-apply clip.mp4 -o out.mp4
bokehflow-apply clip.mp4 --focus_track 410,220 --strength 2 --blades 7 -o out.mp4
"""

import sys

from model.video import command


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
