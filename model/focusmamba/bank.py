"""The fixed filters in front of the network: what classical estimators of focus measure, in linear light.

Special: nothing here is learned. Blur is a property of light, so light is what is filtered; contrasts are taken relative to
the local brightness, so that exposure cancels.

Shape letters: B = samples; H, W = image.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.optics import srgb_to_linear

OCTAVES = 5  # bands of the Laplacian: between Gaussians of sigma 0, 0.7, 1.4, 2.8, 5.6 and 11.2 px
FINEST_SIGMA_PX = 0.7
HALVED_FROM = 2  # octave from which on the filters run at half of the size
REBLUR_SIGMAS_PX = (1.0, 2.0, 4.0)
CHANNELS = OCTAVES + len(REBLUR_SIGMAS_PX) + 1
WINDOW_SIGMA_PX = 1.5  # over which energies are averaged before they are compared: single pixels are noise
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709, of linear light
DARK = 0.02  # added to brightness: below it there is more noise than contrast
NOISE_WINDOW_PX = 8
NOISE_FLOOR = 0.25 / 255
ENERGY_FLOOR = 1e-6  # of squared contrast: about half a step of 8 bits at mid grey


def gaussian_kernel(sigma_px: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """(2 r + 1,) samples of a Gaussian that sum to 1, r = ceil(3 sigma)."""
    reach = max(1, int(3 * sigma_px + 0.999))
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-(x**2) / (2 * sigma_px**2))
    return (weights / weights.sum()).to(dtype)


def blur(planes: Tensor, sigma_px: float) -> Tensor:
    """(B, C, H, W) smoothed by a Gaussian, the border repeated; any size, sigma in pixels > 0."""
    kernel = gaussian_kernel(sigma_px, planes.dtype).to(planes.device)
    reach, (batch, channels, height, width) = len(kernel) // 2, planes.shape
    flat = planes.reshape(batch * channels, 1, height, width)
    flat = nn.functional.pad(flat, (reach, reach, 0, 0), mode="replicate")
    flat = nn.functional.conv2d(flat, kernel.view(1, 1, 1, -1))
    flat = nn.functional.pad(flat, (0, 0, reach, reach), mode="replicate")
    return nn.functional.conv2d(flat, kernel.view(1, 1, -1, 1)).view(batch, channels, height, width)


def squared_gradient(planes: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W) squared length of the central difference, the border repeated."""
    padded = nn.functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return across.square() + down.square()


def noise_level(grey: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 1, 1, 1) standard deviation of the noise, from what a difference of two Laplacians leaves.

    Immerkaer (Computer Vision and Image Understanding 1996); of its means over windows the one below which a tenth of the
    picture lies, since texture adds to the others. The lowest of many means are low: even noise reads as four fifths of itself.
    """
    kernel = grey.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]).view(1, 1, 3, 3)
    left = nn.functional.conv2d(nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel).abs()
    windows = nn.functional.avg_pool2d(left, NOISE_WINDOW_PX, ceil_mode=True).flatten(1)
    lowest = windows.kthvalue(1 + (windows.shape[1] - 1) // 10, dim=1).values
    return (lowest * ((math.pi / 2) ** 0.5 / 6)).view(-1, 1, 1, 1)


class FilterBank(nn.Module):
    """(B, 3, H, W) sRGB, even sides -> (B, 9, H/2, W/2): five octaves of contrast, three re-blur ratios, and the noise.

    The octaves are logarithms of the local contrast in each band of a Laplacian pyramid. A re-blur ratio is the logarithm of
    |grad I| over |grad (G_s * I)|: for a straight step edge of blur sigma it is log sqrt(1 + s^2 / sigma^2), from 0 (already
    blurred) up. The last plane is one number for the picture: under noise all contrasts are read against it. All are centred
    around 0. Energies are averaged over places before they are compared, so half of the size holds all of them.
    """

    def forward(self, frame: Tensor) -> Tensor:
        wide = frame if frame.dtype == torch.float64 else frame.float()
        with torch.autocast(frame.device.type, enabled=False):
            light = srgb_to_linear(wide.clamp(0, 1))
            grey = (light * torch.tensor(LUMINANCE, dtype=wide.dtype, device=wide.device).view(1, 3, 1, 1)).sum(1, True)
            energies = _octaves(grey)
            sharp = nn.functional.avg_pool2d(squared_gradient(grey), 2)
            floor = ENERGY_FLOOR * (nn.functional.avg_pool2d(grey, 2) + DARK).square()
            soft = [nn.functional.avg_pool2d(squared_gradient(blur(grey, s)), 2) for s in REBLUR_SIGMAS_PX]
            planes = blur(torch.cat([*energies, sharp, *soft], dim=1), WINDOW_SIGMA_PX / 2)
            contrast = torch.log(planes[:, :OCTAVES] + ENERGY_FLOOR) / 6 + 1.2  # about -1 to 1
            sharp, soft_planes = planes[:, OCTAVES : OCTAVES + 1], planes[:, OCTAVES + 1 :]
            ratios = 0.5 * torch.log((sharp + floor) / (soft_planes + floor)) - 0.7
            sigma = noise_level(wide.mean(1, keepdim=True))
            noise = (torch.log(sigma + NOISE_FLOOR) / 2 + 2.7).expand_as(sharp)  # about -0.8 to 0.9
            return torch.cat([contrast, ratios, noise], dim=1)


def _octaves(grey: Tensor) -> list[Tensor]:
    """(B, 1, H, W) linear light -> squared contrast in five bands, each (B, 1, H/2, W/2).

    From the third on at half of the size: what is left by then has no detail that is lost there.
    """
    found: list[Tensor] = []
    finer, variance, pixel = grey, 0.0, 1
    for octave in range(OCTAVES):
        if octave == HALVED_FROM:
            # The mean of 2x2 pixels is a blur of its own.
            finer, variance, pixel = nn.functional.avg_pool2d(finer, 2), variance + 0.25, 2
        sigma = FINEST_SIGMA_PX * 2**octave
        # A Gaussian of a Gaussian: only what is missing to the next width is blurred.
        coarser = blur(finer, (sigma**2 - variance) ** 0.5 / pixel)
        energy = ((finer - coarser) / (coarser + DARK)).square()
        found.append(energy if pixel == 2 else nn.functional.avg_pool2d(energy, 2))
        finer, variance = coarser, sigma**2
    return found
