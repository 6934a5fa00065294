"""The embedded deblurrer: noise-aware deconvolution of a small Gaussian blur, in the Fourier domain.

The gain at a spatial frequency is 1/H, with H the blur's transfer function, times the share of the observed power there
that is not noise (Wiener's gain written with the observed spectrum). It works on encoded values, where ringing beside
highlights is least visible. What this is not: a network; it invents nothing, and motion blur stays.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo, option
from pipeline.media.images import Picture

_MARGIN = 16  # reflected border, so that the transform's wrap-around stays outside the picture
_RINGS = 96  # radial bins of the power spectrum
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_QUANTISATION = 1 / np.sqrt(12)  # no 8-bit picture has less noise than its rounding


class WienerDeblur:
    """Sharpen with an estimated noise level; a frame that is mostly noise is left soft rather than made grainy."""

    info = EngineInfo(name="wiener", role="deblur", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """The blur to undo."""

        sigma_px: float = option(0.6, "standard deviation of the blur to undo, px, in (0, 5]")
        max_gain: float = option(3.0, "most that any frequency is raised, in [1, 50]")

        def __post_init__(self) -> None:
            if not 0 < self.sigma_px <= 5:
                raise ValueError(f"sigma_px must be in (0, 5], got {self.sigma_px}")
            if not 1 <= self.max_gain <= 50:
                raise ValueError(f"max_gain must be in [1, 50], got {self.max_gain}")

    def __init__(self, options: Options, device: str) -> None:
        self.options = options

    def shrink(self) -> bool:
        return False

    def deblur(self, frame: Picture, seed: int, safe_point: SafePoint) -> Picture:
        import scipy.fft

        safe_point()
        margin = [min(_MARGIN, side - 1) for side in frame.shape[:2]]
        padded = np.pad(frame.astype(np.float32), ((margin[0],) * 2, (margin[1],) * 2, (0, 0)), mode="reflect")
        spectrum = scipy.fft.rfft2(padded, axes=(0, 1))
        sharp = scipy.fft.irfft2(
            spectrum * self._gain(frame, spectrum, padded.shape[1])[..., None], padded.shape[:2], axes=(0, 1)
        )
        inner = sharp[margin[0] : margin[0] + frame.shape[0], margin[1] : margin[1] + frame.shape[1]]
        return np.clip(np.rint(inner), 0, 255).astype(np.uint8)

    def _gain(self, frame: Picture, spectrum: npt.NDArray[np.complex64], columns: int) -> npt.NDArray[np.float32]:
        rows = spectrum.shape[0]
        fy = np.fft.fftfreq(rows).astype(np.float32)[:, None]
        fx = np.arange(spectrum.shape[1], dtype=np.float32)[None] / columns
        squared = fx * fx + fy * fy
        power = np.abs(spectrum @ _LUMA) ** 2 / (rows * columns)
        ring = np.minimum((np.sqrt(2 * squared) * _RINGS).astype(np.intp), _RINGS - 1)
        mean = np.bincount(ring.ravel(), power.ravel(), _RINGS) / np.maximum(np.bincount(ring.ravel(), None, _RINGS), 1)
        signal_share = np.maximum(1 - noise_sigma(frame) ** 2 / np.maximum(mean, 1e-12), 0)
        inverse = np.exp(np.minimum(2 * np.pi**2 * self.options.sigma_px**2 * squared, 20))
        gain = np.minimum(inverse, self.options.max_gain) * signal_share[ring]
        gain[0, 0] = 1  # brightness stays
        return gain.astype(np.float32)


def noise_sigma(frame: Picture) -> float:
    """Standard deviation of the luma's noise, 8-bit values: Immerkaer's Laplacian difference (1996), with a median in
    place of the mean so that texture counts less."""
    luma = frame.astype(np.float32) @ _LUMA
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, mask))
    return max(float(np.median(response)) / 0.6745 / 6, _QUANTISATION)


ENGINE = WienerDeblur
