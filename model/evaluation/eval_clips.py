"""What is measured on: consecutive frames through one lens, read one at a time so that length costs no memory."""

import math
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
    lens: Lens


@dataclass(frozen=True, kw_only=True)
class EvalClip:
    """A scene through one lens.

    Args:
        lens: of the first frame; a frame has its own, since the focus may travel.
        max_radius_px: where its photographs saturate, None for a real camera's.
        group: what figures are also pooled by: the scene's family; may be empty.
        noise_db: PSNR of the photographs against ones without noise, where they were traced.
    """

    name: str
    lens: Lens
    px_per_mm: float
    max_radius_px: float | None
    num_frames: int
    read: Callable[[int], EvalFrame]
    group: str = ""
    noise_db: float | None = None

    def frames(self, limit: int = 0) -> Iterator[EvalFrame]:
        """The frames in order, read ahead; at most `limit` of them, 0 for all."""
        return map_ahead(self.read, range(min(limit, self.num_frames) if limit else self.num_frames))


def scene_clips(manifest: SceneManifest) -> list[EvalClip]:
    """Every lens set of every scene."""
    clips = []
    for found in manifest.scenes:
        family, noise_db = _traced(found)
        clips += [
            EvalClip(
                name=f"{found.scene_id} set {set_index}",
                lens=found.sets[set_index].lens,
                px_per_mm=found.px_per_mm,
                max_radius_px=found.max_radius_px,
                num_frames=found.num_frames,
                read=partial(_read_scene, found, set_index),
                group=family,
                noise_db=noise_db[set_index],
            )
            for set_index in range(len(found.sets))
        ]
    return clips


def _traced(found: TrainingScene) -> tuple[str, list[float | None]]:
    """Family and noise by lens set, which scenes with ray-traced photographs state; else "" and None."""
    metadata = found.scene.read_metadata()
    family, sets = metadata.get("family", ""), metadata["sets"]
    noise = [one.get("noise_db") for one in sets]
    known = [float(value) if isinstance(value, int | float) and math.isfinite(value) else None for value in noise]
    return (family if isinstance(family, str) else ""), known


def _read_scene(found: TrainingScene, set_index: int, number: int) -> EvalFrame:
    return EvalFrame(
        frame=read_frame(found, number),
        bokeh=read_bokeh(found, set_index, number),
        depth_m=read_depth(found, number),
        lens=found.sets[set_index].lens_at(number),
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
    return EvalFrame(frame=sharp, bokeh=bokeh, depth_m=None, lens=pair.lens)


def spread(clips: list[EvalClip], count: int) -> list[EvalClip]:
    """`count` clips spread evenly over a list; all of them for 0, or when there are no more."""
    if count == 0 or count >= len(clips):
        return clips
    return [clips[number * len(clips) // count] for number in range(count)]
