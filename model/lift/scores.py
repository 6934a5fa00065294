"""Figures by the conventions of frame interpolation, so that they compare with printed ones.

`ssim_volume` is the number that RIFE, EMA-VFI and their peers print: one 11x11x11 Gaussian window over rows, columns and the
three colours, edges repeated. The per-channel one of `model.evaluation.metrics` is another number.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor

from model.evaluation.metrics import SSIM_SIGMA, SSIM_WINDOW

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a range of 1


def ssim_volume(first: Tensor, second: Tensor) -> float:
    """Structural similarity of two (1, 3, H, W) pictures in [0, 1] as one volume of three layers; 1 when equal.

    Raises:
        ValueError: the shapes differ or are not such pictures.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[:2] != (1, 3):
        raise ValueError(f"both must be (1, 3, H, W) of one size, got {tuple(first.shape)} and {tuple(second.shape)}")
    x, y = first.double()[:, None], second.double()[:, None]
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _smooth(volume: Tensor) -> Tensor:
    """Gaussian means over an 11x11x11 window, axis by axis, with edges repeated: (1, 1, 3, H, W) -> the same size."""
    reach = SSIM_WINDOW // 2
    x = torch.arange(-reach, reach + 1, dtype=volume.dtype, device=volume.device)
    window = torch.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    padded = functional.pad(volume, (reach,) * 6, mode="replicate")
    for shape in ((1, 1, -1, 1, 1), (1, 1, 1, -1, 1), (1, 1, 1, 1, -1)):
        padded = functional.conv3d(padded, window.view(shape))
    return padded


def interpolation_error(first: Tensor, second: Tensor) -> float:
    """IE of the Middlebury benchmark: root mean square difference of pictures, in 8-bit levels."""
    return float((first.double() - second.double()).square().mean().sqrt() * 255)


def edge_sharpness(image: Tensor, truth: Tensor) -> float | None:
    """How steep the edges of the truth are in a picture: 1 as steep, less where they are blurred or elsewhere.

    Args:
        image, truth: (1, 3, H, W) in [0, 1].

    Returns:
        Mean gradient of the grey picture over that of the truth, along the truth's gradient, at the steepest tenth of the
        truth's pixels; None of a truth without an edge.
    """
    (x, y), (own_x, own_y) = (_gradient(picture.double().mean(1)) for picture in (truth, image))
    steep = (x.square() + y.square()).sqrt()
    edges = steep >= steep.flatten().kthvalue(max(1, round(0.9 * steep.numel()))).values
    edges &= steep > 0
    if not bool(edges.any()):
        return None
    along = (x * own_x + y * own_y)[edges] / steep[edges]
    return float(along.sum() / steep[edges].sum())


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of (1, H, W), without the outermost pixels."""
    return grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]


def end_point_error(flow: Tensor, truth: Tensor) -> float:
    """Mean length of the difference of flows (2, H, W), in pixels."""
    return float((flow.double() - truth.double()).square().sum(0).sqrt().mean())
