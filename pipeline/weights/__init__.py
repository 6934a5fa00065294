"""Published weights: what there is, where it lies here, whether it is whole, what it contains and what binds its use."""

from pipeline.weights.digest import content_sha256, verified_sha256
from pipeline.weights.files import (
    Condition,
    DamagedWeightsError,
    Found,
    Shapes,
    check,
    differences,
    download_command,
    find,
    read_torch,
    require,
    safetensors_shapes,
    user_cache,
    weights_folder,
)
from pipeline.weights.registry import REGISTRY, Weights, weights_named

__all__ = [
    "REGISTRY",
    "Condition",
    "DamagedWeightsError",
    "Found",
    "Shapes",
    "Weights",
    "check",
    "content_sha256",
    "differences",
    "download_command",
    "find",
    "read_torch",
    "require",
    "safetensors_shapes",
    "user_cache",
    "verified_sha256",
    "weights_folder",
    "weights_named",
]
