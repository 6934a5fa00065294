"""FLUX.1-dev, one LoRA and one embedded prompt: checked from headers, read from files, placed on a device."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.engines.base import with_weights
from pipeline.engines.genfocus.checks import check_model, read_config
from pipeline.engines.genfocus.forward import Blocks, Prompt, compiled_blocks
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.engines.genfocus.lora import Lora, check_lora, load_lora
from pipeline.engines.genfocus.options import FLUX, TYPES, FluxOptions, MemoryPlan
from pipeline.engines.genfocus.prompts import cache_folder, embedded_prompt
from pipeline.engines.info import EngineInfo
from pipeline.errors import UsageError
from pipeline.weights import require, weights_folder, weights_named


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """Where the weights lie, and the digest of the FLUX.1-dev folder's content."""

    flux: Path
    flux_sha256: str
    lora: Path


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A FluxTransformer2DModel, an AutoencoderKL, a FlowMatchEulerDiscreteScheduler, and what is ours, in one type."""

    net: Any
    vae: Any
    scheduler: Any
    lora: Lora
    prompt: Prompt


@dataclass(frozen=True, kw_only=True)
class Placed(Parts):
    """Parts where they work, and how they came there."""

    blocks: Blocks
    offload: str


def choose_files(info: EngineInfo, lora_title: str, options: FluxOptions) -> tuple[EngineInfo, NetworkFiles]:
    """Find FLUX.1-dev and a LoRA, compare every name and shape with what the networks need, from headers alone.

    Args:
        info: of the engine's class.
        lora_title: as the registry names it.
        options: of the engine.

    Returns:
        The engine's facts with the weights' content and licence, and where the weights lie.

    Raises:
        UsageError: a file is missing, damaged, of another model, or does not fit the others.
    """
    flux, lora = require([weights_named(FLUX), weights_named(lora_title)], weights_folder(options.weights))
    info = replace(with_weights(info, [flux, lora]), deterministic=options.author_seeds)
    files = NetworkFiles(flux=flux.path, flux_sha256=info.weights[FLUX], lora=lora.path)
    _check(files)
    return info, files


def _check(files: NetworkFiles) -> None:
    config = read_config(files.flux / "transformer")
    if not config.get("guidance_embeds"):
        raise UsageError(f"{files.flux} has no guidance embedding; it must be FLUX.1-dev, not FLUX.1-schnell")
    check_lora(files.lora, config)
    check_model(files.flux / "transformer", "FluxTransformer2DModel")
    check_model(files.flux / "vae", "AutoencoderKL")


def dtype_of(options: FluxOptions) -> torch.dtype:
    """The type that weights and features have."""
    found: torch.dtype = getattr(torch, TYPES[options.dtype])
    return found


def read_parts(files: NetworkFiles, prompt: str, options: FluxOptions) -> Parts:
    """Read everything into main memory."""
    kind = dtype_of(options)
    how: dict[str, Any] = {"dtype": kind, "local_files_only": True, "use_safetensors": True}
    library, flux = diffusers(), files.flux
    return Parts(
        prompt=embedded_prompt(prompt, flux, files.flux_sha256, kind, cache_folder(options.prompt_cache)),
        net=library.FluxTransformer2DModel.from_pretrained(flux, subfolder="transformer", **how).eval(),
        vae=library.AutoencoderKL.from_pretrained(flux, subfolder="vae", **how).eval(),
        scheduler=library.FlowMatchEulerDiscreteScheduler.from_pretrained(
            flux, subfolder="scheduler", local_files_only=True
        ),
        lora=load_lora(files.lora, read_config(flux / "transformer")),
    )


def place(parts: Parts, options: FluxOptions, plan: MemoryPlan, device: str) -> Placed:
    """Parts on their device, or, when they take turns there, where they wait."""
    net, vae = parts.net, parts.vae
    if plan.offload == "none":
        net = net.to(device)
    elif plan.offload == "sequential":
        from accelerate import cpu_offload

        net = cpu_offload(net, torch.device(device))
    if plan.offload != "model":
        vae = vae.to(device)
    compiles = options.compile and plan.offload != "sequential"  # layers that come and go cannot be compiled together
    return Placed(
        net=net,
        vae=vae,
        scheduler=parts.scheduler,
        lora=parts.lora.to(device, dtype_of(options)),
        prompt=Prompt(parts.prompt.tokens.to(device), parts.prompt.pooled.to(device)),
        blocks=compiled_blocks() if compiles else Blocks(),
        offload=plan.offload,
    )
