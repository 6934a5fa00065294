"""Depth delivered with the scene (`depth/` or `disparity/` beside the frames)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import Clip, SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.errors import InputError


class GivenDepth:
    """Reads instead of estimating."""

    info = EngineInfo(name="given", role="depth", version=1, licence="as the delivered depth", deterministic=True)
    temporal = False

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """There is nothing to set."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options

    def shrink(self) -> bool:
        return False

    def estimate(self, clip: Clip, safe_point: SafePoint) -> npt.NDArray[np.float32]:
        if clip.delivered is None:
            raise InputError(
                "engine 'given' needs depth/ or disparity/ beside the frames, and this scene has none; "
                "add it and index again, or choose another depth engine"
            )
        maps = []
        for index in clip.indices:
            safe_point()
            maps.append(clip.delivered(index))
        return np.stack(maps)


ENGINE = GivenDepth
