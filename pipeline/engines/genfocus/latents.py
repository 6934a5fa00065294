"""Pictures to packed latents and back: the VAE, 2 x 2 patches as tokens, and where each token lies.

A picture enters the VAE in [-1, 1]; a defocus map enters it raw, in [0, 1], which is how BokehNet was trained. The encoding is
a *sample* of the VAE's posterior, so it draws noise.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.media.images import Picture

PX_PER_TOKEN = 16  # the VAE's 8, times patches of 2 x 2


def grid_size(picture: Picture) -> tuple[int, int]:
    """(rows, columns) in tokens.

    Raises:
        InputError: the picture is not (H, W, 3) uint8, or a side is not a multiple of 16.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise InputError(f"a frame must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    height, width = picture.shape[:2]
    if height % PX_PER_TOKEN or width % PX_PER_TOKEN or not height or not width:
        raise InputError(
            f"a frame is {width}x{height}, and FLUX needs sides that are multiples of {PX_PER_TOKEN}; "
            "phase 2 resizes frames so"
        )
    return height // PX_PER_TOKEN, width // PX_PER_TOKEN


def picture_to_unit(picture: Picture, device: str | torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [-1, 1], contiguous.

    Left as a view the channels would stay innermost, for which convolutions of the VAE take other kernels with another
    rounding; the authors' image processor hands over what is laid out channel by channel.
    """
    return image_to_tensor(picture, device)[None].contiguous() * 2 - 1


def unit_to_picture(image: Tensor) -> Picture:
    """(1, 3, H, W) in [-1, 1] -> (H, W, 3) uint8, clamped and rounded."""
    return tensor_to_image(image[0].float() / 2 + 0.5)


def pack(latent: Tensor) -> Tensor:
    """(B, C, 2 h, 2 w) -> (B, h w, 4 C): row-major tokens, each a patch with its channel outermost."""
    batch, channels, height, width = latent.shape
    patches = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`: (B, rows columns, 4 C) -> (B, C, 2 rows, 2 columns)."""
    batch, _, channels = tokens.shape
    patches = tokens.view(batch, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // 4, 2 * rows, 2 * columns)


def position_ids(rows: int, columns: int, device: str | torch.device, delta: tuple[int, int] = (0, 0)) -> Tensor:
    """(rows columns, 3) float32: 0, row, column, moved by `delta` (rows, columns)."""
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None] + delta[0]
    grid[..., 2] = torch.arange(columns, device=device) + delta[1]
    return grid.view(-1, 3)


class Noise:
    """Standard normal numbers from a seed.

    By default they are drawn in float32 on the CPU, so that every machine draws the same. `native` draws them in the type
    and on the device where they are used, as the published code does; there they differ from GPU to CPU. PyTorch's CPU
    generator reads the lower 32 bits of a seed only, so seeds must be hashes, as `stable_seed` makes them.
    """

    def __init__(self, seed: int, device: str | torch.device, native: bool = False) -> None:
        self._native = native
        self._generator = torch.Generator(device if native else "cpu").manual_seed(seed)

    def draw(self, shape: tuple[int, ...], device: str | torch.device, dtype: torch.dtype) -> Tensor:
        """The next numbers of the stream."""
        drawn_as = dtype if self._native else torch.float32
        return torch.randn(shape, generator=self._generator, device=self._generator.device, dtype=drawn_as).to(
            device, dtype
        )


def encode(vae: Any, image: Tensor, noise: Noise) -> Tensor:
    """(1, 3, H, W) -> packed latents (1, tokens, 64) in the VAE's type: a sample of the posterior."""
    posterior = vae.encode(image.to(vae.dtype)).latent_dist
    drawn = noise.draw(posterior.mean.shape, posterior.mean.device, posterior.mean.dtype)
    latent = posterior.mean + posterior.std * drawn
    return pack((latent - vae.config.shift_factor) * vae.config.scaling_factor)


def decode(vae: Any, tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Packed latents -> (1, 3, H, W), about in [-1, 1]."""
    latent = unpack(tokens, rows, columns) / vae.config.scaling_factor + vae.config.shift_factor
    return vae.decode(latent, return_dict=False)[0]
