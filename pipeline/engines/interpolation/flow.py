"""Optical flow and occlusion, without a network: DIS in both directions, carried to the instant, both frames warped back.

Each frame proposes the motion at the instant (its own flow carried along itself). Both frames are warped by each proposal, and
where the two warped pictures agree the proposal is believed. Where nothing of a frame arrives, that frame did not see the
place, and the other one is shown. That nothing moved is a third, weaker proposal: it wins where the others fail, as under a
caption that stands still over a moving picture. DIS: Kroeger, Timofte, Dai, Van Gool, ECCV 2016; OpenCV's.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.engines.base import SafePoint
from pipeline.engines.info import EngineInfo, option
from pipeline.engines.interpolation.context import Context, TwoFrames, UnitPicture
from pipeline.engines.interpolation.splat import FloatMap, fill, seen, splat
from pipeline.media.arrays import AnyPicture

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_COLOUR = 0.03  # mismatch, of full scale, at which a proposal's weight falls to 1/e
_STILL = 0.1  # of the weight of a proposal that was measured; more would wipe out small things that pass quickly
_CONSISTENCY_PX = 1.0  # way there and back that misses by this much counts 1/e when pixels compete for a place


class FlowWarping(TwoFrames):
    """Keeps the flow of the last two frames, so that several instants between them cost one estimate."""

    info = EngineInfo(name="flow", role="interpolate", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """How the flow is measured."""

        preset: str = option("medium", "how thoroughly DIS looks: ultrafast, fast or medium")

        def __post_init__(self) -> None:
            if self.preset not in _PRESETS:
                raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, got {self.preset!r}")

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        self._pair: tuple[AnyPicture, AnyPicture] | None = None
        self._flows: tuple[FloatMap, FloatMap]

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        from pipeline.media.convert import image_to_unit

        safe_point()
        before, after, t = context.before, context.after, context.t
        there, back = self._measured(before, after)
        safe_point()
        proposals, visible = proposed_motion(there, back, t)
        return blend_warped(image_to_unit(before), image_to_unit(after), proposals, visible, t)

    def _measured(self, before: AnyPicture, after: AnyPicture) -> tuple[FloatMap, FloatMap]:
        if self._pair is None or self._pair[0] is not before or self._pair[1] is not after:
            self._flows = measure_flow(before, after, self.options.preset)
            self._pair = before, after
        return self._flows


def measure_flow(before: AnyPicture, after: AnyPicture, preset: str = "medium") -> tuple[FloatMap, FloatMap]:
    """(H, W, 2) px from the first frame to the second, and from the second to the first.

    Frames smaller than the 16 px that DIS needs have no motion that it could find.
    """
    first, second = (_grey(picture) for picture in (before, after))
    if min(first.shape) < 16:
        zero = np.zeros((*first.shape, 2), np.float32)
        return zero, zero
    # A new object each time and one thread (pipeline.device): both would change the last bit.
    estimates: list[Any] = [cv2.DISOpticalFlow.create(_PRESETS[preset]) for _ in range(2)]
    return estimates[0].calc(first, second, None), estimates[1].calc(second, first, None)


def _grey(picture: AnyPicture) -> Any:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey if grey.dtype == np.uint8 else np.rint(grey / 257).astype(np.uint8)


def pull(picture: FloatMap, flow: FloatMap, interpolation: int = cv2.INTER_LINEAR) -> FloatMap:
    """The picture at x + flow(x), for every x; its border goes on outside."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    targets = x + flow[..., 0], y + flow[..., 1]
    pulled: Any = cv2.remap(picture, *targets, interpolation, borderMode=cv2.BORDER_REPLICATE)
    taken: FloatMap = pulled
    return taken


def _trust(there: FloatMap, back: FloatMap) -> FloatMap:
    missed = np.linalg.norm(there + pull(back, there), axis=-1)
    trust: FloatMap = np.exp(-np.square(missed / _CONSISTENCY_PX)).astype(np.float32)
    return np.maximum(trust, 1e-3)


def proposed_motion(
    there: FloatMap, back: FloatMap, t: float
) -> tuple[tuple[FloatMap, FloatMap], tuple[FloatMap, FloatMap]]:
    """What each of two frames says of the motion at t.

    Args:
        there, back: (H, W, 2) flow between the two frames, px.
        t: instant, in (0, 1).

    Returns:
        Two (H, W, 2) motions from the first frame to the second of what is seen at t, and two (H, W) in [0, 1]: how far the
        first, and the second frame, saw the place.
    """
    motions, sights = [], []
    for own, other, share, sign in ((there, back, t, 1), (back, there, 1 - t, -1)):
        trust = _trust(own, other)
        carried, weight = splat(sign * own, share * own, trust)
        _, reached = splat(own, share * own, np.ones_like(trust))
        motions.append(fill(carried, seen(weight * 2)))
        sights.append(seen(reached))
    return (motions[0], motions[1]), (sights[0], sights[1])


def blend_warped(
    before: UnitPicture,
    after: UnitPicture,
    proposals: tuple[FloatMap, FloatMap],
    visible: tuple[FloatMap, FloatMap],
    t: float,
) -> UnitPicture:
    """Both frames warped to t by both proposals, each pixel of what agrees best.

    Args:
        before, after: (H, W, 3) in [0, 1].
        proposals, visible: see `proposed_motion`.
        t: instant, in (0, 1).
    """
    total = np.zeros_like(before)
    weights = np.zeros(before.shape[:2], np.float32)
    first, last = (1 - t) * visible[0] + 1e-3, t * visible[1] + 1e-3
    share = (last / (first + last))[..., None]
    still = np.zeros_like(proposals[0]), np.full_like(visible[0], _STILL)
    for motion, own in (*zip(proposals, visible, strict=True), still):
        early = pull(before, -t * motion, cv2.INTER_CUBIC)
        late = pull(after, (1 - t) * motion, cv2.INTER_CUBIC)
        mismatch = cv2.blur(np.abs(early - late).mean(axis=-1), (5, 5))
        weight = np.exp(-mismatch / _COLOUR) * (own + 1e-3) + 1e-6
        total += (early + share * (late - early)) * weight[..., None]
        weights += weight
    return np.clip(total / weights[..., None], 0, 1)


ENGINE = FlowWarping
