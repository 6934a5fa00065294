"""The strip of a scene as small JPEGs in data URIs: sharp, depth, and per lens set the focus map and the render.

Depth is coloured by inverse depth, which is what defocus is linear in. Focus maps are grey, with what is in focus tinted as
a camera's focus peaking does. Beside each set stands a detail at full resolution, where the lens changed the picture most:
a blur of three pixels does not survive a thumbnail.
"""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.depth_files import read_npz
from pipeline.media.images import Picture, encode_jpeg, read_sharp
from pipeline.report.scene_facts import SceneFacts
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene

THUMB_WIDTH = 320
DETAIL_SIZE = (256, 112)  # pixels of the frame; the width of a thumbnail on a wide screen, so about 1:1
QUALITY = 80
MAX_SETS = 6  # strips of one scene; more are said, not shown
PEAKING = (46, 204, 150)  # what a focus map of 1 looks like
PEAKING_FROM = 0.9
_DEPTH_MAP = "magma"


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture of the page, or in its place the reason why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    absent: bool = False  # there is no file, which before its phase is no fault

    @property
    def num_bytes(self) -> int:
        return len(self.uri)


@dataclass(frozen=True, kw_only=True)
class SetStrip:
    focus: Thumbnail
    bokeh: Thumbnail
    detail: tuple[Thumbnail, Thumbnail] | None  # sharp and render at full resolution; None for small frames


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures of one frame of one scene. near_m and far_m are the ends of the depth colours, None without depth."""

    frame: int
    sharp: Thumbnail
    depth: Thumbnail
    near_m: float | None
    far_m: float | None
    sets: tuple[SetStrip, ...]
    hidden_sets: int

    def position(self, depth_m: float) -> float:
        """Where a depth lies on the depth legend, which is linear in inverse depth: 0 near, 100 far."""
        if self.near_m is None or self.far_m is None or self.far_m <= self.near_m or depth_m <= 0:
            return 0.0
        share = (1 / self.near_m - 1 / depth_m) / (1 / self.near_m - 1 / self.far_m)
        return 100 * min(1.0, max(0.0, share))

    @property
    def num_bytes(self) -> int:
        pictures = [self.sharp, self.depth]
        for shown in self.sets:
            pictures += [shown.focus, shown.bokeh, *(shown.detail or ())]
        return sum(picture.num_bytes for picture in pictures)


def make_strip(scene: Scene, facts: SceneFacts) -> Strip:
    """Draw what exists of a scene; never raises for what a file holds."""
    frame = _best_frame(scene, facts)
    sharp, sharp_picture = _drawn(scene, scene.sharp_path(frame), read_sharp, lambda picture: picture)
    limits: list[float] = []
    depth, _ = _drawn(
        scene, scene.depth_path(frame), lambda path: read_npz(path, "depth"), lambda d: _colour(d, limits)
    )
    sets = []
    for shown in facts.sets[:MAX_SETS]:
        focus, _ = _drawn(
            scene, scene.focus_path(shown.index, frame), lambda path: read_npz(path, "focus_map"), _peaking
        )
        bokeh, picture = _drawn(scene, scene.bokeh_path(shown.index, frame), read_sharp, lambda picture: picture)
        sets.append(SetStrip(focus=focus, bokeh=bokeh, detail=_detail(sharp_picture, picture)))
    return Strip(
        frame=frame,
        sharp=sharp,
        depth=depth,
        near_m=limits[0] if limits else None,
        far_m=limits[1] if limits else None,
        sets=tuple(sets),
        hidden_sets=len(facts.sets) - len(sets),
    )


def depth_gradient() -> list[str]:
    """CSS colours of the depth legend, near to far."""
    return ["#{:02x}{:02x}{:02x}".format(*_lookup(_DEPTH_MAP)[255 - position]) for position in range(0, 256, 15)]


def focus_gradient() -> list[str]:
    """CSS colours of the focus legend, blurred to sharp."""
    return ["#{:02x}{:02x}{:02x}".format(*_focus_lookup()[position]) for position in range(0, 256, 15)]


def _best_frame(scene: Scene, facts: SceneFacts) -> int:
    """The middle frame, or the first when more of it exists (a phase that was interrupted began there)."""

    def existing(frame: int) -> int:
        paths = [scene.sharp_path(frame), scene.depth_path(frame)]
        for shown in facts.sets[:MAX_SETS]:
            paths += [scene.focus_path(shown.index, frame), scene.bokeh_path(shown.index, frame)]
        return sum(os.path.exists(path) for path in paths)  # unlike Path.exists, never raises

    middle = max(0, facts.entry.num_frames // 2)
    return middle if existing(middle) >= existing(0) else 0


def _drawn(
    scene: Scene, path: Path, read: Callable[[Path], Any], draw: Callable[[Any], Picture]
) -> tuple[Thumbnail, Picture | None]:
    """Read, draw at full size, and reduce; the full picture is for the detail.

    A page is passed on: a link must not bring a picture into it that is none of the data set's.
    """
    try:
        refuse_links(scene.dir.parent, [path])
    except InputError as error:
        return Thumbnail(problem=str(error)), None
    if not os.path.exists(path):
        return Thumbnail(problem="not made yet", absent=True), None
    try:
        picture = draw(read(path))
        return _thumbnail(picture, THUMB_WIDTH), picture
    except InputError as error:
        return Thumbnail(problem=str(error)), None
    except Exception as error:  # a readable file with the wrong thing inside
        return Thumbnail(problem=f"{path.name} cannot be drawn: {type(error).__name__}: {error}"), None


def _thumbnail(picture: Picture, width: int) -> Thumbnail:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    if picture.shape[1] > width:
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    data = base64.b64encode(encode_jpeg(picture, QUALITY)).decode()
    return Thumbnail(uri=f"data:image/jpeg;base64,{data}", width=picture.shape[1], height=picture.shape[0])


def _image(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is no picture")
    return array.astype(np.float32)


def _colour(stored: npt.NDArray[Any], limits: list[float]) -> Picture:
    """Colours of inverse depth between its 1st and 99th percentile; their depths go into `limits`, near first."""
    depth_m = _image(stored)
    known = np.isfinite(depth_m) & (depth_m > 0)
    if not known.any():
        raise InputError("no depth value is finite and > 0")
    inverse = np.where(known, 1 / np.where(known, depth_m, 1), 0)
    far, near = np.percentile(inverse[known], (1, 99))
    limits += [float(1 / near), float(1 / far)]
    share = np.clip((inverse - far) / max(near - far, 1e-9), 0, 1)
    return _lookup(_DEPTH_MAP)[np.rint(share * 255).astype(np.uint8)]


def _peaking(stored: npt.NDArray[Any]) -> Picture:
    focus = np.nan_to_num(_image(stored), nan=0.0)
    return _focus_lookup()[np.rint(np.clip(focus, 0, 1) * 255).astype(np.uint8)]


@cache
def _lookup(name: str) -> Picture:
    """A colour map of matplotlib as (256, 3) uint8."""
    return np.asarray(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3], np.uint8)


@cache
def _focus_lookup() -> Picture:
    """Grey up to PEAKING_FROM, then into the peaking colour: (256, 3) uint8."""
    value = np.linspace(0, 1, 256)[:, None]
    grey = 18 + 190 * np.minimum(value / PEAKING_FROM, 1)
    tint = np.clip((value - PEAKING_FROM) / (1 - PEAKING_FROM), 0, 1)
    return np.rint(grey * (1 - tint) + np.array(PEAKING) * tint).astype(np.uint8)


def _detail(sharp: Picture | None, bokeh: Picture | None) -> tuple[Thumbnail, Thumbnail] | None:
    """Sharp and rendered at full resolution, where they differ most; None for frames too small to need it."""
    width, height = DETAIL_SIZE
    if sharp is None or bokeh is None or sharp.shape != bokeh.shape or sharp.shape[1] < 2 * THUMB_WIDTH:
        return None
    change = np.abs(sharp.astype(np.int16) - bokeh).mean(axis=2, dtype=np.float32)
    total = np.asarray(cv2.boxFilter(change, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT))
    inside = total[: sharp.shape[0] - height + 1, : sharp.shape[1] - width + 1]
    if inside.size == 0:
        return None
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    window = np.s_[y : y + height, x : x + width]
    return _thumbnail(sharp[window], width), _thumbnail(bokeh[window], width)
