"""Classical estimates of blur from one photograph: what a network has to beat. No learning, except one monotone curve.

Laplacian energy and the Laplacian/gradient ratio say what is sharper, not how many pixels of blur there are; `MonotoneFit`
turns such a score into a radius in the way that is best for it on training pictures. Zhuo and Sim (Pattern Recognition 2011)
measure pixels directly, at edges. The estimates themselves are in `pipeline.optics.estimate`.

Pictures are (H, W, 3) sRGB in [0, 1]; radii are in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from pipeline.optics.estimate import FloatMap, laplacian_energy, laplacian_gradient_ratio, zhuo_sim_radius

FIT_BINS = 128


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
