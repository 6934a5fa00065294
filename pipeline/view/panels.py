"""The pictures of the page as functions of arrays: a frame made small, its focus map, its photograph, and what can be counted.

A preview is the frame in fewer pixels through the same lens: `px_per_mm` follows its width, so that a circle of confusion
covers the same share of it. Where nothing is made smaller, the photograph is the one that phase 5 stores, pixel for pixel.

Shape letters: H, W = preview.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import InputError
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.media.images import Picture
from pipeline.optics import (
    Lens,
    coc_diameter,
    coc_to_radius_px,
    defocus_px,
    focus_map_to_defocus_px,
    px_per_mm,
    render_lens_blur,
)
from pipeline.optics.labels import FocusMap, label_of

# A disc wider than half the frame has no shape to see any more, and its transform no limit.
_WIDEST_RADIUS = 0.25
_SHOWN_PX = 1.0  # from which radius on, at full size, a pixel counts as blurred; as phase 4 counts


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A frame at preview size.

    Args:
        sharp: (H, W, 3) uint8 RGB.
        depth: (H, W) float16 metres; every value is one that is stored, none is mixed.
        px_per_mm: of the preview.
        full_px_per_mm: of the frame as it is stored.
    """

    sharp: Picture
    depth: npt.NDArray[np.float16]
    px_per_mm: float
    full_px_per_mm: float


def shrink(sharp: Picture, depth: npt.NDArray[np.float16], long_side_px: int, sensor_width_mm: float) -> Preview:
    """A stored frame and its depth at preview size; as they are where they are no larger.

    Raises:
        InputError: frame and depth differ in size.
    """
    height, width = depth.shape
    if sharp.shape[:2] != depth.shape:
        raise InputError(
            f"the frame is {sharp.shape[1]}x{sharp.shape[0]} and its depth {width}x{height}; run phase 3 again"
        )
    full = px_per_mm(width, sensor_width_mm)
    scale = long_side_px / max(height, width)
    if scale >= 1:
        return Preview(sharp=sharp, depth=depth, px_per_mm=full, full_px_per_mm=full)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(cv2.resize(sharp, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    # A depth between two surfaces would be one of neither, and the lens would blur it so.
    picked = depth[_middles(rows, height)[:, None], _middles(columns, width)]
    return Preview(sharp=small, depth=picked, px_per_mm=px_per_mm(columns, sensor_width_mm), full_px_per_mm=full)


def _middles(count: int, of: int) -> npt.NDArray[np.intp]:
    return ((np.arange(count) + 0.5) * (of / count)).astype(np.intp)


def focus_map_of(preview: Preview, lens: Lens, max_coc_m: float) -> FocusMap:
    """The label that phase 5 would store, (H, W) float16."""
    return label_of(preview.depth, lens, max_coc_m)


@torch.inference_mode()
def photograph(
    preview: Preview, focus: FocusMap, lens: Lens, max_coc_m: float, *, saturate: bool, device: str = "cpu"
) -> Picture:
    """The frame through the lens, (H, W, 3) uint8.

    Args:
        preview: the frame.
        focus: its focus map.
        lens: the lens.
        max_coc_m: where the focus map saturates.
        saturate: as the engine `lens` of phase 5 does it, from the focus map; else from depth, without its limit.
        device: where PyTorch computes.
    """
    depth = torch.from_numpy(preview.depth.astype(np.float32)).to(device)[None, None]
    if saturate:
        label = torch.from_numpy(focus).to(device)[None, None]
        radius = focus_map_to_defocus_px(label, depth, lens.focus_m, max_coc_m, preview.px_per_mm)
    else:
        radius = defocus_px(depth, lens, preview.px_per_mm)
    limit = _WIDEST_RADIUS * max(depth.shape)
    image = image_to_tensor(preview.sharp, device)[None]
    return tensor_to_image(render_lens_blur(image, radius.clamp(-limit, limit), order=depth)[0])


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a lens does to a frame, in numbers; radii are pixels of the frame as it is stored.

    Args:
        mean_focus: of the focus map.
        blurred: share of the pixels with a radius above 1 px.
        saturated: share of the pixels at or beyond max_coc, which the focus map no longer tells apart.
        radius_p95_px, radius_max_px: of the lens, without the limit of max_coc.
    """

    mean_focus: float
    blurred: float
    saturated: float
    radius_p95_px: float
    radius_max_px: float


def count(preview: Preview, focus: FocusMap, lens: Lens, max_coc_m: float) -> Counted:
    """Count what the focus map and the lens do to a preview."""
    coc_m = coc_diameter(torch.from_numpy(preview.depth.astype(np.float32)), lens).numpy()
    radius_px = coc_m * coc_to_radius_px(1.0, preview.full_px_per_mm)
    return Counted(
        mean_focus=float(focus.mean(dtype=np.float64)),
        blurred=float((radius_px > _SHOWN_PX).mean()),
        saturated=float((coc_m >= max_coc_m).mean()),
        radius_p95_px=float(np.percentile(radius_px, 95)),
        radius_max_px=float(radius_px.max()),
    )


def depth_at(depth: npt.NDArray[np.float16], across: float, down: float) -> float:
    """The depth of the pixel at a place of the picture, both from 0 to 1 (clipped), metres."""
    height, width = depth.shape
    row, column = (min(max(int(share * side), 0), side - 1) for share, side in ((down, height), (across, width)))
    return float(depth[row, column])
