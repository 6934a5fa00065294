"""What turns frames into photographs: the lens renderer on depth, or a trained network."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch

from model.bokehflow import BokehFlow, BokehFlowOutput, BokehFlowState, LensBatch
from model.bokehflow.blocks import F_NUMBERS, FOCAL_M, FOCUS_M
from model.errors import CheckpointError
from model.video.depth_source import DepthSource, Kept
from model.video.film import Film, Look, to_8_bit
from model.video.focus import check_focus_m
from model.video.in_flight import Leaving, leave, one_behind
from model.video.profile import Profile, part_of
from model.video.settings import ApplySettings, check_range
from pipeline.errors import UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.depth_cleaning import crisp
from pipeline.media.depth_files import Depth
from pipeline.media.images import AnyPicture
from pipeline.media.video_io import TimedFrame
from pipeline.optics import Lens, OpticsError, defocus_px, disparity_gain_px, px_per_mm
from pipeline.optics.cat_eye import render_cat_eye

FOCAL_RANGE_MM = (FOCAL_M[0] * 1000, FOCAL_M[1] * 1000)
# A disc wider than half the frame has no shape to see any more, and its transform no limit.
_WIDEST_RADIUS = 0.25
DEPTH, UP, DOWN = "depth, read and cleaned", "to the device", "back, in whole levels"  # parts of a profile
_SHOWS_PX = 2.0  # a step of the radius from which on an edge is one


@dataclass(frozen=True, kw_only=True)
class Photographed:
    """A frame, its photograph, and the depth that was used, (H, W) metres."""

    source: TimedFrame
    picture: AnyPicture
    depth_m: Depth


class FilmEngine(Protocol):
    """Frames in, photographs out, in order."""

    can_resume: bool  # every frame stands for itself
    profile: Profile | None  # set before the first photograph to know what its parts cost

    def photographs(
        self, frames: Iterable[tuple[int, TimedFrame]], look: Look, focus_m: list[float]
    ) -> Iterator[Photographed]:
        """The numbered frames through the lens, each focused at its distance."""
        ...


class LensEngine:
    """`pipeline.optics.render_lens_blur` on the film's depth; each frame stands for itself."""

    can_resume = True
    profile: Profile | None = None

    def __init__(self, settings: ApplySettings, lens: Lens, depth: DepthSource, device: str) -> None:
        self._settings, self._lens, self._depth, self._device = settings, lens, depth, device

    @torch.inference_mode()
    def photographs(
        self, frames: Iterable[tuple[int, TimedFrame]], look: Look, focus_m: list[float]
    ) -> Iterator[Photographed]:
        scale = px_per_mm(look.size[0], self._settings.sensor_mm)
        limit = _WIDEST_RADIUS * max(look.size)
        for number, frame in frames:
            with part_of(self.profile, DEPTH):
                depth_m = _clean(self._depth.read(number), self._lens, scale)
            with part_of(self.profile, UP):
                depth = torch.from_numpy(depth_m).to(self._device)[None, None]
                image = image_to_tensor(frame.picture, self._device)[None]
            with part_of(self.profile, "lens renderer"):
                radius = defocus_px(depth, replace(self._lens, focus_m=focus_m[number]), scale).clamp(-limit, limit)
                settings = self._settings
                out = render_cat_eye(image, radius, amount=settings.cat_eye, order=depth, aperture=settings.aperture)
            with part_of(self.profile, DOWN):
                picture = leave(out[0], frame.picture)()
            yield Photographed(source=frame, picture=picture, depth_m=depth_m)


def _clean(depth_m: Depth, lens: Lens, px_per_mm: float) -> Depth:
    """Depth without the soft edges that this lens would show."""
    return crisp(depth_m, _SHOWS_PX / disparity_gain_px(lens, px_per_mm))


