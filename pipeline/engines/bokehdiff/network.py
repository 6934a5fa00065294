"""From a sharp picture and its disparity to the photograph, within the memory there is.

Gigabytes are read at the first picture, so that a memory error there meets the same ladder as one later.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.engines.base import SafePoint
from pipeline.engines.bokehdiff.load import Parts
from pipeline.engines.bokehdiff.options import BokehDiffOptions
from pipeline.engines.bokehdiff.pisa import Defocus, geometry
from pipeline.engines.bokehdiff.step import LATENT_PX, TIMESTEP, clean, cut, is_tiled, padded_px, tiled_noise
from pipeline.engines.genfocus.latents import picture_to_unit, unit_to_picture
from pipeline.engines.genfocus.options import MemoryPlan
from pipeline.media.images import Picture

_log = logging.getLogger(__name__)


class SdxlNetwork:
    """Networks that are read when first needed, and again after the memory plan moved them.

    Args:
        read: reads the parts into main memory.
        options: as the engine's.
        device: where the work is done.
    """

    def __init__(self, read: Callable[[], Parts], options: BokehDiffOptions, device: str) -> None:
        self.plan = MemoryPlan(options, device)
        self._read, self._device = read, device
        self._on_cuda = torch.device(device).type == "cuda"
        self._parts: Parts | None = None
        self._placed = ""  # the offload that the parts were placed for

    @torch.no_grad()
    def render(self, sharp: Picture, defocus: Defocus, safe_point: SafePoint) -> Picture:
        """The photograph, (H, W, 3) uint8.

        Args:
            sharp: (H, W, 3) uint8, any size.
            defocus: with a disparity (1, H, W) float32.
            safe_point: called before each call of the network.

        Raises:
            torch.OutOfMemoryError, MemoryError: too large for the memory plan in force; a plan that shrinks may help.
        """
        started = time.monotonic()
        if self._on_cuda:
            torch.cuda.empty_cache()
        parts = self._ready()
        height, width = sharp.shape[:2]
        size = padded_px(height, width, self.plan.tiling)
        image = _padded(picture_to_unit(sharp, self._device), size)
        disparity = _padded(defocus.disparity.to(self._device)[None], size)[0]
        defocus = replace(defocus, disparity=disparity)
        self._take_turns(parts, parts.vae)
        parts.vae.use_tiling = self.plan.vae_tiling
        latent = parts.vae.encode(image.to(parts.vae.dtype)).latent_dist.mode() * parts.vae.config.scaling_factor
        self._take_turns(parts, parts.unet)
        noise = self._noise(parts, latent, defocus, safe_point)
        result = clean(latent.float(), noise, parts.alpha)
        self._take_turns(parts, parts.vae)
        decoded = parts.vae.decode((result / parts.vae.config.scaling_factor).to(parts.vae.dtype), return_dict=False)[0]
        _log.info("%dx%d in %dx%d: %.2f s", width, height, size[1], size[0], time.monotonic() - started)
        return unit_to_picture(decoded[..., :height, :width])

    def _noise(self, parts: Parts, latent: Tensor, defocus: Defocus, safe_point: SafePoint) -> Tensor:
        """(1, 4, R, C) float32, whole or from tiles."""
        picture = tuple(side * LATENT_PX for side in latent.shape[2:])

        def evaluate(corners: list[tuple[int, int]], tiles: Tensor, part: Defocus) -> Tensor:
            safe_point()
            parts.pisa.where = geometry(part, parts.pisa.pisa)
            # height and width of the picture, the tile's corner in latents as published, height and width again
            ids = [[*picture, *corner, *picture] for corner in corners]
            count = len(corners)
            given = {
                "text_embeds": parts.text.pooled.to(tiles).expand(count, -1),
                "time_ids": torch.tensor(ids, dtype=tiles.dtype, device=tiles.device),
            }
            words = parts.text.tokens.to(tiles).expand(count, -1, -1)
            seen: Tensor = parts.unet(tiles, TIMESTEP, words, added_cond_kwargs=given, return_dict=False)[0]
            return seen

        if not (self.plan.tiling and is_tiled(*latent.shape[2:])):
            return evaluate([(0, 0)], latent, defocus).float()

        def on_tiles(corners: list[tuple[int, int]], tiles: Tensor) -> Tensor:
            maps = torch.cat([cut(defocus.disparity, corner, LATENT_PX) for corner in corners])
            return evaluate(corners, tiles, replace(defocus, disparity=maps))

        return tiled_noise(latent, self.plan.tile_batch, on_tiles)

    def _ready(self) -> Parts:
        if self._parts is None or self._placed != self.plan.offload:
            self._parts = None  # parts that were placed otherwise go before others come
            if self._on_cuda:
                torch.cuda.empty_cache()
            parts = self._read()
            if self.plan.offload == "none":
                parts.unet.to(self._device)
            elif self.plan.offload == "sequential":
                from accelerate import cpu_offload

                cpu_offload(parts.unet, torch.device(self._device))
            if self.plan.offload != "model":
                parts.vae.to(self._device)
            self._parts, self._placed = parts, self.plan.offload
        return self._parts

    def _take_turns(self, parts: Parts, active: Any) -> None:
        """With offload "model", the network at work is on the device and the other is not."""
        if self._placed != "model":
            return
        (parts.vae if active is parts.unet else parts.unet).to("cpu")
        torch.cuda.empty_cache()
        active.to(self._device)


def _padded(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) -> (1, C, *size): the last row and column go on."""
    below, right = (new - old for new, old in zip(size, image.shape[-2:], strict=True))
    return F.pad(image, (0, right, 0, below), mode="replicate")
