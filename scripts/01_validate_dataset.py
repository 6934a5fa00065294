"""Phase 1: check raw scenes, reject bad ones with reasons, split the rest, write output/scene_index.json.

python scripts/01_validate_dataset.py
python scripts/01_validate_dataset.py --raw_root DAVIS/JPEGImages/480p --workers 8
"""

import sys

from pipeline.commands import script

main = script("index", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
