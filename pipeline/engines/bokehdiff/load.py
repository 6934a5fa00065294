"""SDXL, BokehDiff's LoRA, its part of the VAE and the constant text: checked from headers, read, merged, placed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.engines.base import with_weights
from pipeline.engines.bokehdiff.lora import check_lora, merge_lora
from pipeline.engines.bokehdiff.options import BASE, LORA, VAE, BokehDiffOptions
from pipeline.engines.bokehdiff.pisa import Pisa
from pipeline.engines.bokehdiff.processor import PisaProcessor, install
from pipeline.engines.bokehdiff.step import LATENT_PX, TIMESTEP
from pipeline.engines.bokehdiff.text import constant_text
from pipeline.engines.bokehdiff.vae import load_trained, read_trained
from pipeline.engines.genfocus.checks import check_model, read_config
from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.engines.genfocus.options import TYPES
from pipeline.engines.genfocus.prompts import cache_folder
from pipeline.engines.info import EngineInfo
from pipeline.errors import UsageError
from pipeline.weights import require, weights_folder, weights_named

_UNET, _VAE = "UNet2DConditionModel", "AutoencoderKL"


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """Where the weights lie, and the digest of the base's content."""

    base: Path
    base_sha256: str
    lora: Path
    vae: Path


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A UNet2DConditionModel with the LoRA merged and PISA in place, an AutoencoderKL, the text, and the step's alpha."""

    unet: Any
    vae: Any
    pisa: PisaProcessor
    text: Prompt
    alpha: float


def choose_files(info: EngineInfo, options: BokehDiffOptions) -> tuple[EngineInfo, NetworkFiles]:
    """Find the weights and compare every name and shape with the networks, from headers alone.

    Returns:
        The engine's facts with the weights' content and licences, and where the weights lie.

    Raises:
        UsageError: a file is missing, damaged, of another model, or does not fit the others.
    """
    below = "" if options.variant == "base" else f"{options.variant}/"
    wanted = [weights_named(title) for title in (BASE, below + LORA, below + VAE)]
    base, lora, vae = require(wanted, weights_folder(options.weights))
    info = with_weights(info, [base, lora, vae])
    files = NetworkFiles(base=base.path, base_sha256=info.weights[BASE], lora=lora.path, vae=vae.path)
    _check(files)
    return info, files


def _check(files: NetworkFiles) -> None:
    check_base(files.base)
    with torch.device("meta"):
        unet = getattr(diffusers(), _UNET).from_config(read_config(files.base / "unet"))
        vae = getattr(diffusers(), _VAE).from_config(read_config(files.base / "vae"))
    check_lora(files.lora, unet)
    read_trained(files.vae, vae)


def check_base(base: Path) -> None:
    """Compare an SDXL's tensors with its configs, and its configs with what BokehDiff stands on.

    Raises:
        UsageError: another model in diffusers' layout; what SDXL alone has is looked for.
    """
    config, coder = read_config(base / "unet"), read_config(base / "vae")
    blocks = config.get("down_block_types") or [""]
    needed = {
        "_class_name": (config.get("_class_name"), _UNET),
        "addition_embed_type": (config.get("addition_embed_type"), "text_time"),
        "use_linear_projection": (config.get("use_linear_projection"), True),
        "in_channels": (config.get("in_channels"), coder.get("latent_channels")),  # 4, but for small ones
        "down_block_types": (list(blocks[:2]), ["DownBlock2D", "CrossAttnDownBlock2D"]),
    }
    for name, (found, right) in needed.items():
        if found != right:
            raise UsageError(
                f"{base} is no SDXL: {name} of its unet is {found!r}, needed is {right!r}; BokehDiff stands on {BASE} or "
                "another SDXL in diffusers' layout"
            )
    reduced = 2 ** (len(coder.get("block_out_channels") or [1]) - 1)
    if reduced != LATENT_PX:
        raise UsageError(f"{base} is no SDXL: its VAE reduces by {reduced}, needed is {LATENT_PX}")
    check_model(base / "unet", _UNET)
    check_model(base / "vae", _VAE)


def schedule_alpha(base: Path) -> float:
    """The product of the base schedule's alphas up to the step.

    Raises:
        UsageError: the schedule cannot be read, or the network predicts something else than the noise.
    """
    try:
        scheduler = diffusers().DDPMScheduler.from_pretrained(base, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"the schedule in {base / 'scheduler'} cannot be read ({error}); fetch it again") from None
    if scheduler.config.prediction_type != "epsilon":
        raise UsageError(
            f"{base} predicts {scheduler.config.prediction_type}; BokehDiff needs one that predicts epsilon"
        )
    return float(scheduler.alphas_cumprod[TIMESTEP])


def pisa_of(options: BokehDiffOptions) -> Pisa:
    """The conventions that the options choose."""
    names = ("distance", "resampling", "occlusion", "index", "contrast", "renormalise")
    return Pisa(**{name: getattr(options, name) for name in names})


def read_parts(files: NetworkFiles, options: BokehDiffOptions) -> Parts:
    """Read everything into main memory, the LoRA merged into the weights."""
    how: dict[str, Any] = {
        "dtype": getattr(torch, TYPES[options.dtype]),
        "local_files_only": True,
        "use_safetensors": True,
    }
    library, base = diffusers(), files.base
    text = constant_text(base, files.base_sha256, cache_folder(options.prompt_cache))
    unet = getattr(library, _UNET).from_pretrained(base, subfolder="unet", **how).eval()
    merge_lora(unet, files.lora)
    vae = getattr(library, _VAE).from_pretrained(base, subfolder="vae", **how).eval()
    load_trained(vae, files.vae)
    return Parts(unet=unet, vae=vae, pisa=install(unet, pisa_of(options)), text=text, alpha=schedule_alpha(files.base))
