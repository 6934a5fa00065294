"""Captions and marks that stand still over a moving picture, drawn for training: common in films, and easy to get wrong."""

import numpy as np
import numpy.typing as npt

_GLYPH = (7, 5)  # rows and columns of a random letter
_INK_SHARE = 0.55


def draw_overlay(height: int, width: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], list[float]]:
    """A line of random letters somewhere in a picture, at times on a plate.

    Args:
        height, width: pixels, at least 16.

    Returns:
        Opacity (H, W), 0 or 1 but for plates that the picture shines through, and a colour in [0, 1].
    """
    scale = int(rng.integers(1, 1 + max(1, min(height, width) // 32)))
    count = int(rng.integers(2, max(3, width // (6 * scale))))
    letters = rng.random((_GLYPH[0], count, _GLYPH[1])) < _INK_SHARE
    spaced = np.concatenate([letters, np.zeros((_GLYPH[0], count, 1), bool)], 2).reshape(_GLYPH[0], -1)
    ink = np.kron(spaced, np.ones((scale, scale), bool)).astype(np.float32)
    opacity = np.zeros((height, width), np.float32)
    y, x = (int(rng.integers(0, 1 + whole - part)) for whole, part in zip((height, width), ink.shape, strict=True))
    window = opacity[y : y + ink.shape[0], x : x + ink.shape[1]]
    if rng.random() < 0.4:
        window[:] = 1 - ink if rng.random() < 0.5 else np.maximum(ink, 0.6)
    else:
        window[:] = ink
    return opacity, [float(level) for level in rng.random(3) ** 0.5]
