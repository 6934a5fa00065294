"""The baseline that every interpolator must beat: the two nearest frames, crossfaded."""

from dataclasses import dataclass

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.engines.interpolation.context import Context, TwoFrames, UnitPicture


class MeanOfNeighbours(TwoFrames):
    """(1 - t) before + t after: at t = 0.5 the mean of the neighbours."""

    info = EngineInfo(name="mean", role="interpolate", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """There is nothing to set."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        from pipeline.media.convert import image_to_unit

        safe_point()
        before, after = image_to_unit(context.before), image_to_unit(context.after)
        return before + context.t * (after - before)


ENGINE = MeanOfNeighbours
