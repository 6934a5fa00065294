"""Engines that make a frame between given ones; `pipeline.engines.interpolation.context` says what they are given.

One module per engine, found like those of the folder above.
"""

HOLDS_ENGINES = True
