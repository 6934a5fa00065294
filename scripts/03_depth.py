"""Phase 3: metric depth for every sharp frame.

python scripts/03_depth.py
python scripts/03_depth.py --scene bear --engine vda --engine_opt encoder=vits
"""

import sys

from pipeline.commands import script

main = script("depth", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
