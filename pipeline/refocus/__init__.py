"""A single photograph: sharpened, its depth estimated, refocused. `command` has the flags of scripts/refocus.py."""
