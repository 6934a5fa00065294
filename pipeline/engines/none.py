"""The deblurrer that changes nothing: for raw video that is sharp already, and for measuring what the pipeline costs."""

from dataclasses import dataclass

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.media.images import Picture


class NoDeblur:
    """Returns the frame."""

    info = EngineInfo(name="none", role="deblur", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """There is nothing to set."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options

    def shrink(self) -> bool:
        return False

    def deblur(self, frame: Picture, seed: int, safe_point: SafePoint) -> Picture:
        return frame


ENGINE = NoDeblur
