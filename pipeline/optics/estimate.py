"""Classical estimates of blur from one photograph, nothing learned: what networks are compared with, and what phase 1 asks.

Pictures are (H, W, 3) sRGB in [0, 1]; radii are in pixels.
"""

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

FloatMap = npt.NDArray[np.float32]

ENERGY_SIGMA_PX = 3.0  # over which a score is averaged
TINY = 1e-7  # of squared grey levels in [0, 1]
REBLUR_SIGMA_PX = 1.0
SHARP_EDGE_SIGMA_PX = 0.75  # what the re-blur ratio reads on a perfectly sharp edge of pixels
LARGEST_SIGMA_PX = 8.0
RADIUS_OF_SIGMA = 2.0  # a uniform disc of radius r spreads light like a Gaussian of sigma r / 2
EDGE_SHARE = 0.08  # of the pixels: the strongest gradients count as edges
WEAKEST_EDGE = 1e-4
SPREAD_SIGMA_PX = 4.0


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


def edge_sigmas(photo: FloatMap) -> tuple[npt.NDArray[np.bool_], FloatMap]:
    """Blur at edges by re-blurring (Zhuo and Sim 2011).

    At a step edge of blur sigma, |grad I| / |grad (G_s * I)| = sqrt((sigma^2 + s^2) / sigma^2). Pixels make a perfectly sharp
    edge read sigma = 0.75, which is taken away in quadrature.

    Returns:
        (H, W) where there is an edge, and (H, W) its sigma in pixels, which means something there.
    """
    grey = grey_of(photo)
    sharp, soft = (np.sqrt(_squared_gradient(one)) for one in (grey, _smooth(grey, REBLUR_SIGMA_PX)))
    strong = soft >= max(float(np.quantile(soft, 1 - EDGE_SHARE)), WEAKEST_EDGE)
    # The ridge of the gradient only: beside an edge the ratio is no longer that of a step.
    ridge = strong & (soft >= cv2.dilate(soft, np.ones((3, 3), np.uint8)) * 0.98)
    ratio = np.maximum(sharp / np.maximum(soft, 1e-9), 1 + 1e-3)
    sigma = np.minimum(REBLUR_SIGMA_PX / np.sqrt(ratio**2 - 1), LARGEST_SIGMA_PX)
    return ridge, np.sqrt(np.maximum(sigma**2 - SHARP_EDGE_SIGMA_PX**2, 0)).astype(np.float32)


def zhuo_sim_radius(photo: FloatMap) -> FloatMap:
    """(H, W) blur radius in pixels: of the edges (`edge_sigmas`), spread to the pixels between them.

    Between edges: normalised Gaussians, and the nearest edge where those do not reach; the paper solves a matting Laplacian,
    which costs a thousand times as much.
    """
    ridge, sigma = edge_sigmas(photo)
    if not ridge.any():
        return np.full(photo.shape[:2], RADIUS_OF_SIGMA * LARGEST_SIGMA_PX, np.float32)
    known = ridge.astype(np.float32)
    weight, total = _smooth(known, SPREAD_SIGMA_PX), _smooth(known * sigma, SPREAD_SIGMA_PX)
    nearest = distance_transform_edt(~ridge, return_distances=False, return_indices=True)
    far = sigma[tuple(nearest)]
    share = np.minimum(weight / 1e-3, 1)
    spread = np.where(weight > 1e-9, total / np.maximum(weight, 1e-9), far)
    return np.asarray(RADIUS_OF_SIGMA * (share * spread + (1 - share) * far), np.float32)


BLURRED_SHARE = 0.04  # of a picture's edges: all-in-focus pictures had 0.00 to 0.024, shallow focus 0.05 and more
BLURRED_SIGMA = 0.004  # of the width, and at least so many pixels:
BLURRED_SIGMA_PX = 2.0
SHARP_SIGMA_PX = 1.2
MIN_SHARP_SHARE = 0.05  # with fewer sharp edges the whole picture is soft, which is no shallow focus


def blurred_share(photo: FloatMap) -> float:
    """Share of a picture's edges that are clearly out of focus (or smeared), 0 where none of its edges is sharp.

    A picture that is soft everywhere is badly scaled or compressed; shallow focus has sharp edges beside blurred ones.
    """
    ridge, sigma = edge_sigmas(photo)
    if not ridge.any():
        return 0.0
    edges = sigma[ridge]
    if float((edges < SHARP_SIGMA_PX).mean()) < MIN_SHARP_SHARE:
        return 0.0
    return float((edges > max(BLURRED_SIGMA_PX, BLURRED_SIGMA * photo.shape[1])).mean())
