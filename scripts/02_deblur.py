"""Phase 2: sharpen every frame and average over time.

python scripts/02_deblur.py
python scripts/02_deblur.py --scene bear --engine none --no_temporal_avg
python scripts/02_deblur.py --engine genfocus --steps 8 --device cuda
"""

import sys

from pipeline.commands import script

main = script("deblur", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
