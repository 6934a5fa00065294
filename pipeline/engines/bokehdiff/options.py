"""What can be set on the engine, and what the conventions are called."""

import math
from dataclasses import dataclass

from pipeline.engines.genfocus.options import OFFLOADS, TYPES
from pipeline.engines.info import option, unrecorded

BASE = "RealVisXL_V5.0"  # the weights, as the weights table names them
LORA = "pytorch_lora_weights.safetensors"
VAE = "vae.ckpt"
VARIANTS = ("base", "small")
TRAINED_K = (2.0, 96.0)  # px per disparity that the published training covered
_CHOICES = {
    "dtype": tuple(TYPES),
    "tiling": ("auto", "off"),
    "gain": ("exact", "published"),
    "distance": ("pixels", "published"),
    "resampling": ("area", "published"),
    "occlusion": ("scatter", "published"),
    "index": ("rows", "published"),
    "variant": VARIANTS,
    "offload": OFFLOADS,
}


@dataclass(frozen=True, kw_only=True)
class BokehDiffOptions:
    """Options of the engine; "published" is what the authors' program does, and what their weights were trained with."""

    gain: str = option("exact", "exact: the network is given the radius; or published: 5/6 max(d_f, 1 - d_f) of it")
    distance: str = option("pixels", "between tokens: pixels; or published: every tile is taken for 51.2 units")
    resampling: str = option("area", "of disparity to tokens: area; or published: bilinear")
    occlusion: str = option("scatter", "scatter: along the source's ray; or published: with the query's disparity")
    index: str = option("rows", "order of tokens: rows; or published: the same for square tiles only")
    contrast: float = option(1e7, "sharpness of the circle's edge, > 1")
    renormalise: bool = option(False, "hidden light goes to the pixels that still see its source")
    tiling: str = option("auto", "auto: in tiles of 512 px above two of them, as published; or off")
    dtype: str = option("bf16", "bf16 or fp32")
    variant: str = option("base", "which published weights: base or small")
    weights: str = unrecorded("", "folder to look for weights in")
    prompt_cache: str = unrecorded("", "folder of the embedded prompt")
    tile_batch: int = unrecorded(4, "tiles per call of the network")
    offload: str = unrecorded(
        "none", "model: only the network at work is on the GPU; sequential: only the layer; or none"
    )

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if not (math.isfinite(self.contrast) and self.contrast > 1):
            raise ValueError(f"contrast must be finite and > 1, got {self.contrast}")
        if not 1 <= self.tile_batch <= 256:
            raise ValueError(f"tile_batch must be in [1, 256], got {self.tile_batch}")


def label_gain(focus: float) -> float:
    """By what the published training labels fall short of the blur in their pictures, in the mean: 5/6 max(d_f, 1 - d_f).

    Args:
        focus: disparity in focus on a map whose nearest point is 1; what lies outside counts as 0 or 1.
    """
    within = min(max(focus, 0.0), 1.0)
    return 5 / 6 * max(within, 1 - within)
