"""A single photograph through the published engines: sharpened, its depth estimated, refocused.

python scripts/refocus.py photo.jpg --focus_px 410,220 --K 20 -o out.png
python scripts/refocus.py photo.jpg --long_side 1024 --author_seeds -o out.png
python scripts/refocus.py photo.jpg --engine lens --no_deblur --depth photo.depth.npz -o out.png
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.refocus import command  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
