"""How close an image, a depth map or a sequence is to the truth. Images are sRGB in [0, 1], batches are per sample.

`ssim` is also the training loss's; there is one.
"""

from functools import lru_cache

import torch
import torch.nn.functional as functional
from torch import Tensor

from pipeline.measures import psnr_of_mse

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
# Wang, Bovik, Sheikh, Simoncelli (2004): K1 = 0.01 and K2 = 0.03 for a dynamic range of 1.
_C1, _C2 = 0.01**2, 0.03**2
DELTA1 = 1.25


def mse(first: Tensor, second: Tensor) -> Tensor:
    """(B, ...) images -> (B,) mean squared errors in float64, where pooling many loses nothing."""
    _check_pair(first, second)
    return (first.double() - second.double()).square().flatten(1).mean(1)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio at peak 1.

    Args:
        first, second: (B, ...) of one shape.

    Returns:
        (B,) float64 decibels; infinity for equal images.

    Raises:
        ValueError: the shapes differ.
    """
    return torch.tensor([psnr_of_mse(value) for value in mse(first, second).tolist()], dtype=torch.float64)


@lru_cache(maxsize=8)
def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.arange(SSIM_WINDOW, dtype=torch.float64) - (SSIM_WINDOW - 1) / 2
    weights = torch.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    return (weights / weights.sum()).to(device=device, dtype=dtype)


def _smooth(images: Tensor) -> Tensor:
    """Gaussian means over 11x11 windows that lie inside: (N, 1, H, W) -> (N, 1, H - 10, W - 10)."""
    window = _window(images.dtype, images.device)
    return functional.conv2d(functional.conv2d(images, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5, no padding, mean over colours.

    Args:
        first, second: (B, C, H, W) in [0, 1], at least 11 pixels a side. Computed in float32 or wider.

    Returns:
        (B,) in [-1, 1]; 1 for equal images. Differentiable.

    Raises:
        ValueError: the shapes differ or a side is shorter than the window.
    """
    return ssim_map(first, second).mean((1, 2, 3))


def mean_in(windows: Tensor, region: Tensor) -> float:
    """Mean of an `ssim_map` of one picture over windows centred in a region, (1, H, W) bool; NaN where none is."""
    inside = region[0, SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2), SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2)]
    return float(windows[0].mean(0)[inside].mean())


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """As `ssim`, window by window: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    _check_pair(first, second)
    if first.ndim != 4 or min(first.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs (B, C, H, W) of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {tuple(first.shape)}"
        )
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    with torch.autocast(first.device.type, enabled=False):
        x, y = (image.to(wide).flatten(0, 1).unsqueeze(1) for image in (first, second))
        # Variances are differences of means of squares; around 0.5 the squares, and their rounding, are a quarter as large.
        x, y = x - 0.5, y - 0.5
        stacked = _smooth(torch.cat([x, y, x * x, y * y, x * y]))
        mean_x, mean_y, square_x, square_y, product = stacked.chunk(5)
        variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
        covariance = product - mean_x * mean_y
        mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
        luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
        structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
        return (luminance * structure).view(*first.shape[:2], *mean_x.shape[-2:])


def abs_rel(predicted_m: Tensor, truth_m: Tensor, valid: Tensor) -> Tensor:
    """Mean of |d - truth| / truth over valid pixels.

    Args:
        predicted_m, truth_m: (B, 1, H, W) metres.
        valid: (B, 1, H, W) bool.

    Returns:
        (B,) float64; NaN for a sample without a valid pixel.
    """
    _check_pair(predicted_m, truth_m)
    error = (predicted_m.double() - truth_m.double()).abs() / truth_m.double()
    return _masked_mean(error, valid)


def delta1(predicted_m: Tensor, truth_m: Tensor, valid: Tensor) -> Tensor:
    """Share of valid pixels whose depth is within a factor of 1.25 of the truth; shapes as for `abs_rel`."""
    _check_pair(predicted_m, truth_m)
    ratio = torch.maximum(predicted_m / truth_m, truth_m / predicted_m)
    return _masked_mean((ratio < DELTA1).double(), valid)


def temporal_error(images: Tensor, truth: Tensor) -> Tensor:
    """Flicker against the truth, without warping: mean |(p_t - p_{t-1}) - (g_t - g_{t-1})|.

    Args:
        images, truth: (B, T, C, H, W), T >= 2.

    Returns:
        (B,); 0 when every change from frame to frame is the truth's. Differentiable.

    Raises:
        ValueError: the shapes differ or there is only one frame.
    """
    _check_pair(images, truth)
    if images.ndim != 5 or images.shape[1] < 2:
        raise ValueError(f"a temporal error needs (B, T >= 2, C, H, W), got {tuple(images.shape)}")
    return (images.diff(dim=1) - truth.diff(dim=1)).abs().flatten(1).mean(1)


def depth_temporal_error(predicted_m: Tensor, truth_m: Tensor, valid: Tensor) -> Tensor:
    """How unsteady depth is: mean |change of log depth from frame to frame - the truth's|, without warping.

    A scale that is wrong but stays the same costs nothing here; `abs_rel` sees it.

    Args:
        predicted_m, truth_m: (B, T, 1, H, W) metres, > 0, T >= 2.
        valid: (B, T, 1, H, W) bool; a change counts where both of its frames are valid.

    Returns:
        (B,) float64; NaN for a sample without such a pixel.

    Raises:
        ValueError: the shapes differ or there is only one frame.
    """
    _check_pair(predicted_m, truth_m)
    if predicted_m.ndim != 5 or predicted_m.shape[1] < 2:
        raise ValueError(f"a temporal error needs (B, T >= 2, 1, H, W), got {tuple(predicted_m.shape)}")
    change = (predicted_m.double().log() - truth_m.double().log()).diff(dim=1).abs()
    return _masked_mean(change, valid[:, 1:] & valid[:, :-1])


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    if valid.shape != values.shape or valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool {tuple(values.shape)}, got {valid.dtype} {tuple(valid.shape)}")
    kept = torch.where(valid, values, 0).flatten(1).sum(1)
    return kept / valid.flatten(1).sum(1)  # 0 / 0 is NaN, on purpose


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"both must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
