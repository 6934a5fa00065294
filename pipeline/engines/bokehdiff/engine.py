"""BokehDiff as the renderer of phase 5: K from the lens, disparity from the depth map, one call of SDXL per tile."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.device import resolve_device
from pipeline.engines.base import BokehRequest, SafePoint
from pipeline.engines.bokehdiff.options import TRAINED_K, BokehDiffOptions, label_gain
from pipeline.engines.info import EngineInfo
from pipeline.errors import InputError
from pipeline.media.depth_files import Depth
from pipeline.media.images import Picture
from pipeline.optics.lens import coc_to_radius_px, disparity_gain_px

if TYPE_CHECKING:
    from pipeline.engines.bokehdiff.pisa import Defocus

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """What is asked of the network for one picture.

    Args:
        disparity: (H, W) float32 in [0, 1], near = large.
        focus: the disparity in focus.
        gain_px: K, radius in px per disparity.
        max_radius_px: where the label saturates; infinite without a label.
    """

    disparity: Depth
    focus: float
    gain_px: float
    max_radius_px: float = float("inf")


class BokehDiff:
    """Deterministic: the input has no noise, and the places around rays are a fixed pattern."""

    info = EngineInfo(name="bokehdiff", role="bokeh", version=1, licence="not stated", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options(BokehDiffOptions):
        """As they are: other modules read them without the engine."""

    def __init__(self, options: BokehDiffOptions, device: str) -> None:
        from pipeline.engines.bokehdiff.load import choose_files, read_parts
        from pipeline.engines.bokehdiff.network import SdxlNetwork

        self.options = options
        self.info, files = choose_files(type(self).info, options)
        self._network = SdxlNetwork(partial(read_parts, files, options), options, resolve_device(device))
        self._warned = False

    def shrink(self) -> bool:
        return self._network.plan.shrink()

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        if request.focus_map.shape != request.sharp.shape[:2]:
            raise InputError(f"the focus map is {request.focus_map.shape}, its frame {request.sharp.shape[:2]}")
        if (request.focus_map == 1).all():  # all in focus: a network would only redraw the frame
            safe_point()
            return request.sharp
        return self.render_blur(request.sharp, blur_of(request), safe_point)

    def render_blur(self, sharp: Picture, blur: Blur, safe_point: SafePoint) -> Picture:
        """The photograph of a sharp picture of any size, without a label.

        Raises:
            InputError: disparity of another size, or outside [0, 1].
        """
        safe_point()
        defocus = self.defocus_of(sharp, blur)
        return sharp if blur.gain_px == 0 else self._network.render(sharp, defocus, safe_point)

    def defocus_of(self, sharp: Picture, blur: Blur) -> "Defocus":
        """What the network is given, the gain of the labels included. Raises InputError as `render_blur`."""
        import torch

        from pipeline.engines.bokehdiff.pisa import Defocus

        disparity = blur.disparity
        if disparity.shape != sharp.shape[:2]:
            raise InputError(f"the disparity is {disparity.shape}, its picture {sharp.shape[:2]}")
        if not (np.isfinite(disparity).all() and disparity.min() >= 0 and disparity.max() <= 1):
            raise InputError(f"disparity must be in [0, 1], got {disparity.min():g} to {disparity.max():g}")
        if not (TRAINED_K[0] <= blur.gain_px <= TRAINED_K[1]) and blur.gain_px and not self._warned:
            self._warned = True  # once: every frame of a scene would say the same
            _log.warning(
                "K is %.1f px of radius per disparity; the published network was trained on %g to %g, and may not follow",
                blur.gain_px,
                *TRAINED_K,
            )
        factor = label_gain(blur.focus) if self.options.gain == "published" else 1.0
        return Defocus(
            disparity=torch.from_numpy(np.ascontiguousarray(disparity, dtype=np.float32))[None],
            focus=blur.focus,
            gain_px=blur.gain_px * factor,
            max_radius_px=blur.max_radius_px * factor,
        )


def blur_of(request: BokehRequest) -> Blur:
    """Disparity over that of the nearest point, and K times it: |disparity - focus| K is the label's radius in true pixels."""
    disparity: Depth = np.float32(1) / request.depth_m.astype(np.float32)
    nearest = np.float32(disparity.max())
    per_metre = disparity_gain_px(request.lens, request.px_per_mm)
    return Blur(
        disparity=(disparity / nearest).astype(np.float32),
        focus=float(1 / request.lens.focus_m / nearest),
        gain_px=float(per_metre * nearest),
        max_radius_px=float(coc_to_radius_px(request.max_coc_m, request.px_per_mm)),
    )
