"""Phase 5: per frame, atomically, the focus map and the render driven by that same map.

python scripts/05_render_and_labels.py
python scripts/05_render_and_labels.py --scene bear --num_sets 2 --engine_opt blades=6
python scripts/05_render_and_labels.py --engine bokehnet --guidance physical --device cuda
python scripts/05_render_and_labels.py --engine bokehflow
"""

import sys

from pipeline.commands import script

main = script("render", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
