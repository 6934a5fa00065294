"""Rendered frames, warped along the flow of the sharp ones, which are known at every instant.

Nothing about the motion has to be guessed: DIS measures it from the sharp frame of the instant itself to those beside it, and
how well each warped sharp frame shows the instant's own says, pixel by pixel, which rendered frame to take. What the warp of
the sharp frames gets wrong is known exactly, and is added back, blurred as the instant's own focus map says: in focus that is
the sharp frame itself. What this is not: exact where things come nearer or go away between two rendered frames; their blur is
then between before and after, which is right to first order.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.engines.interpolation.context import Context, TwoFrames, UnitPicture
from pipeline.engines.interpolation.flow import measure_flow, pull
from pipeline.engines.interpolation.splat import FloatMap
from pipeline.errors import UsageError
from pipeline.media.arrays import AnyPicture

_COLOUR = 0.02  # mismatch, of full scale, at which a frame's weight falls to 1/e
_SPAN_PX = 7  # weights are taken over this window: finer ones would cut edges into what is blurred


class GuidedWarping(TwoFrames):
    """Keeps flows and weights of the last instant: all lens sets of a frame share them."""

    info = EngineInfo(name="guided", role="interpolate", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """There is nothing to set."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        self._seen: tuple[AnyPicture, AnyPicture, AnyPicture] | None = None
        self._known: tuple[FloatMap, FloatMap, FloatMap, FloatMap]

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        from pipeline.media.convert import image_to_unit

        guides = context.guides_beside
        if guides is None:
            raise UsageError(
                "the interpolator guided needs the sharp frame of the instant, which phase 5 has; take flow"
            )
        safe_point()
        if self._seen is None or any(one is not other for one, other in zip(self._seen, guides, strict=True)):
            self._known = _looked_at(guides, context.t)
            self._seen = guides
        back, on, share, missing = self._known
        safe_point()
        early = pull(image_to_unit(context.before), back, cv2.INTER_CUBIC)
        late = pull(image_to_unit(context.after), on, cv2.INTER_CUBIC)
        made = early + share[..., None] * (late - early)
        if context.radius_px is not None:
            made += blurred(missing, context.radius_px)
        return np.clip(made, 0, 1)


def _looked_at(
    guides: tuple[AnyPicture, AnyPicture, AnyPicture], t: float
) -> tuple[FloatMap, FloatMap, FloatMap, FloatMap]:
    """(H, W, 2) flow from the instant to the frames before and after, (H, W) in [0, 1], how much of the later one to take, and
    (H, W, 3), what the sharp frame of the instant has more than the warp of the others."""
    from pipeline.media.convert import image_to_unit

    before, here, after = guides
    back, on = measure_flow(here, before)[0], measure_flow(here, after)[0]
    own = image_to_unit(here)
    warped = [pull(image_to_unit(other), flow, cv2.INTER_CUBIC) for other, flow in ((before, back), (after, on))]
    weights = []
    for picture, nearness in zip(warped, (1 - t, t), strict=True):
        mismatch = cv2.blur(np.abs(picture - own).mean(axis=-1), (_SPAN_PX, _SPAN_PX))
        weights.append(nearness * (np.exp(-mismatch / _COLOUR) + 1e-6))
    share: FloatMap = (weights[1] / (weights[0] + weights[1])).astype(np.float32)
    return back, on, share, own - warped[0] - share[..., None] * (warped[1] - warped[0])


def blurred(picture: FloatMap, radius_px: FloatMap) -> FloatMap:
    """(H, W, C) blurred by another radius at each pixel, (H, W) px.

    Between blurs of radii a factor of two apart, linearly; each is a Gaussian of the variance of a disc, r^2 / 4 an axis.
    """
    below, total = picture, np.zeros_like(picture)
    low, high = 0.0, 1.0
    while True:
        above: Any = cv2.GaussianBlur(picture, (0, 0), high / 2)
        here = (radius_px >= low) & (radius_px < high)
        share = ((radius_px - low) / (high - low))[..., None]
        total = np.where(here[..., None], below + share * (above - below), total)
        if radius_px.max() < high:
            return total.astype(np.float32)
        below, low, high = above, high, high * 2


ENGINE = GuidedWarping
