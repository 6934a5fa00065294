"""What a BokehFlow costs: parameters by part, operations and memory at 720p and 1080p.

python -m model.summary small
python -m model.summary nano --size 854x480 --dtype float32
"""

import sys

from model.bokehflow.summary import main

if __name__ == "__main__":
    sys.exit(main())
