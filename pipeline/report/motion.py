"""A scene in motion: an animated WebP of four panels, sharp and render above, depth and focus map below.

One image, not four: browsers start each animation when they like, and panels that drift apart say nothing about a pair of
label and render. The first frame stands by as a still, for who asked their system for less motion.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from pipeline.errors import InputError
from pipeline.media.depth_files import read_npz
from pipeline.media.images import Picture, read_sharp
from pipeline.report.colours import DepthScale, colour_focus
from pipeline.report.embed import Thumbnail, data_uri, jpeg_thumbnail, shrink
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene

FRAMES = 12
LONGEST_STEP = 4  # frames of the scene between two of the clip; more would jump
MIN_FRAMES = 3
PANEL_WIDTH = 288
FRAME_MS = 90  # a frame of a clip with step 1
QUALITY = 50
MAX_CLIP_BYTES = 400_000  # of base64; a clip that needs more shows every other frame


@dataclass(frozen=True, kw_only=True)
class Clip:
    moving: Thumbnail
    still: Thumbnail

    @property
    def num_bytes(self) -> int:
        return self.moving.num_bytes + self.still.num_bytes


def make_clip(scene: Scene, num_frames: int, set_index: int, scale: DepthScale) -> Clip | None:
    """The scene around its middle frame through one lens.

    Args:
        scene, num_frames: the scene.
        set_index: of which lens set.
        scale: colours of depth, the same in all frames, so that nothing flickers that does not in the data.

    Returns:
        None when fewer than three of its frames can be drawn: the strip beside it says why.
    """
    step = min(LONGEST_STEP, max(1, num_frames // FRAMES))
    count = min(FRAMES, -(-num_frames // step))
    first = max(0, (num_frames - step * count) // 2)
    shown = [_panels(scene, frame, set_index, scale) for frame in range(first, num_frames, step)[:count]]
    panels = [found for found in shown if found is not None]
    panels = [found for found in panels if found.shape == panels[0].shape]
    if not features.check("webp"):
        return None
    duration = FRAME_MS * step if step <= 2 else FRAME_MS * 2
    while len(panels) >= MIN_FRAMES:
        uri = data_uri("image/webp", _animated(panels, duration))
        if len(uri) <= MAX_CLIP_BYTES:
            height, width = panels[0].shape[:2]
            moving = Thumbnail(uri=uri, width=width, height=height)
            return Clip(moving=moving, still=jpeg_thumbnail(panels[0], width))
        panels, duration = panels[::2], duration * 2
    return None


def _panels(scene: Scene, frame: int, set_index: int, scale: DepthScale) -> Picture | None:
    """The four pictures of one frame in one; None when one is missing or damaged."""
    sharp, depth = scene.sharp_path(frame), scene.depth_path(frame)
    focus, bokeh = scene.focus_path(set_index, frame), scene.bokeh_path(set_index, frame)
    try:
        refuse_links(scene.dir.parent, [sharp, depth, focus, bokeh])
        pictures = (
            read_sharp(sharp),
            read_sharp(bokeh),
            scale.colour(read_npz(depth, "depth")),
            colour_focus(read_npz(focus, "focus_map")),
        )
        small = [shrink(picture, PANEL_WIDTH) for picture in pictures]
        return np.vstack([np.hstack(small[:2]), np.hstack(small[2:])])
    except (InputError, ValueError, TypeError):  # ValueError: sizes that do not fit together; TypeError: no numbers
        return None


def _animated(panels: list[Picture], duration_ms: int) -> bytes:
    images = [Image.fromarray(panel) for panel in panels]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=duration_ms,
        loop=0,
        quality=QUALITY,
        method=2,
    )
    return buffer.getvalue()
