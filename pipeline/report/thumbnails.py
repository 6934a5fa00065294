"""The strip of a scene as JPEGs in data URIs: sharp, depth, and per lens set the focus map and the render.

Beside each set stands a detail, magnified where frames are small, from where the lens changed the picture most: a blur of three
pixels does not survive a thumbnail.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.depth_files import read_npz
from pipeline.media.images import Picture, read_sharp
from pipeline.phases.render import MEAN_FOCUS_RANGE
from pipeline.report.colours import DepthScale, colour_focus, depth_scale
from pipeline.report.embed import Thumbnail, jpeg_thumbnail
from pipeline.report.motion import Clip
from pipeline.report.scene_facts import SceneFacts, SetFacts
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene

THUMB_WIDTH = 320
DETAIL_SIZE = (256, 112)  # pixels of the frame; the width of a thumbnail on a wide screen, so about 1:1
MAX_SETS = 6  # strips of one scene; more are said, not shown


@dataclass(frozen=True, kw_only=True)
class Detail:
    """The same window of the sharp frame and of the render, `scale` screen pixels to a pixel of the frame."""

    sharp: Thumbnail
    bokeh: Thumbnail
    scale: int


@dataclass(frozen=True, kw_only=True)
class SetStrip:
    """Pictures of one lens set. change: mean absolute difference of render and sharp frame, 0 to 255."""

    focus: Thumbnail
    bokeh: Thumbnail
    detail: Detail | None
    change: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures of one frame of one scene.

    Args:
        scale: what the depth colours mean; None without depth.
        best_set: the set that shows best what a lens does; None without renders.
        clip: the scene in motion; None where it is not finished, or the page's budget was used up.
    """

    frame: int
    sharp: Thumbnail
    depth: Thumbnail
    scale: DepthScale | None
    sets: tuple[SetStrip, ...]
    hidden_sets: int
    best_set: int | None = None
    clip: Clip | None = None

    @property
    def complete(self) -> bool:
        """Whether there is a picture of every kind, of the best set."""
        if self.best_set is None or not (self.sharp.uri and self.depth.uri):
            return False
        return bool(self.sets[self.best_set].focus.uri)

    @property
    def num_bytes(self) -> int:
        pictures = [self.sharp, self.depth]
        for shown in self.sets:
            pictures += [shown.focus, shown.bokeh]
            pictures += [shown.detail.sharp, shown.detail.bokeh] if shown.detail else []
        return sum(picture.num_bytes for picture in pictures) + (self.clip.num_bytes if self.clip else 0)


def make_strip(scene: Scene, facts: SceneFacts, width: int = THUMB_WIDTH) -> Strip:
    """Draw what exists of a scene, at most `width` pixels wide; never raises for what a file holds."""
    frame = _best_frame(scene, facts)
    sharp, sharp_picture = _drawn(scene, scene.sharp_path(frame), read_sharp, lambda picture: picture, width)
    scales: list[DepthScale] = []

    def colour(stored: npt.NDArray[Any]) -> Picture:
        scales.append(depth_scale(stored))
        return scales[0].colour(stored)

    depth, _ = _drawn(scene, scene.depth_path(frame), lambda path: read_npz(path, "depth"), colour, width)
    sets = tuple(_set_strip(scene, shown, frame, sharp_picture, width) for shown in facts.sets[:MAX_SETS])
    return Strip(
        frame=frame,
        sharp=sharp,
        depth=depth,
        scale=scales[0] if scales and depth.uri else None,
        sets=sets,
        hidden_sets=len(facts.sets) - len(sets),
        best_set=_best_set(sets, facts) if sharp.uri else None,
    )


def with_clip(strip: Strip, clip: Clip | None) -> Strip:
    return replace(strip, clip=clip)


def _best_frame(scene: Scene, facts: SceneFacts) -> int:
    """The middle frame, or the first when more of it exists (a phase that was interrupted began there)."""

    def existing(frame: int) -> int:
        paths = [scene.sharp_path(frame), scene.depth_path(frame)]
        for shown in facts.sets[:MAX_SETS]:
            paths += [scene.focus_path(shown.index, frame), scene.bokeh_path(shown.index, frame)]
        return sum(os.path.exists(path) for path in paths)  # unlike Path.exists, never raises

    middle = max(0, facts.entry.num_frames // 2)
    return middle if existing(middle) >= existing(0) else 0


def _best_set(sets: tuple[SetStrip, ...], facts: SceneFacts) -> int | None:
    """The set whose lens changes the picture most; one that is neither all sharp nor all blurred before others."""
    low, high = MEAN_FOCUS_RANGE

    def rank(index: int) -> tuple[bool, float]:
        mean = facts.sets[index].mean_focus
        return mean is not None and low <= mean <= high, sets[index].change

    drawn = [index for index, shown in enumerate(sets) if shown.bokeh.uri]
    return max(drawn, key=rank, default=None)


def _set_strip(scene: Scene, shown: SetFacts, frame: int, sharp: Picture | None, width: int) -> SetStrip:
    path = scene.focus_path(shown.index, frame)
    focus, _ = _drawn(scene, path, lambda found: read_npz(found, "focus_map"), colour_focus, width)
    bokeh, picture = _drawn(scene, scene.bokeh_path(shown.index, frame), read_sharp, lambda found: found, width)
    if sharp is None or picture is None or sharp.shape != picture.shape:
        return SetStrip(focus=focus, bokeh=bokeh, detail=None)
    change = np.abs(sharp.astype(np.int16) - picture).mean(axis=2, dtype=np.float32)
    return SetStrip(focus=focus, bokeh=bokeh, detail=_detail(sharp, picture, change), change=float(change.mean()))


def _drawn(
    scene: Scene, path: Path, read: Callable[[Path], Any], draw: Callable[[Any], Picture], width: int
) -> tuple[Thumbnail, Picture | None]:
    """Read, draw at full size, and reduce; the full picture is for the detail.

    A page is passed on: a link must not bring a picture into it that is none of the data set's.
    """
    if not os.path.lexists(path):
        return Thumbnail(problem="not made yet", absent=True), None
    try:
        refuse_links(scene.dir.parent, [path])
        picture = draw(read(path))
        return jpeg_thumbnail(picture, width), picture
    except InputError as error:
        return Thumbnail(problem=str(error)), None
    except Exception as error:  # a readable file with the wrong thing inside
        return Thumbnail(problem=f"{path.name} cannot be drawn: {type(error).__name__}: {error}"), None


def _detail(sharp: Picture, bokeh: Picture, change: npt.NDArray[np.float32]) -> Detail | None:
    """Where the two differ most, 256 pixels wide, or two fifths of a small frame, magnified by a whole number."""
    width = min(DETAIL_SIZE[0], sharp.shape[1] * 2 // 5)
    height = width * DETAIL_SIZE[1] // DETAIL_SIZE[0]
    total = np.asarray(cv2.boxFilter(change, -1, (max(1, width), max(1, height)), anchor=(0, 0), borderType=0))
    inside = total[: sharp.shape[0] - height + 1, : sharp.shape[1] - width + 1]
    if height < 8 or inside.size == 0:
        return None
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    window = np.s_[y : y + height, x : x + width]
    scale = max(1, DETAIL_SIZE[0] // width)
    first, second = (_magnified(picture[window], scale) for picture in (sharp, bokeh))
    return Detail(sharp=first, bokeh=second, scale=scale)


def _magnified(picture: Picture, scale: int) -> Thumbnail:
    if scale > 1:
        size = (picture.shape[1] * scale, picture.shape[0] * scale)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return jpeg_thumbnail(picture, picture.shape[1])
