"""Raw video in, physically consistent depth-of-field training scenes out.

Scripts in `scripts/` are thin; everything they do lives here. `docs/design.md` tells how the rooms fit together.
"""

__version__ = "0.1.0"
