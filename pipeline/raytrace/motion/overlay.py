"""Static overlays on the finished picture: a channel's mark, a subtitle, a ticker line. They are not part of the scene."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from pipeline.raytrace import textures as tx
from pipeline.raytrace.flow import Flow
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.light import RGB

KINDS = ("mark", "subtitle", "ticker")


@dataclass(frozen=True)
class Overlay:
    """A layer over every frame of a clip.

    Args:
        colour: (H, W, 3) float32, sRGB in [0, 1].
        opacity: (H, W) float32 in [0, 1].
    """

    colour: F32
    opacity: F32

    def over(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame (H, W, 3) with the layer on it."""
        share = self.opacity[..., None]
        return np.round(frame * (1 - share) + self.colour * (255 * share)).astype(np.uint8)

    def over_flow(self, flow: Flow) -> Flow:
        """What the layer covers stands still; what slips beneath it is not seen in the other frame."""
        solid = self.opacity >= 0.5
        height, width = solid.shape
        rows, columns = np.mgrid[:height, :width]
        x = np.clip(np.round(columns + flow.flow_px[..., 0]), 0, width - 1).astype(np.int64)
        y = np.clip(np.round(rows + flow.flow_px[..., 1]), 0, height - 1).astype(np.int64)
        occluded = (flow.occluded | solid[y, x]) & ~solid
        return Flow(np.where(solid[..., None], np.float32(0), flow.flow_px), occluded)


def overlay(kind: str, text: str, width: int, height: int, *, colour: RGB = (1.0, 1.0, 1.0)) -> Overlay:
    """A layer for frames of a size.

    Args:
        kind: one of `KINDS`: a mark in the upper right corner, a subtitle with an outline, a line on a band.
        text: letters of `textures.letters`.
        width, height: of the frame, px.
        colour: of the letters or the mark's disc, sRGB.
    """
    layer, opacity = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    scale = max(1, width // (160 if kind == "mark" else 128))
    cells = np.kron(tx.letters(text), np.ones((scale, scale), np.float32))[:, : width - 8]
    rows, columns = cells.shape
    top, left = height - rows - max(6, height // 14), (width - columns) // 2
    if kind == "mark":
        top, left = height // 12, width - columns - width // 14
        y, x = np.mgrid[:height, :width]
        far = ((x - left - columns / 2) / (columns * 0.72)) ** 2 + ((y - top - rows / 2) / (rows * 1.25)) ** 2
        opacity = np.clip((1 - far) * 6, 0, 1).astype(np.float32)
        layer[:] = colour
    elif kind == "ticker":
        opacity[top - 3 * scale : top + rows + 3 * scale] = 1.0
        layer[:] = (0.08, 0.10, 0.16)
    text_here = np.zeros((height, width), bool)
    text_here[top : top + rows, left : left + columns] = cells > 0
    if kind == "subtitle":
        opacity = gaussian_filter(binary_dilation(text_here, iterations=scale).astype(np.float32), 0.4)
    ink = (0.05, 0.05, 0.08) if kind == "mark" else colour
    layer[text_here] = ink
    opacity[text_here] = 1.0
    return Overlay(layer, opacity.astype(np.float32))
