"""FLUX.1-dev with one LoRA, ready to turn clean conditions into a picture. Both engines are this, asked differently.

Files are checked when it is made, from their headers; gigabytes are read at the first picture, so that a memory error there
meets the same ladder as one later, and a dry run reads nothing.
"""

import importlib
import logging
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.engines.base import SafePoint
from pipeline.engines.genfocus.checks import check_model, read_config
from pipeline.engines.genfocus.forward import Blocks, Prompt, compiled_blocks
from pipeline.engines.genfocus.latents import Noise, decode, encode, grid_size, pack, picture_to_unit, unit_to_picture
from pipeline.engines.genfocus.lora import Lora, check_lora, load_lora
from pipeline.engines.genfocus.options import TYPES, FluxOptions, MemoryPlan
from pipeline.engines.genfocus.prompts import cache_folder, embedded_prompt
from pipeline.engines.genfocus.sampler import Field, denoise
from pipeline.engines.genfocus.tiles import is_tiled
from pipeline.errors import UsageError
from pipeline.frames import Picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """Where the weights lie, and the digest of the FLUX.1-dev folder's content."""

    flux: Path
    flux_sha256: str
    lora: Path


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


@dataclass(frozen=True)
class _Loaded:
    """Networks in memory, and how they were placed there."""

    net: Any
    vae: Any
    scheduler: Any
    lora: Lora
    prompt: Prompt
    blocks: Blocks
    offload: str


class FluxNetwork:
    """Loads, places and runs.

    Raises:
        UsageError: a file is damaged, belongs to another model, or does not fit the others.
    """

    def __init__(self, files: NetworkFiles, prompt: str, options: FluxOptions, device: str) -> None:
        self.plan = MemoryPlan(options, device)
        self._files, self._prompt, self._options, self._device = files, prompt, options, device
        self._type = TYPES[options.dtype]
        self._loaded: _Loaded | None = None
        self._config = read_config(files.flux / "transformer")
        if not self._config.get("guidance_embeds"):
            raise UsageError(f"{files.flux} has no guidance embedding; it must be FLUX.1-dev, not FLUX.1-schnell")
        rank = check_lora(files.lora, self._config)
        check_model(files.flux / "transformer", "FluxTransformer2DModel")
        check_model(files.flux / "vae", "AutoencoderKL")
        _log.info("%s: LoRA of rank %d", files.lora.name, rank)

    def condition(self, picture: Picture) -> Tensor:
        """A frame as the VAE takes it: (1, 3, H, W) float32 in [-1, 1] on the device. Raises InputError as `grid_size`."""
        grid_size(picture)
        return picture_to_unit(picture, self._device)

    @torch.no_grad()
    def generate(self, sampling: Sampling, safe_point: SafePoint) -> Picture:
        """The picture, (H, W, 3) uint8.

        Raises:
            torch.OutOfMemoryError, MemoryError: too large for the memory plan in force; `plan.shrink` may help.
        """
        started = time.monotonic()
        self._start_measuring()
        loaded = self._load()
        height, width = sampling.images[0].shape[-2:]
        grid = (height // 16, width // 16)
        tiled = self.plan.tiling and is_tiled(height, width)
        self._take_turns(loaded, loaded.vae)
        loaded.vae.use_tiling = self.plan.vae_tiling
        channels = loaded.vae.config.latent_channels
        noise = sampling.noise.draw((1, channels, height // 8, width // 8), self._device, self._type)
        conditions = [encode(loaded.vae, image, sampling.posterior_noise) for image in sampling.images]
        safe_point()
        self._take_turns(loaded, loaded.net)
        field = Field(
            net=loaded.net,
            lora=loaded.lora,
            prompt=loaded.prompt,
            blocks=loaded.blocks,
            grid=grid,
            conditions=conditions,
            deltas=sampling.deltas,
            guidance=sampling.guidance,
            tile_batch=self.plan.tile_batch if tiled else None,
            safe_point=safe_point,
        )
        latents = denoise(field, pack(noise), loaded.scheduler, self._options.steps)
        self._take_turns(loaded, loaded.vae)
        picture = unit_to_picture(decode(loaded.vae, latents, *grid))
        how = "tiled" if tiled else "whole"
        seconds, gib = time.monotonic() - started, self._peak_gib()
        _log.info("%dx%d %s, %d steps: %.2f s, peak %.2f GiB", width, height, how, self._options.steps, seconds, gib)
        return picture

    def _load(self) -> _Loaded:
        if self._loaded is not None and self._loaded.offload == self.plan.offload:
            return self._loaded
        self._loaded = None  # frees the memory of networks that were placed otherwise
        self._free()
        diffusers: Any = importlib.import_module("diffusers")
        flux, kind = self._files.flux, {"dtype": self._type, "local_files_only": True}
        prompt = embedded_prompt(
            self._prompt, flux, self._files.flux_sha256, self._type, cache_folder(self._options.prompt_cache)
        )
        net = diffusers.FluxTransformer2DModel.from_pretrained(
            flux, subfolder="transformer", use_safetensors=True, **kind
        ).eval()
        vae = diffusers.AutoencoderKL.from_pretrained(flux, subfolder="vae", use_safetensors=True, **kind).eval()
        self._loaded = _Loaded(
            net=self._placed(net),
            vae=vae if self.plan.offload == "model" else vae.to(self._device),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
                flux, subfolder="scheduler", local_files_only=True
            ),
            lora=load_lora(self._files.lora, self._config).to(self._device, self._type),
            prompt=Prompt(prompt.tokens.to(self._device), prompt.pooled.to(self._device)),
            blocks=compiled_blocks() if self._options.compile else Blocks(),
            offload=self.plan.offload,
        )
        return self._loaded

    def _placed(self, net: Any) -> Any:
        if self.plan.offload == "sequential":
            from accelerate import cpu_offload

            return cpu_offload(net, torch.device(self._device))
        return net if self.plan.offload == "model" else net.to(self._device)

    def _take_turns(self, loaded: _Loaded, active: Any) -> None:
        """With offload "model", the network at work is on the GPU and the other is not."""
        if loaded.offload != "model":
            return
        (loaded.vae if active is loaded.net else loaded.net).to("cpu")
        self._free()
        active.to(self._device)

    def _free(self) -> None:
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()

    def _start_measuring(self) -> None:
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()  # what an attempt that ran out of memory left behind
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak_gib(self) -> float:
        """Of the GPU during this picture; on the CPU, of the process so far."""
        if torch.device(self._device).type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
