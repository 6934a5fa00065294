"""Classical estimates of blur from one photograph: what a network has to beat. No learning, except one monotone curve.

Laplacian energy and the Laplacian/gradient ratio say what is sharper, not how many pixels of blur there are; `MonotoneFit`
turns such a score into a radius in the way that is best for it on training pictures. Zhuo and Sim (Pattern Recognition 2011)
measure pixels directly, at edges.

Pictures are (H, W, 3) sRGB in [0, 1]; radii are in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.optimize import isotonic_regression

FloatMap = npt.NDArray[np.float32]

ENERGY_SIGMA_PX = 3.0  # over which a score is averaged
TINY = 1e-7  # of squared grey levels in [0, 1]
REBLUR_SIGMA_PX = 1.0
SHARP_EDGE_SIGMA_PX = 0.75  # what the re-blur ratio reads on a perfectly sharp edge of pixels
LARGEST_SIGMA_PX = 8.0
RADIUS_OF_SIGMA = 2.0  # a uniform disc of radius r spreads light like a Gaussian of sigma r / 2
EDGE_SHARE = 0.08  # of the pixels: the strongest gradients count as edges
SPREAD_SIGMA_PX = 4.0
FIT_BINS = 128


def grey_of(photo: FloatMap) -> FloatMap:
    """(H, W, 3) sRGB -> (H, W) grey in sRGB, where classical estimators work."""
    weighed = photo @ np.asarray([0.2126, 0.7152, 0.0722], np.float32)
    return np.ascontiguousarray(weighed, np.float32)


def _smooth(values: FloatMap, sigma: float) -> FloatMap:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def _squared_gradient(grey: FloatMap) -> FloatMap:
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(across**2 + down**2, np.float32)


def laplacian_energy(photo: FloatMap) -> FloatMap:
    """(H, W) logarithm of the local mean squared Laplacian: larger is sharper."""
    laplacian = np.asarray(cv2.Laplacian(grey_of(photo), cv2.CV_32F, borderType=cv2.BORDER_REPLICATE), np.float32)
    return np.log(_smooth(laplacian**2, ENERGY_SIGMA_PX) + np.float32(TINY))


def laplacian_gradient_ratio(photo: FloatMap) -> FloatMap:
    """(H, W) logarithm of Laplacian over gradient energy: larger is sharper, whatever the contrast."""
    grey = grey_of(photo)
    gradient = _smooth(_squared_gradient(grey), ENERGY_SIGMA_PX)
    return laplacian_energy(photo) - np.log(gradient + np.float32(TINY))


def zhuo_sim_radius(photo: FloatMap) -> FloatMap:
    """(H, W) blur radius in pixels by re-blurring at edges (Zhuo and Sim 2011), spread to the pixels between them.

    At a step edge of blur sigma, |grad I| / |grad (G_s * I)| = sqrt((sigma^2 + s^2) / sigma^2). Pixels make a perfectly sharp
    edge read sigma = 0.75, which is taken away in quadrature. Between edges: normalised Gaussians, and the nearest edge where
    those do not reach (the paper's matting Laplacian does the same at a thousand times the cost).
    """
    grey = grey_of(photo)
    sharp, soft = (np.sqrt(_squared_gradient(one)) for one in (grey, _smooth(grey, REBLUR_SIGMA_PX)))
    strong = soft >= max(float(np.quantile(soft, 1 - EDGE_SHARE)), 1e-4)
    # The ridge of the gradient only: beside an edge the ratio is no longer that of a step.
    ridge = strong & (soft >= cv2.dilate(soft, np.ones((3, 3), np.uint8)) * 0.98)
    if not ridge.any():
        return np.full(grey.shape, RADIUS_OF_SIGMA * LARGEST_SIGMA_PX, np.float32)
    ratio = np.maximum(sharp / np.maximum(soft, 1e-9), 1 + 1e-3)
    sigma = np.minimum(REBLUR_SIGMA_PX / np.sqrt(ratio**2 - 1), LARGEST_SIGMA_PX)
    sigma = np.sqrt(np.maximum(sigma**2 - SHARP_EDGE_SIGMA_PX**2, 0)).astype(np.float32)
    known = ridge.astype(np.float32)
    weight, total = _smooth(known, SPREAD_SIGMA_PX), _smooth(known * sigma, SPREAD_SIGMA_PX)
    nearest = distance_transform_edt(~ridge, return_distances=False, return_indices=True)
    far = sigma[tuple(nearest)]
    share = np.minimum(weight / 1e-3, 1)
    spread = np.where(weight > 1e-9, total / np.maximum(weight, 1e-9), far)
    return np.asarray(RADIUS_OF_SIGMA * (share * spread + (1 - share) * far), np.float32)


SCORES = {"Laplacian energy": laplacian_energy, "Laplacian/gradient ratio": laplacian_gradient_ratio}


@dataclass(frozen=True)
class MonotoneFit:
    """A sharpness score as a radius: falling, and the closest such curve to the training pixels in the mean square."""

    scores: npt.NDArray[np.float64]  # rising
    radii_px: npt.NDArray[np.float64]  # falling

    @classmethod
    def of(cls, scores: Sequence[FloatMap], radii_px: Sequence[FloatMap]) -> "MonotoneFit":
        """Fit to maps of scores and of true radii, pixel by pixel.

        Raises:
            ValueError: there is no pixel.
        """
        flat = np.concatenate([one.ravel() for one in scores]).astype(np.float64)
        truth = np.concatenate([one.ravel() for one in radii_px]).astype(np.float64)
        if not flat.size or flat.size != truth.size:
            raise ValueError(f"a fit needs as many radii as scores and at least one, got {truth.size} and {flat.size}")
        order = np.argsort(flat, kind="stable")
        groups = np.array_split(order, min(FIT_BINS, flat.size))
        centres = np.asarray([flat[group].mean() for group in groups])
        medians = np.asarray([np.median(truth[group]) for group in groups])
        fitted = isotonic_regression(medians, increasing=False).x
        return cls(centres, np.asarray(fitted))

    def __call__(self, score: FloatMap) -> FloatMap:
        return np.interp(score, self.scores, self.radii_px).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a method says of one photograph: (H, W) maps.

    Args:
        radius_px: of the blur.
        sharpness: larger is sharper; what "in focus" is ranked by.
    """

    radius_px: FloatMap
    sharpness: FloatMap


@dataclass(frozen=True, kw_only=True)
class FocusBaselines:
    """All classical methods, with what training pictures told them."""

    median_px: float
    fits: dict[str, MonotoneFit]

    @classmethod
    def fit(cls, photos: Sequence[FloatMap], radii_px: Sequence[FloatMap]) -> "FocusBaselines":
        """From training photographs and their true radii."""
        median = float(np.median(np.concatenate([radius.ravel() for radius in radii_px])))
        fits = {name: MonotoneFit.of([score(one) for one in photos], radii_px) for name, score in SCORES.items()}
        return cls(median_px=median, fits=fits)

    def answers(self, photo: FloatMap) -> dict[str, Answer]:
        """Every method's answer by its name, in the order of `NAMES`."""
        constant = np.full(photo.shape[:2], self.median_px, np.float32)
        found = {"constant": Answer(radius_px=constant, sharpness=-constant)}
        for name, score in SCORES.items():
            sharpness = score(photo)
            found[name] = Answer(radius_px=self.fits[name](sharpness), sharpness=sharpness)
        radius = zhuo_sim_radius(photo)
        return {**found, "Zhuo-Sim": Answer(radius_px=radius, sharpness=-radius)}


NAMES = ("constant", *SCORES, "Zhuo-Sim")
