"""diffusers and transformers, imported when first needed and kept from writing over the pipeline's own lines.

What their reports warn of (tensors that a file lacks and that would be random) is an error here before they could.
"""

import importlib
from functools import cache
from typing import Any


@cache
def diffusers() -> Any:
    """The module; importing it takes seconds."""
    module: Any = importlib.import_module("diffusers")
    module.utils.logging.disable_progress_bar()
    return module


@cache
def transformers() -> Any:
    """The module; importing it takes seconds too."""
    module: Any = importlib.import_module("transformers")
    module.utils.logging.disable_progress_bar()
    module.utils.logging.set_verbosity_error()
    return module
