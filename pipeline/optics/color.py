"""The exact piecewise sRGB curve (IEC 61966-2-1); light adds up in linear values, never in encoded ones."""

import torch
from torch import Tensor


def srgb_to_linear(encoded: Tensor) -> Tensor:
    """Decode sRGB to linear light.

    Args:
        encoded: any shape, sRGB values; 0 is black and 1 is display white. Negative values stay on the linear foot.

    Returns:
        Linear light of the same shape and dtype.
    """
    # The clamp keeps the unused branch of `where` inside the domain of pow, or its gradient would be NaN.
    curve = ((encoded.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(encoded <= 0.04045, encoded / 12.92, curve)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Encode linear light as sRGB, the inverse of `srgb_to_linear`.

    Args:
        linear: any shape, linear light. Values above 1 stay above 1; nothing is clipped here.

    Returns:
        sRGB values of the same shape and dtype.
    """
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curve)
