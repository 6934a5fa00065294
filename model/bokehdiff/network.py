"""BokehDiff as a module that trains: the engine's parts, an adapter in them, and the way from a picture to its photograph.

The base is inside and frozen; `names` says what is trained, and under which names the engine's files have it. PISA's hardness
is set by whoever calls: it is a function of the step, and a counter in the layer would count a checkpointed pass twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.bokehdiff.config import BokehDiffConfig
from pipeline.engines.bokehdiff.load import Parts, check_base, schedule_alpha
from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.options import BASE
from pipeline.engines.bokehdiff.pisa import Defocus, Geometry, Pisa, geometry
from pipeline.engines.bokehdiff.processor import PisaProcessor, install
from pipeline.engines.bokehdiff.step import TIMESTEP, clean
from pipeline.engines.bokehdiff.text import constant_text
from pipeline.engines.bokehdiff.vae import trained_shapes
from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.engines.genfocus.prompts import cache_folder
from pipeline.weights import Condition, Found, check, content_sha256, require, weights_folder, weights_named

_ADAPTER = "default"  # PEFT's name for the only one


@dataclass(frozen=True, kw_only=True)
class Base:
    """An SDXL that was found: its folder and the digest of its content."""

    folder: Path
    sha256: str


def find_base(given: str) -> Base:
    """The folder that was asked for, else the one of the weights table; checked as the engine checks it.

    Raises:
        UsageError: it is not there, damaged, or no SDXL.
    """
    wanted = weights_named(BASE)
    if given:
        check(wanted, Path(given))
        found = Found(weights=wanted, path=Path(given), condition=Condition.THERE)
    else:
        found = require([wanted], weights_folder())[0]
    check_base(found.path)
    return Base(folder=found.path, sha256=content_sha256(found))


class BokehDiffNet(nn.Module):
    """An SDXL with what is trained of it.

    Args:
        config: what that is.
        base: the SDXL.
        prompt_cache: folder of the embedded prompt; empty for the user's.

    Attributes:
        names: parameter name -> name in the published files, "unet." and "vae." before the engine's own.
        vae_names: those of them that are the VAE's.
    """

    tokens: Tensor
    pooled: Tensor

    def __init__(self, config: BokehDiffConfig, base: Base, prompt_cache: str = "") -> None:
        super().__init__()
        self.config, self.base = config, base
        how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
        library = diffusers()
        self.unet = library.UNet2DConditionModel.from_pretrained(base.folder, subfolder="unet", **how)
        self.vae = library.AutoencoderKL.from_pretrained(base.folder, subfolder="vae", **how)
        self.requires_grad_(config.adapt == "full")
        self.alpha = schedule_alpha(base.folder)
        text = constant_text(base.folder, base.sha256, cache_folder(prompt_cache))
        self.register_buffer("tokens", text.tokens, persistent=False)
        self.register_buffer("pooled", text.pooled, persistent=False)
        self.processor = (
            install(self.unet, config.conventions()) if config.pisa else PisaProcessor(config.conventions())
        )
        for block in self.unet.down_blocks[1].attentions[0].transformer_blocks:
            block.attn1.to_out[1].p = config.dropout
        if config.adapt == "lora":
            self._adapt(config)
        self.names = self._names()
        self.vae_names = [name for name in self.names if name.startswith("vae.")]

    def _adapt(self, config: BokehDiffConfig) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        layers = list(adapted_layers(self.unet))
        settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers)  # type: ignore[arg-type]
        inject_adapter_in_model(settings, self.unet, adapter_name=_ADAPTER)
        trained = trained_shapes(self.vae) if config.opt_vae else {}
        for name, parameter in self.vae.named_parameters():
            parameter.requires_grad_(name in trained)

    def _names(self) -> dict[str, str]:
        found = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                found[name] = name.replace(f".{_ADAPTER}.weight", ".weight")
        return found

    def forward(self, sharp: Tensor, defocus: Sequence[Defocus], pisa: Pisa) -> Tensor:
        """The photographs.

        Args:
            sharp: (B, 3, H, W) in [-1, 1], sides that are multiples of 16.
            defocus: one per picture, disparity (1, H, W).
            pisa: the conventions, with the hardness of the step.

        Returns:
            (B, 3, H, W), about in [-1, 1]; not clamped.
        """
        count, _, height, width = sharp.shape
        if self.config.pisa:
            self.processor.pisa = pisa
            self.processor.where = _together([geometry(one, pisa) for one in defocus])
        scaling = self.vae.config.scaling_factor
        latent = self.vae.encode(sharp).latent_dist.mode() * scaling
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=latent.dtype, device=latent.device)
        given = {"text_embeds": self.pooled.expand(count, -1), "time_ids": ids.expand(count, -1)}
        words = self.tokens.expand(count, -1, -1)
        noise = self.unet(latent, TIMESTEP, words, added_cond_kwargs=given, return_dict=False)[0]
        drawn: Tensor = self.vae.decode(clean(latent, noise, self.alpha) / scaling, return_dict=False)[0]
        return drawn

    def parts(self, contrast: float) -> Parts:
        """The same networks as the engine takes them, adapter beside the weights, for pictures of any size."""
        self.processor.pisa = self.config.conventions(contrast)
        text = Prompt(self.tokens, self.pooled)
        return Parts(unet=self.unet, vae=self.vae, pisa=self.processor, text=text, alpha=self.alpha)

    def take(self, published: dict[str, Tensor]) -> None:
        """Load what was trained, by its published names.

        Raises:
            RuntimeError: not exactly those names and shapes.
        """
        own = {there: here for here, there in self.names.items()}
        if own.keys() != published.keys():
            first = min(own.keys() ^ published.keys())
            what = "is missing" if first in own else "is no tensor of this network"
            raise RuntimeError(f"{first} {what}")
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for there, value in published.items():
                if parameters[own[there]].shape != value.shape:
                    raise RuntimeError(f"{there} is {tuple(value.shape)}")
                parameters[own[there]].copy_(value)


def _together(parts: Sequence[Geometry]) -> Geometry:
    return Geometry(torch.cat([one.gate for one in parts]), torch.cat([one.visible for one in parts]))
