"""Phase 3 by BokehFlow: the depth that it sees, with its state carried over the whole scene.

A frame's depth depends on all frames before it. A run that goes on after an interruption therefore sends the finished frames
through the network once more, without writing them: the next one is then that of an uninterrupted run, to the last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import Clip, SafePoint
from pipeline.engines.bokehflow.network import Network, NetworkOptions
from pipeline.engines.info import EngineInfo
from pipeline.optics.lens import Lens, px_per_mm

if TYPE_CHECKING:
    from model.bokehflow import BokehFlowState

# Depth hardly depends on the lens it is asked under; this is what `apply_bokeh` and `--depth bokehflow` ask under, too.
F_MM, F_NUMBER, FOCUS_M = 50.0, 2.0, 2.0


class BokehFlowDepth:
    """A scene is one shot: the state is fresh at its first frame alone."""

    info = EngineInfo(name="bokehflow", role="depth", version=1, licence="as the checkpoint", deterministic=True)
    temporal = True

    @dataclass(frozen=True, kw_only=True)
    class Options(NetworkOptions):
        """The network."""

    def __init__(self, options: Options, device: str) -> None:
        self._network = Network(type(self).info, options, device)
        self.options, self.info = self._network.options, self._network.info

    def shrink(self) -> bool:
        return self._network.shrink()

    def estimate(self, clip: Clip, safe_point: SafePoint) -> npt.NDArray[np.float32]:
        return np.stack(list(self.stream(clip, safe_point)))

    def stream(self, clip: Clip, safe_point: SafePoint, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """(H, W) metres in (0.1, 100) for each frame from position `first` on, in order, in the memory of one frame."""
        from model.bokehflow import LensBatch

        config = self._network.net.config
        asked = Lens(f_m=F_MM / 1000, f_number=F_NUMBER, focus_m=FOCUS_M, coc_model=config.coc_model)
        state: BokehFlowState | None = None
        for position, index in enumerate(clip.indices):
            safe_point()
            frame = clip.frames(index)
            lens = LensBatch.of(asked, px_per_mm(frame.shape[1], config.sensor_width_mm))
            out, state = self._network.through(frame, lens, state)
            if position >= first:
                yield out.depth_m[0, 0].float().cpu().numpy()


ENGINE = BokehFlowDepth
