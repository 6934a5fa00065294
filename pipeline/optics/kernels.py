"""Discs and polygons of light as FFT spectra: what one layer of the lens renderer is convolved with.

Special: kernels are sampled on the full-resolution or the half-resolution grid from one signed distance to the outline,
so a radius is a real number and means full-frame pixels on both. Not here: which pixels use which radius (`layers`).

Shape letters: h, w = grid of the FFT; n = number of radii.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture

# Half-resolution layers are reduced and enlarged with the taps 1 3 3 1, whose variance is 3/4 px^2 each way and axis.
RESAMPLING_VARIANCE_PX2 = 1.5
# How much of the softening is sharpened away again; the rest is taken from the radius. More rings beside bright discs.
SHARPENING = 0.65


def fast_length(n: int) -> int:
    """Smallest even length >= n whose only prime factors are 2, 3, 5 and 7: the FFT has fast code for those."""
    n += n % 2
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


@lru_cache(maxsize=1024)
def aperture_kernel(aperture: Aperture, signed_radius: float, step: int, ramp: float) -> Tensor:
    """Picture of a point light of unit energy, sampled every `step` pixels.

    A point at signed defocus s lands at s * u for every u in the opening: upright behind the focus plane, turned by 180
    degrees in front of it (a nearer point moves against the lens, by f * u * (1/S - 1/d), contract of docs/optics.md).

    Args:
        aperture: shape of the opening.
        signed_radius: s, full-resolution pixels, not zero.
        step: 1 or 2, pixels per grid step. For 2 the kernel is sharpened so that, together with the resampling filters,
            it has the second moment of the plain disc again.
        ramp: width of the soft edge in pixels.

    Returns:
        (2m+1, 2m+1) float64 weights that sum to 1; rows go down, columns right. Shared by the cache: do not write.

    Example:
        >>> aperture_kernel(Aperture(), 1.0, 1, 1.0).shape
        torch.Size([5, 5])
    """
    softening = ramp**2 / 12 + (RESAMPLING_VARIANCE_PX2 if step == 2 else 0.0)
    sharpening = SHARPENING if step == 2 else 0.0
    # A disc of radius r has the second moment r^2 / 2; softening both axes adds twice its variance.
    radius = math.sqrt(signed_radius**2 - 4 * (1 - sharpening) * softening)
    reach = math.ceil((radius + ramp / 2) / step)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * step
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    distance = torch.hypot(down, right)
    angle = torch.atan2(-down, right) + (math.pi if signed_radius < 0 else 0.0)
    edge = radius * aperture.outline(angle)
    # Straight sides are met at a slant: divide by the gradient of (edge - distance) to get a distance across the edge.
    delta = 1e-4
    slope = (aperture.outline(angle + delta) - aperture.outline(angle - delta)) / (2 * delta) * radius
    across = (edge - distance) / torch.sqrt(1 + (slope / distance.clamp(min=0.25 * radius)) ** 2)
    kernel = (across / ramp + 0.5).clamp(0, 1)
    kernel = kernel / kernel.sum()
    if step == 2:
        a = sharpening * softening / (2 * step**2)
        taps = torch.tensor([-a, 1 + 2 * a, -a], dtype=torch.float64)
        cross = taps[:, None] * taps[None, :]
        kernel = torch.nn.functional.conv2d(kernel[None, None], cross[None, None], padding=2)[0, 0]
    return kernel


@lru_cache(maxsize=256)  # two lenses' worth of layers; a half grid at 1080p is 2 MB a layer
def kernel_spectrum(
    aperture: Aperture,
    signed_radius: float,
    step: int,
    ramp: float,
    *,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Spectrum of `aperture_kernel` on an FFT grid.

    Args:
        aperture, signed_radius, step, ramp: as in `aperture_kernel`.
        size: (h, w), each at least the kernel's width.
        dtype: the real dtype to transform in.
        device: where to.

    Returns:
        (h, w//2+1) complex. Shared by the cache: do not write.
    """
    # What is kept must serve later calls with gradients too, which tensors made in inference mode cannot.
    with torch.inference_mode(False), torch.no_grad():
        kernel = aperture_kernel(aperture, signed_radius, step, ramp)
        m = kernel.shape[-1] // 2
        assert 2 * m + 1 <= min(size), f"kernel of {2 * m + 1} does not fit the FFT grid {size}"
        padded = torch.zeros(size, dtype=dtype, device=device)
        padded[: 2 * m + 1, : 2 * m + 1] = kernel.to(padded)
        spectrum: Tensor = torch.fft.rfft2(torch.roll(padded, (-m, -m), (0, 1)))
    return spectrum
