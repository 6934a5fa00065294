"""diffusers and transformers, imported when first needed and kept from drawing progress bars over the pipeline's own."""

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
def flux_pipeline() -> Any:
    """diffusers' FluxPipeline, which brings transformers with it."""
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    return diffusers().FluxPipeline
