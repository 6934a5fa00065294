"""What is measured on: consecutive frames through one lens, read one at a time so that length costs no memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from model.data.realbokeh import RealPair, RealPairs, photograph_px_per_mm
from model.data.scene_manifest import SceneManifest, TrainingScene
from model.data.scenes import read_bokeh, read_depth, read_frame
from pipeline.errors import InputError
from pipeline.media.convert import image_to_tensor
from pipeline.media.images import read_picture
from pipeline.media.prefetch import map_ahead
from pipeline.optics import Lens


@dataclass(frozen=True, kw_only=True)
class EvalFrame:
    """One frame of a clip: (3, H, W) images in [0, 1], and (1, H, W) metres where depth is known."""

    frame: Tensor
    bokeh: Tensor
    depth_m: Tensor | None


@dataclass(frozen=True, kw_only=True)
class EvalClip:
    """A scene through one lens. `max_radius_px` is where its photographs saturate, None for a real camera's."""

    name: str
    lens: Lens
    px_per_mm: float
    max_radius_px: float | None
    num_frames: int
    read: Callable[[int], EvalFrame]

    def frames(self, limit: int = 0) -> Iterator[EvalFrame]:
        """The frames in order, read ahead; at most `limit` of them, 0 for all."""
        return map_ahead(self.read, range(min(limit, self.num_frames) if limit else self.num_frames))


def scene_clips(manifest: SceneManifest) -> list[EvalClip]:
    """Every lens set of every scene."""
    return [
        EvalClip(
            name=f"{found.scene_id} set {set_index}",
            lens=found.sets[set_index].lens,
            px_per_mm=found.px_per_mm,
            max_radius_px=found.max_radius_px,
            num_frames=found.num_frames,
            read=partial(_read_scene, found, set_index),
        )
        for found in manifest.scenes
        for set_index in range(len(found.sets))
    ]


def _read_scene(found: TrainingScene, set_index: int, number: int) -> EvalFrame:
    return EvalFrame(
        frame=read_frame(found, number), bokeh=read_bokeh(found, set_index, number), depth_m=read_depth(found, number)
    )


def pair_clips(pairs: RealPairs) -> list[EvalClip]:
    """Every RealBokeh pair, as a clip of one frame."""
    return [
        EvalClip(
            name=pair.name,
            lens=pair.lens,
            px_per_mm=photograph_px_per_mm(pair.sharp_path),
            max_radius_px=None,
            num_frames=1,
            read=partial(_read_pair, pair),
        )
        for pair in pairs.pairs
    ]


def _read_pair(pair: RealPair, number: int) -> EvalFrame:
    sharp, bokeh = (image_to_tensor(read_picture(path)[0]) for path in (pair.sharp_path, pair.bokeh_path))
    if sharp.shape != bokeh.shape:
        raise InputError(f"{pair.bokeh_path} and {pair.sharp_path} differ in size")
    return EvalFrame(frame=sharp, bokeh=bokeh, depth_m=None)


def spread(clips: list[EvalClip], count: int) -> list[EvalClip]:
    """`count` clips spread evenly over a list; all of them for 0, or when there are no more."""
    if count == 0 or count >= len(clips):
        return clips
    return [clips[number * len(clips) // count] for number in range(count)]
