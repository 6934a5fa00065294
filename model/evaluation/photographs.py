"""Ray-traced photographs as clips: true thin lenses, exact depth, blur that does not saturate.

`scripts/make_photographs.py` writes them. They are what a network trained on rendered pictures has to be held against.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model.evaluation.eval_clips import EvalClip, EvalFrame
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.depth_files import read_depth
from pipeline.media.images import read_sharp
from pipeline.optics import Lens, OpticsError
from pipeline.storage.bounded import one_line
from pipeline.storage.files import read_json

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
    """Every scene folder below `root`.

    Raises:
        UsageError: there is none, or one cannot be used; the message names it.
    """
    folders = sorted(path.parent for path in root.glob(f"*/{RECORD}"))
    if not folders:
        raise UsageError(f"{root} holds no ray-traced photographs; scripts/make_photographs.py {root} makes some")
    return Photographs(
        root=root, clips=tuple(clip for folder in folders for clip in _clips_of(folder)), scenes=len(folders)
    )


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
            read=partial(_read, folder, number),
        )
        for number, lens in enumerate(lenses)
    ]


def _read(folder: Path, set_index: int, number: int) -> EvalFrame:
    frame = image_to_tensor(read_sharp(folder / "frames" / f"frame_{number:04d}.png"))
    photo_path = folder / f"set_{set_index:02d}" / f"photo_{number:04d}.png"
    photo = image_to_tensor(read_sharp(photo_path))
    depth_path = folder / "depth" / f"depth_{number:04d}.npz"
    depth = torch.from_numpy(read_depth(depth_path).astype(np.float32))[None]
    if photo.shape != frame.shape or depth.shape[1:] != frame.shape[1:]:
        raise InputError(f"{photo_path}, its frame and its depth differ in size")
    if not bool((torch.isfinite(depth) & (depth > 0)).all()):
        raise InputError(f"{depth_path} has values that are not finite and > 0")
    return EvalFrame(frame=frame, bokeh=photo, depth_m=depth)
