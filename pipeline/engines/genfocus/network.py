"""From clean conditions to a picture, within the memory there is. Both engines are this, asked differently.

Gigabytes are read at the first picture, so that a memory error there meets the same ladder as one later, and a dry run reads
nothing.
"""

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.engines.base import SafePoint
from pipeline.engines.genfocus.latents import (
    PX_PER_TOKEN,
    Noise,
    decode,
    encode,
    grid_size,
    pack,
    picture_to_unit,
    unit_to_picture,
)
from pipeline.engines.genfocus.load import Parts, Placed, dtype_of, place
from pipeline.engines.genfocus.options import FluxOptions, MemoryPlan
from pipeline.engines.genfocus.sampler import Field, denoise
from pipeline.engines.genfocus.tiles import is_tiled
from pipeline.media.images import Picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """One picture to make.

    Args:
        images: what the VAE encodes as conditions, each (1, 3, H, W) float32, in the trained order and range.
        deltas: (rows, columns) by which each condition's position ids are moved.
        guidance: the embedded guidance scale.
        noise: gives the initial latents.
        posterior_noise: gives the samples of the VAE's posterior, after `noise` where the two are one stream.
    """

    images: Sequence[Tensor]
    deltas: Sequence[tuple[int, int]]
    guidance: float
    noise: Noise
    posterior_noise: Noise


class FluxNetwork:
    """Networks that are read when first needed, and again after the memory plan moved them.

    Args:
        read: reads the parts into main memory.
        options: as the engine's.
        device: where the work is done.
    """

    def __init__(self, read: Callable[[], Parts], options: FluxOptions, device: str) -> None:
        self.plan = MemoryPlan(options, device)
        self._read, self._options, self._device = read, options, device
        self._on_cuda = torch.device(device).type == "cuda"
        self._placed: Placed | None = None

    def condition(self, picture: Picture) -> Tensor:
        """A frame as the VAE takes it: (1, 3, H, W) float32 in [-1, 1] on the device. Raises InputError as `grid_size`."""
        grid_size(picture)
        return picture_to_unit(picture, self._device)

    @torch.no_grad()
    def generate(self, sampling: Sampling, safe_point: SafePoint) -> Picture:
        """The picture, (H, W, 3) uint8.

        Raises:
            torch.OutOfMemoryError, MemoryError: too large for the memory plan in force; a plan that was shrunk may help.
        """
        started = time.monotonic()
        self._start_measuring()
        parts = self._ready()
        height, width = sampling.images[0].shape[-2:]
        tiled = self.plan.tiling and is_tiled(height, width)
        self._take_turns(parts, parts.vae)
        parts.vae.use_tiling = self.plan.vae_tiling
        # Two rows and columns of the latent are a token; the noise comes first, then a sample per condition.
        grid = (height // PX_PER_TOKEN, width // PX_PER_TOKEN)
        shape = (1, parts.vae.config.latent_channels, 2 * grid[0], 2 * grid[1])
        noise = pack(sampling.noise.draw(shape, self._device, dtype_of(self._options)))
        conditions = [encode(parts.vae, image, sampling.posterior_noise) for image in sampling.images]
        safe_point()
        self._take_turns(parts, parts.net)
        field = Field(
            net=parts.net,
            lora=parts.lora,
            prompt=parts.prompt,
            blocks=parts.blocks,
            grid=grid,
            conditions=conditions,
            deltas=sampling.deltas,
            guidance=sampling.guidance,
            tile_batch=self.plan.tile_batch if tiled else None,
            safe_point=safe_point,
        )
        latents = denoise(field, noise, parts.scheduler, self._options.steps)
        self._take_turns(parts, parts.vae)
        picture = unit_to_picture(decode(parts.vae, latents, *grid))
        how = "tiled" if tiled else "whole"
        seconds, gib = time.monotonic() - started, self.peak_gib()
        _log.info("%dx%d %s, %d steps: %.2f s, peak %.2f GiB", width, height, how, self._options.steps, seconds, gib)
        return picture

    def _ready(self) -> Placed:
        if self._placed is None or self._placed.offload != self.plan.offload:
            self._placed = None  # parts that were placed otherwise go before others come
            self._free()
            self._placed = place(self._read(), self._options, self.plan, self._device)
        return self._placed

    def _take_turns(self, parts: Placed, active: Any) -> None:
        """With offload "model", the network at work is on the device and the other is not."""
        if parts.offload != "model":
            return
        (parts.vae if active is parts.net else parts.net).to("cpu")
        self._free()
        active.to(self._device)

    def _free(self) -> None:
        if self._on_cuda:
            torch.cuda.empty_cache()

    def _start_measuring(self) -> None:
        self._free()  # what an attempt that ran out of memory left behind
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak_gib(self) -> float:
        """Of the GPU during the last picture; on the CPU, of the process so far."""
        if self._on_cuda:
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
