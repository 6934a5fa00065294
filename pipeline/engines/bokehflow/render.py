"""Phase 5 by BokehFlow: the photograph of a set's lens, from the frame and the scene's depth.

The depth that the label was computed from is handed to the network, and its radii end where the label saturates: picture and
label say the same blur, to the label's rounding. Every frame is seen with a fresh state, as the network sees the first frame of
a film, so that no picture depends on which others were made before it, in which order, or where a run was interrupted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import BokehRequest, SafePoint
from pipeline.engines.bokehflow.network import Network, NetworkOptions
from pipeline.engines.info import EngineInfo, option
from pipeline.errors import InputError
from pipeline.media.images import Picture
from pipeline.optics.lens import coc_to_radius_px

NO_BLUR_PX = 0.5  # below, a photograph is its frame (docs/optics.md), and a network could only redraw it
ROUNDING_PX = 0.05  # of a float16 label


class BokehFlowRenderer:
    """A label that asks for more blur than the network was built for is refused, or clipped where that is asked for."""

    info = EngineInfo(name="bokehflow", role="bokeh", version=1, licence="as the checkpoint", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options(NetworkOptions):
        """The network, and what it does with blur that it does not know."""

        over_limit: str = option("refuse", "blur beyond the network's largest radius: refuse the scene, or clip to it")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.over_limit not in ("refuse", "clip"):
                raise ValueError(f"over_limit must be refuse or clip, got {self.over_limit!r}")

    def __init__(self, options: Options, device: str) -> None:
        self._network = Network(type(self).info, options, device)
        self.options, self.info = self._network.options, self._network.info
        self._over_limit = options.over_limit

    def shrink(self) -> bool:
        return self._network.shrink()

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        from model.bokehflow import LensBatch
        from pipeline.media.convert import tensor_to_image

        safe_point()
        self._check_lens(request)
        largest_px = float(coc_to_radius_px(request.max_coc_m, request.px_per_mm))
        lens = LensBatch.of(request.lens, request.px_per_mm, largest_px)
        asked_px = (1 - request.focus_map.astype(np.float32)) * np.float32(largest_px)
        if not bool((asked_px > NO_BLUR_PX).any()):
            return request.sharp
        if self._over_limit == "refuse":
            self._check_radius(asked_px, request)
        out, _ = self._network.through(request.sharp, lens, None, np.ascontiguousarray(request.depth_m, np.float32))
        return tensor_to_image(out.bokeh[0].float())

    def _check_lens(self, request: BokehRequest) -> None:
        learned = self._network.net.config.coc_model
        if request.lens.coc_model != learned:
            raise InputError(
                f"{self._network.path} learned of lenses by the model {learned!r}, the calibration draws them by "
                f"{request.lens.coc_model!r}; take another checkpoint, or another engine"
            )

    def _check_radius(self, asked_px: npt.NDArray[np.float32], request: BokehRequest) -> None:
        """Whether the label's radii are within what the network renders at this frame's scale."""
        from model.bokehflow.lens import LensBatch, radius_limit_px

        own_px = float(radius_limit_px(LensBatch.of(request.lens, request.px_per_mm), self._network.net.config)[0])
        beyond = asked_px > own_px + ROUNDING_PX
        if beyond.any():
            raise InputError(
                f"{self._network.path} renders radii up to {own_px:.1f} px on frames of this size, the label asks for "
                f"{float(asked_px.max()):.1f} px ({100 * float(beyond.mean()):.2g} % of the pixels are beyond): confirm a "
                "smaller max_coc in phase 4, take --engine lens, or allow less blur than the label says with "
                "--engine_opt over_limit=clip"
            )


ENGINE = BokehFlowRenderer
