"""No interpolation at all: the nearer of the two frames again, the earlier one at half way."""

from dataclasses import dataclass

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.engines.interpolation.context import Context, TwoFrames, UnitPicture


class NearestFrame(TwoFrames):
    """What a player shows that does not interpolate."""

    info = EngineInfo(name="nearest", role="interpolate", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """There is nothing to set."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        from pipeline.media.convert import image_to_unit

        safe_point()
        return image_to_unit(context.before if context.t <= 0.5 else context.after)


ENGINE = NearestFrame
