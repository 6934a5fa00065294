"""Ray-traced photographs as clips: true thin lenses, exact depth, blur that does not saturate.

`scripts/make_photograph_scenes.py` writes them, as finished scenes. They are what a network trained on rendered pictures has to
be held against. Folders with a photographs.json, which an earlier generator wrote, are read too.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model.data.scene_manifest import SceneManifest, read_scene
from model.evaluation.eval_clips import EvalClip, EvalFrame, scene_clips
from pipeline.errors import InputError, StaleError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.depth_files import read_depth
from pipeline.media.images import read_sharp
from pipeline.optics import Lens, OpticsError
from pipeline.storage.bounded import one_line
from pipeline.storage.files import read_json
from pipeline.storage.scene import TRACED_TRUTH, Scene, scene_folders

RECORD = "photographs.json"


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """What a folder holds: a clip per scene and lens, sorted by name."""

    root: Path
    clips: tuple[EvalClip, ...]
    scenes: int

    def describe(self) -> str:
        images = sum(clip.num_frames for clip in self.clips)
        return f"{self.root}: {self.scenes} ray-traced scenes, {images} photographs"


def find_photographs(root: Path) -> Photographs:
    """Every ray-traced scene below `root`, of whichever split: keep scenes to test on in a folder of their own.

    Raises:
        UsageError: there is none, or one cannot be used; the message names it.
    """
    found = {folder.name: _clips_of(folder) for folder in (path.parent for path in root.glob(f"*/{RECORD}"))}
    found |= {scene.scene_id: _clips_of_scene(scene) for scene in _traced_scenes(root)}
    if not found:
        raise UsageError(
            f"{root} holds no ray-traced photographs; scripts/make_photograph_scenes.py --out_root {root} makes some"
        )
    clips = tuple(clip for name in sorted(found) for clip in found[name])
    return Photographs(root=root, clips=clips, scenes=len(found))


def _traced_scenes(root: Path) -> list[Scene]:
    """Finished scenes whose photographs no renderer made."""
    folders = scene_folders(root) if root.is_dir() else []
    try:
        return [
            one for one in folders if one.metadata_path.is_file() and one.read_metadata().get("truth") == TRACED_TRUTH
        ]
    except InputError as error:
        raise UsageError(str(error)) from None


def _clips_of_scene(scene: Scene) -> list[EvalClip]:
    """A clip per lens. Labels saturate, at `max_radius_px` of the metadata; photographs do not."""
    try:
        whole = SceneManifest(split="test", scenes=(read_scene(scene),), skipped={})
    except (InputError, StaleError) as error:
        raise UsageError(f"{scene.scene_id}: {error}") from None
    return [replace(clip, max_radius_px=None) for clip in scene_clips(whole)]


def _clips_of(folder: Path) -> list[EvalClip]:
    record = read_json(folder / RECORD, "the photographs' record")
    try:
        num_frames, per_mm = int(record["request"]["num_frames"]), float(record["px_per_mm"])
        lenses = [
            Lens(f_m=float(one["f_m"]), f_number=float(one["f_number"]), focus_m=float(one["focus_m"]))
            for one in record["lenses"]
        ]
    except (KeyError, TypeError, ValueError, OpticsError) as error:
        raise UsageError(f"{folder / RECORD} is no record of photographs: {one_line(error)}") from None
    return [
        EvalClip(
            name=f"{folder.name} photographs {number}",
            lens=lens,
            px_per_mm=per_mm,
            max_radius_px=None,
            num_frames=num_frames,
            read=partial(_read, folder, number, lens),
        )
        for number, lens in enumerate(lenses)
    ]


def _read(folder: Path, set_index: int, lens: Lens, number: int) -> EvalFrame:
    frame = image_to_tensor(read_sharp(folder / "frames" / f"frame_{number:04d}.png"))
    photo_path = folder / f"set_{set_index:02d}" / f"photo_{number:04d}.png"
    photo = image_to_tensor(read_sharp(photo_path))
    depth_path = folder / "depth" / f"depth_{number:04d}.npz"
    depth = torch.from_numpy(read_depth(depth_path).astype(np.float32))[None]
    if photo.shape != frame.shape or depth.shape[1:] != frame.shape[1:]:
        raise InputError(f"{photo_path}, its frame and its depth differ in size")
    if not bool((torch.isfinite(depth) & (depth > 0)).all()):
        raise InputError(f"{depth_path} has values that are not finite and > 0")
    return EvalFrame(frame=frame, bokeh=photo, depth_m=depth, lens=lens)
