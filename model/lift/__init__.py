"""LIFT-15: a frame between two others, from up to fifteen frames of context. See docs/lift.md."""
