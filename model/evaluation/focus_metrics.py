"""How close a map of blur radii is to the truth: figures of one frame. Radii in pixels, arrays (H, W).

A figure that has nothing to be measured on is NaN, which a `Tally` leaves out.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

FloatMap = npt.NDArray[np.floating]
BoolMap = npt.NDArray[np.bool_]

IN_FOCUS_PX = 1.0  # radius up to which a pixel counts as in focus
CLOSE_PX, CLOSE_SHARE = 0.5, 0.1  # a radius is close within the larger of these
F_BETA_SQUARED = 0.3  # as in salient object detection: precision counts more
EDGE_REACH_PX = 8
EDGE_JUMP = 0.15  # of inverse depth, relative: a jump between neighbours that an occlusion makes
SIDE_SEEN_PX = 1.0


def auroc(scores: FloatMap, positive: BoolMap) -> float:
    """Probability that a positive pixel scores higher than a negative one; ties count half. NaN with one kind only."""
    flags = positive.ravel()
    ones = int(flags.sum())
    zeros = flags.size - ones
    if not ones or not zeros:
        return math.nan
    ranks = rankdata(scores.ravel())
    return float((ranks[flags].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def spearman(first: FloatMap, second: FloatMap) -> float:
    """Rank correlation of two maps; NaN where one of them is constant."""
    one, other = (rankdata(values.ravel()) for values in (first, second))
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale else math.nan


def radius_figures(predicted_px: FloatMap, truth_px: FloatMap, map_radius_px: float) -> dict[str, float]:
    """Errors of the size of the blur.

    Args:
        predicted_px, truth_px: (H, W) radii >= 0.
        map_radius_px: radius at which the focus map is 0.

    Returns:
        mae_px, mse_px2, map_mae, close (share within max(0.5 px, 10 %)), spearman.
    """
    error = np.abs(predicted_px.astype(np.float64) - truth_px)
    maps = [1 - np.minimum(radius / map_radius_px, 1) for radius in (predicted_px, truth_px)]
    return {
        "mae_px": float(error.mean()),
        "mse_px2": float((error**2).mean()),
        "map_mae": float(np.abs(maps[0] - maps[1]).mean()),
        "close": float((error <= np.maximum(CLOSE_PX, CLOSE_SHARE * truth_px)).mean()),
        "spearman": spearman(predicted_px, truth_px),
    }


def focus_figures(predicted_px: FloatMap, truth_px: FloatMap) -> dict[str, float]:
    """How well "in focus", a radius of at most 1 px, is found: auroc without a threshold, f_beta and iou at 1 px."""
    wanted, found = truth_px <= IN_FOCUS_PX, predicted_px <= IN_FOCUS_PX
    both, either = float((wanted & found).sum()), float((wanted | found).sum())
    precision = both / max(1.0, float(found.sum()))
    recall = both / max(1.0, float(wanted.sum()))
    weight = F_BETA_SQUARED * precision + recall
    some = bool(wanted.any())
    return {
        "auroc": auroc(-predicted_px, wanted),
        "f_beta": ((1 + F_BETA_SQUARED) * precision * recall / weight if weight else 0.0) if some else math.nan,
        "iou": both / either if some else math.nan,
    }


def occlusion_band(depth_m: FloatMap) -> BoolMap:
    """(H, W) pixels within 8 px of where one surface hides another: a jump of inverse depth between neighbours."""
    inverse = (1 / depth_m.astype(np.float64)).astype(np.float32)
    jump = np.zeros(depth_m.shape, np.uint8)
    for axis in (0, 1):
        one, other = (inverse[:-1], inverse[1:]) if axis == 0 else (inverse[:, :-1], inverse[:, 1:])
        far = np.abs(one - other) > EDGE_JUMP * np.maximum(one, other)
        target = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        jump[target] |= far.astype(np.uint8)
    size = 2 * EDGE_REACH_PX + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.dilate(jump, disc) > 0)


TEXTURELESS_CONTRAST = 0.01


def textureless(sharp_srgb: FloatMap) -> BoolMap:
    """(H, W) where the sharp frame (H, W, 3) has next to no detail of its own within 5 px: blur hardly shows there."""
    grey = sharp_srgb.mean(axis=2).astype(np.float32)
    mean, square = (cv2.GaussianBlur(values, (0, 0), 2.5) for values in (grey, grey * grey))
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)) < TEXTURELESS_CONTRAST)


def within(figures: dict[str, float], where: str) -> dict[str, float]:
    """Names with the place they were measured at: mae_px -> mae_px_edges."""
    return {f"{name}_{where}": value for name, value in figures.items()}


def side_auroc(behind: FloatMap, signed_px: FloatMap) -> float:
    """How well the side is told where the blur is beyond 1 px; NaN where one side only is there."""
    seen = np.abs(signed_px) > SIDE_SEEN_PX
    return auroc(behind[seen], signed_px[seen] > 0)


def calibration_error(error_px: FloatMap, sigma_px: FloatMap) -> float:
    """Mean difference between how often |error| lies within z sigma and how often it should, z = 0.5, 1, 1.5, 2, 2.5."""
    ratio = np.abs(error_px) / np.maximum(sigma_px, 1e-6)
    return float(
        np.mean([abs(float((ratio <= z).mean()) - math.erf(z / math.sqrt(2))) for z in (0.5, 1.0, 1.5, 2.0, 2.5)])
    )