class NetworkEngine:
    """BokehFlow, which carries a state from frame to frame, fresh in each shot, and sees depth itself or is given it.

    Args:
        net: on its device.
        f_number, focal_mm, sensor_mm: the lens.
        depth: to hand in, prepared before the first photograph; None lets the network see it.
    """

    can_resume = False
    profile: Profile | None = None

    def __init__(
        self, net: BokehFlow, f_number: float, focal_mm: float, sensor_mm: float, depth: DepthSource | None = None
    ) -> None:
        # On a GPU in bfloat16, weights too: under autocast the streams' kernels would not run.
        self.net = net.bfloat16() if next(net.parameters()).is_cuda else net
        self._f_number, self._focal_mm, self._sensor_mm = f_number, focal_mm, sensor_mm
        self._depth = depth
        check_range("--f_number", f_number, F_NUMBERS)
        check_range("--focal_mm", focal_mm, FOCAL_RANGE_MM)

    def given(self, depth: DepthSource) -> "NetworkEngine":
        """The same, with depth handed in."""
        return NetworkEngine(self.net, self._f_number, self._focal_mm, self._sensor_mm, depth)

    def lens_batch(self, focus_m: float, width: int) -> LensBatch:
        """The lens for a frame of this width; radii are limited in proportion to it, whatever the sensor.

        Raises:
            UsageError: this lens cannot focus there, or the network never learned of such a distance.
        """
        config = self.net.config
        check_focus_m(focus_m, "with a network the focus", FOCUS_M)
        lens = self._lens(focus_m)
        limit_px = config.max_radius_px * width / config.reference_width_px
        return LensBatch.of(lens, px_per_mm(width, self._sensor_mm), limit_px).to(next(self.net.parameters()).device)

    def _lens(self, focus_m: float) -> Lens:
        f_mm = self._focal_mm
        try:
            return Lens(f_m=f_mm / 1000, f_number=self._f_number, focus_m=focus_m, coc_model=self.net.config.coc_model)
        except OpticsError:
            raise UsageError(
                f"a lens of {f_mm:g} mm focuses only beyond {f_mm / 1000:g} m (this network learned of "
                f"real photographs), got a focus at {focus_m:g} m; focus farther away, or take a smaller --focal_mm"
            ) from None

    @torch.inference_mode()
    def through(
        self, picture: AnyPicture, focus_m: float, state: BokehFlowState | None, depth_m: Depth | None = None
    ) -> tuple[BokehFlowOutput, BokehFlowState]:
        """One frame through the network, with (H, W) metres of depth or without.

        Raises:
            CheckpointError: the network's depth is not a number.
        """
        lens = self.lens_batch(focus_m, picture.shape[1])
        device = lens.f_m.device
        try:
            known = None if depth_m is None else torch.from_numpy(depth_m).to(device)[None, None]
            return self.net(image_to_tensor(picture, device)[None], lens, state, known)
        except OpticsError as error:  # the picture is bytes and the lens was checked: the network's own depth
            raise CheckpointError(
                f"this network's prediction cannot be rendered ({error}); take another checkpoint"
            ) from None

    def photographs(
        self, frames: Iterable[tuple[int, TimedFrame]], look: Look, focus_m: list[float]
    ) -> Iterator[Photographed]:
        yield from one_behind(self._started(frames, look, focus_m))

    def _started(
        self, frames: Iterable[tuple[int, TimedFrame]], look: Look, focus_m: list[float]
    ) -> Iterator[Callable[[], Photographed]]:
        starts = {shot.start for shot in look.shots}
        state: BokehFlowState | None = None
        for number, frame in frames:
            depth_m = None
            if self._depth is not None:
                with part_of(self.profile, DEPTH):
                    scale = px_per_mm(look.size[0], self._sensor_mm)
                    depth_m = _clean(self._depth.read(number), self._lens(focus_m[number]), scale)
            with part_of(self.profile, "network: the rest"):
                out, state = self.through(frame.picture, focus_m[number], None if number in starts else state, depth_m)
            with part_of(self.profile, DOWN):
                picture, shown = leave(out.bokeh[0], frame.picture), Leaving(out.depth_m[0, 0].float())
            yield partial(self._back, frame, picture, shown)

    def _back(self, frame: TimedFrame, picture: Callable[[], AnyPicture], shown: Leaving) -> Photographed:
        with part_of(self.profile, DOWN):
            return Photographed(source=frame, picture=picture(), depth_m=shown.arrived().numpy())


class NetworkDepth(Kept):
    """The depth that a network sees, to focus by or for the lens renderer."""

    _FOCUS_M = 2.0  # depth hardly depends on the lens it is asked under; the middle of the range is a fair one

    def __init__(self, engine: NetworkEngine, digest: str, said: str) -> None:
        super().__init__(said, {"kind": "bokehflow", "digest": digest})
        self._engine = engine

    def first(self, picture: AnyPicture) -> Depth:
        """(H, W) metres of a film's first frame."""
        out, _ = self._engine.through(picture, self._FOCUS_M, None)
        return out.depth_m[0, 0].float().cpu().numpy()

    def _estimate(self, film: Film, look: Look) -> Iterator[Depth]:
        starts = {shot.start for shot in look.shots}
        state: BokehFlowState | None = None
        for number, frame in enumerate(film.frames()):
            picture = to_8_bit(frame.picture)
            out, state = self._engine.through(picture, self._FOCUS_M, None if number in starts else state)
            yield out.depth_m[0, 0].float().cpu().numpy()
