"""A film with more frames: from a clip to a clip of the same length, by LIFT, RIFE or optical flow.

python scripts/interpolate.py clip.mp4 -o out.mp4
python scripts/interpolate.py clip.mp4 -o out.mp4 --fps 60 --interpolator flow
python scripts/interpolate.py clip.mp4 -o frames/ --factor 4 --cuts cuts.txt
python scripts/interpolate.py clip.mp4 -o out.mp4 --checkpoint runs/lift
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model.video.interpolate import command  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
