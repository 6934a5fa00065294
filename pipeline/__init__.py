"""Raw video in, physically consistent depth-of-field training scenes out.

Scripts in `scripts/` are thin; everything they do lives here. `docs/design.md` tells how the rooms fit together.
"""

import os

# Waiting threads sleep instead of spinning. On a machine shared with one other busy process, spinning made the lens renderer
# take 19 to 25 s for a 960x544 frame, sleeping 2 to 3 s; with the machine to itself it takes about 1 s either way. It has to
# be said before PyTorch loads its OpenMP runtime.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
