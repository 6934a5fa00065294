"""BokehNet: FLUX.1-dev that sees the sharp frame and a defocus map, and draws the photograph.

The network reads its map as the radius of the circle of confusion in pixels / 100 (it was trained on a scatter renderer
whose K times a difference of disparities is a radius). The stored label 1 - focus_map is a radius over max_coc instead, so
"physical" guidance converts: the picture is then blurred as much as its label says. Nobody has published the calibration, hence
`guidance_px`.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.device import resolve_device
from pipeline.engines.base import BokehRequest, SafePoint
from pipeline.engines.genfocus.options import FLUX, FluxOptions
from pipeline.engines.info import EngineInfo, option
from pipeline.errors import InputError
from pipeline.media.images import Picture
from pipeline.optics.lens import coc_to_radius_px
from pipeline.seeds import stable_seed
from pipeline.weights import weights_named

GUIDANCE_SCALE = 1.0  # FLUX's embedded guidance, not the map
AUTHOR_SEED, AUTHOR_POSTERIOR_SEED = 1234, 42
LORA = "bokehNet.safetensors"


class BokehNet:
    """The initial latents depend on the seed alone, so all frames and sets of a scene share them."""

    info = EngineInfo(
        name="bokehnet", role="bokeh", version=1, licence=weights_named(FLUX).licence, deterministic=False
    )

    @dataclass(frozen=True, kw_only=True)
    class Options(FluxOptions):
        """What the defocus map means."""

        steps: int = option(30, "denoising steps", flag="steps")
        guidance: str = option(
            "physical", "physical: radius in px / guidance_px; or normalised: 1 - focus_map as it is", flag="guidance"
        )
        guidance_px: float = option(100.0, "radius that the network takes for 1, px", flag="guidance_px")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.guidance not in ("physical", "normalised"):
                raise ValueError(f"guidance must be physical or normalised, got {self.guidance!r}")
            if not 1 <= self.guidance_px <= 10_000:
                raise ValueError(f"guidance_px must be in [1, 10000], got {self.guidance_px}")

    @classmethod
    def info_for(cls, options: Options) -> EngineInfo:
        """The published noise is the same for every seed."""
        return replace(cls.info, deterministic=options.author_seeds)

    def __init__(self, options: Options, device: str) -> None:
        from pipeline.engines.genfocus.load import choose_files, read_parts
        from pipeline.engines.genfocus.network import FluxNetwork
        from pipeline.engines.genfocus.prompts import BOKEH_PROMPT

        device = resolve_device(device)
        self.options = options
        self.info, files = choose_files(type(self).info, LORA, options)
        self._network = FluxNetwork(partial(read_parts, files, BOKEH_PROMPT, options), options, device)
        self._device = device

    def shrink(self) -> bool:
        return self._network.plan.shrink()

    @property
    def guidance(self) -> str:
        """What the map means, for metadata."""
        return str(self.options.guidance)

    def guidance_factor(self, max_coc_m: float, px_per_mm: float) -> float:
        """By what 1 - focus_map is multiplied.

        Args:
            max_coc_m: diameter at which the focus map saturates, metres.
            px_per_mm: of the full frame.
        """
        if self.options.guidance == "normalised":
            return 1.0
        return float(coc_to_radius_px(max_coc_m, px_per_mm)) / self.options.guidance_px

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        if request.focus_map.shape != request.sharp.shape[:2]:
            raise InputError(f"the focus map is {request.focus_map.shape}, its frame {request.sharp.shape[:2]}")
        guide = defocus_map(request.focus_map, self.guidance_factor(request.max_coc_m, request.px_per_mm))
        return self.render_map(request.sharp, guide, request.seed, safe_point)

    def render_map(self, sharp: Picture, defocus: npt.NDArray[np.float32], seed: int, safe_point: SafePoint) -> Picture:
        import torch

        from pipeline.engines.genfocus.latents import Noise
        from pipeline.engines.genfocus.network import Sampling

        safe_point()
        image = self._network.condition(sharp)
        if not defocus.any():  # all in focus: a network would only redraw the frame
            return sharp
        published = self.options.author_seeds
        sampling = Sampling(
            # The map enters the VAE in [0, 1], not in [-1, 1].
            images=(image, torch.from_numpy(defocus).to(self._device).expand(1, 3, -1, -1)),
            deltas=((0, 0), (0, 0)),
            guidance=GUIDANCE_SCALE,
            noise=Noise(AUTHOR_SEED if published else seed, self._device, native=published),
            posterior_noise=Noise(
                AUTHOR_POSTERIOR_SEED if published else stable_seed("posterior", seed), self._device, native=published
            ),
        )
        return self._network.generate(sampling, safe_point)


def defocus_map(focus_map: npt.NDArray[np.float16], factor: float) -> npt.NDArray[np.float32]:
    """(H, W) focus map in [0, 1] -> (H, W) float32 in [0, 1], 0 in focus: clamp((1 - focus_map) * factor)."""
    return np.clip((1 - focus_map.astype(np.float32)) * np.float32(factor), 0, 1)


ENGINE = BokehNet
