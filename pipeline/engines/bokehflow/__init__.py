"""BokehFlow in the phases: its depth for phase 3, its photographs for phase 5, by a trained network of `model.bokehflow`.

Which network it was, its content says in fingerprints; where no checkpoint is named it is the one that comes with the code.
"""

HOLDS_ENGINES = True
