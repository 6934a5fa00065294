"""What can be set on both Genfocus engines, and the steps by which they come to need less memory."""

import logging
from dataclasses import dataclass
from typing import Protocol

from pipeline.engines.info import option, unrecorded

TYPES = {"bf16": "bfloat16", "fp32": "float32"}  # by PyTorch's names
FLUX = "FLUX.1-dev"  # as the weights table names it
OFFLOADS = ("none", "model", "sequential")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FluxOptions:
    """Common to deblurring and bokeh; the defaults of `steps` differ.

    Without tiles the authors warn of sizes near and above 1000 px. `author_seeds` draws the published code's noise (seeds 42
    and 1234, on the device) instead of the scene's.
    """

    steps: int = option(8, "denoising steps", flag="steps")
    tiling: str = option("auto", "auto: in tiles where both sides are 512 px or more, as published; or off")
    dtype: str = option("bf16", "bf16, as published on GPUs, or fp32")
    author_seeds: bool = option(False, "the published code's noise instead of the scene's")
    weights: str = unrecorded("", "folder to look for weights in")
    prompt_cache: str = unrecorded("", "folder of embedded prompts")
    tile_batch: int = unrecorded(1, "tiles per call of the network")
    compile: bool = unrecorded(False, "torch.compile the transformer's blocks")
    offload: str = unrecorded(
        "none", "model: only the network at work is on the GPU; sequential: only the layer; or none"
    )

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps must be in [1, 1000], got {self.steps}")
        if not 1 <= self.tile_batch <= 256:
            raise ValueError(f"tile_batch must be in [1, 256], got {self.tile_batch}")
        for name, allowed in (("tiling", ("auto", "off")), ("dtype", tuple(TYPES)), ("offload", OFFLOADS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")


class MemoryOptions(Protocol):
    """What a plan starts from."""

    @property
    def tile_batch(self) -> int: ...

    @property
    def offload(self) -> str: ...

    @property
    def tiling(self) -> str: ...


class MemoryPlan:
    """How much is held at once. It starts as the options say; each `shrink` takes the next step down.

    What leaves the picture as it is comes first (fewer tiles at once, networks taking turns on the GPU); then what changes it
    (tiles where they were off, the VAE in tiles); last what is slow (layers one by one).
    """

    def __init__(self, options: MemoryOptions, device: str) -> None:
        self._gpu = not device.startswith("cpu")
        self.tile_batch = options.tile_batch
        self.offload = options.offload if self._gpu else "none"
        self.tiling = options.tiling == "auto"
        self.vae_tiling = False

    def shrink(self) -> bool:
        """Take one step; False when there is none left."""
        if self.tile_batch > 1:
            self.tile_batch //= 2
        elif self._gpu and self.offload == "none":
            self.offload = "model"
        elif not self.tiling:
            self.tiling = True
        elif not self.vae_tiling:
            self.vae_tiling = True
        elif self._gpu and self.offload == "model":
            self.offload = "sequential"
        else:
            return False
        _log.warning("less memory from here on: %s", self)
        return True

    def __str__(self) -> str:
        return (
            f"tile_batch {self.tile_batch}, offload {self.offload}, tiling {'auto' if self.tiling else 'off'}, "
            f"VAE {'in tiles' if self.vae_tiling else 'whole'}"
        )
