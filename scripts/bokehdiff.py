"""Photographs of a folder through BokehDiff, with the flags of its authors' program.

python scripts/bokehdiff.py --test_data_dir photos --output_dir out --data_id night --K 20
python scripts/bokehdiff.py --test_data_dir pairs --organization pngdepth --K 40 --focus_px 410,220
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.refocus import folder_command  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    return folder_command.main(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
