"""From noise to a picture's latents: the shifted schedule, Euler steps, and each step's velocity, whole or from tiles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.engines.base import SafePoint
from pipeline.engines.genfocus.forward import Blocks, Packed, Prompt, velocity
from pipeline.engines.genfocus.latents import position_ids
from pipeline.engines.genfocus.lora import Lora
from pipeline.engines.genfocus.tiles import TILE, blend_tiles

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents (1, tokens, 64), time () -> velocity (1, tokens, 64)


def schedule_shift(tokens: int, scheduler: Mapping[str, Any]) -> float:
    """mu of the time shift, linear in the *whole* picture's tokens and extrapolated beyond the two ends it is given by.

    FLUX.1-dev: 0.5 at 256 tokens, 1.15 at 4096; 1.838 at 1920 x 1088.
    """
    low, high = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    start, end = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    return float(start + (end - start) * (tokens - low) / (high - low))


@dataclass(frozen=True, kw_only=True)
class Field:
    """The velocity field of one picture: the network, its prompt and its conditions.

    Args:
        net, lora, prompt, blocks: as `forward.velocity` takes them.
        grid: (rows, columns) of the picture in tokens.
        conditions: packed latents (1, tokens, 64) in the trained order.
        deltas: (rows, columns) by which each condition's position ids are moved. In tiles they are not, which is as published.
        guidance: the embedded guidance scale.
        tile_batch: tiles per call of the network; None runs the picture whole.
        safe_point: called before each call of the network.
    """

    net: Any
    lora: Lora
    prompt: Prompt
    blocks: Blocks
    grid: tuple[int, int]
    conditions: Sequence[Tensor]
    deltas: Sequence[tuple[int, int]]
    guidance: float
    tile_batch: int | None
    safe_point: SafePoint

    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        if self.tile_batch is None:
            ids = [position_ids(*self.grid, latents.device, delta) for delta in ((0, 0), *self.deltas)]
            return self._evaluate([latents, *self.conditions], ids, time)
        ids = [position_ids(TILE, TILE, latents.device)] * (1 + len(self.conditions))
        grids = [tokens.view(*self.grid, -1) for tokens in (latents, *self.conditions)]
        blended = blend_tiles(grids, self.tile_batch, lambda tiles: self._evaluate(tiles, ids, time))
        return blended.view_as(latents)

    def _evaluate(self, tokens: list[Tensor], ids: list[Tensor], time: Tensor) -> Tensor:
        self.safe_point()
        main, *conditions = (Packed(part, where) for part, where in zip(tokens, ids, strict=True))
        return velocity(self.net, self.lora, self.prompt, main, conditions, time, self.guidance, self.blocks)


def denoise(field: Velocity, noise: Tensor, scheduler: Any, steps: int) -> Tensor:
    """Follow the field from noise to a picture.

    Args:
        field: the velocity at a latent and a time.
        noise: (1, tokens, 64) in the network's type; all tokens of the picture.
        scheduler: a FlowMatchEulerDiscreteScheduler; its state is reset.
        steps: Euler steps.

    Returns:
        (1, tokens, 64) in the network's type.
    """
    mu = schedule_shift(noise.shape[1], scheduler.config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=noise.device)
    scheduler.set_begin_index(0)
    latents = noise
    for timestep in scheduler.timesteps:
        # The thousandth in the latent's type, as diffusers' pipeline does it: bf16 rounds the time that is embedded.
        time = timestep.to(latents.dtype) / 1000
        latents = scheduler.step(field(latents, time), timestep, latents, return_dict=False)[0]
    return latents
