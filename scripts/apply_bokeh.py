"""A clip through a lens: from a clip to a clip, with depth that came with it, estimated depth, or a trained network.

python scripts/apply_bokeh.py clip.mp4 -o out.mp4
python scripts/apply_bokeh.py clip.mp4 --focus_track 410,220 --strength 2 --blades 7 -o out.mp4
python scripts/apply_bokeh.py clip.mp4 --focal_mm 85 --f_number 1.4 --focus_pull 0:1.2,2.5:6 --side_by_side -o frames/
python scripts/apply_bokeh.py clip.mp4 --checkpoint runs/small --focus 4 -o out.mp4
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model.video import command  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
