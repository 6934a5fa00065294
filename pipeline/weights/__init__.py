"""Published weights: what there is, where it lies here, whether it is whole, what it contains and what binds its use."""

from pipeline.weights.digest import content_sha256, with_weights
from pipeline.weights.files import Condition, Damaged, Found, find, read_torch, require, user_cache, weights_folder
from pipeline.weights.registry import REGISTRY, Weights, weights_named

__all__ = [
    "REGISTRY",
    "Condition",
    "Damaged",
    "Found",
    "Weights",
    "content_sha256",
    "find",
    "read_torch",
    "require",
    "user_cache",
    "weights_folder",
    "weights_named",
    "with_weights",
]
