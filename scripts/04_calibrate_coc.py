"""Phase 4: measure the circle of confusion over the dataset; an operator looks and confirms max_coc.

python scripts/04_calibrate_coc.py
python scripts/04_calibrate_coc.py --confirm
python scripts/04_calibrate_coc.py --confirm 350um
"""

import sys

from pipeline.commands import script

main = script("calibrate", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
