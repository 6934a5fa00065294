"""The fixed filters in front of the network: what classical estimators of focus measure, in linear light.

Special: nothing here is learned. Blur is a property of light, so light is what is filtered; contrasts are taken relative to
the local brightness, so that exposure cancels.

Shape letters: B = samples; H, W = image.
"""

import torch
from torch import Tensor, nn

from pipeline.optics import srgb_to_linear

OCTAVES = 5  # bands of the Laplacian: between Gaussians of sigma 0, 0.7, 1.4, 2.8, 5.6 and 11.2 px
FINEST_SIGMA_PX = 0.7
REBLUR_SIGMAS_PX = (1.0, 2.0, 4.0)
CHANNELS = OCTAVES + len(REBLUR_SIGMAS_PX)
WINDOW_SIGMA_PX = 1.5  # over which energies are averaged before they are compared: single pixels are noise
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709, of linear light
DARK = 0.02  # added to brightness: below it there is more noise than contrast
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


class FilterBank(nn.Module):
    """(B, 3, H, W) sRGB -> (B, 8, H, W): five octaves of Laplacian contrast, then three re-blur ratios, centred around 0.

    The octaves are logarithms of the local contrast in each band. A re-blur ratio is the logarithm of |grad I| over
    |grad (G_s * I)|: for a straight step edge of blur sigma it is log sqrt(1 + s^2 / sigma^2), from 0 (already blurred) up.
    """

    def forward(self, frame: Tensor) -> Tensor:
        wide = frame if frame.dtype == torch.float64 else frame.float()
        with torch.autocast(frame.device.type, enabled=False):
            light = srgb_to_linear(wide.clamp(0, 1))
            grey = (light * torch.tensor(LUMINANCE, dtype=wide.dtype, device=wide.device).view(1, 3, 1, 1)).sum(1, True)
            planes = []
            finer, variance = grey, 0.0
            for octave in range(OCTAVES):
                sigma = FINEST_SIGMA_PX * 2**octave
                # A Gaussian of a Gaussian: only what is missing to the next width is blurred.
                coarser = blur(finer, (sigma**2 - variance) ** 0.5)
                contrast = (finer - coarser) / (coarser + DARK)
                energy = blur(contrast.square(), WINDOW_SIGMA_PX)
                planes.append(torch.log(energy + ENERGY_FLOOR) / 6 + 1.2)  # about -1 to 1
                finer, variance = coarser, sigma**2
            sharp = blur(squared_gradient(grey), WINDOW_SIGMA_PX)
            floor = ENERGY_FLOOR * (blur(grey, WINDOW_SIGMA_PX) + DARK).square()
            for sigma in REBLUR_SIGMAS_PX:
                soft = blur(squared_gradient(blur(grey, sigma)), WINDOW_SIGMA_PX)
                planes.append(0.5 * torch.log((sharp + floor) / (soft + floor)) - 0.7)
            return torch.cat(planes, dim=1)
