"""True thin-lens photographs as files: what a network that reads blur is trained on and tested with, beside rendered ones.

    <scene_id>/photographs.json              size, opening, samples per pixel, and the lens of every set
    <scene_id>/frames/frame_0000.png         all in focus
    <scene_id>/depth/depth_0000.npz          as in `write`
    <scene_id>/set_00/photo_0000.png         the same view through that set's lens, traced ray by ray

A lens renderer guesses what a blurred foreground uncovers; here it is known. The blur does not saturate, as labels do.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.optics import Aperture, Lens, OpticsError, draw_visible_lens, px_per_mm
from pipeline.raytrace.photograph import render_photograph
from pipeline.raytrace.render import render_frame, to_srgb8
from pipeline.raytrace.scenes import BUILDERS
from pipeline.raytrace.world import RaytraceError
from pipeline.raytrace.write import write_arrays

RECORD = "photographs.json"


@dataclass(frozen=True, kw_only=True)
class PhotographRequest:
    """The photographs of one scene.

    Args:
        scene_id: folder name; it seeds the lenses.
        name, seed: of the scene, see `build_scene`.
        width, height: pixels, > 0.
        num_frames: consecutive frames at the scene's rate, >= 1.
        num_sets: lenses, drawn by the prior `visible`, >= 1.
        samples: rays per pixel, >= 1.
        blades: of the opening, 0 for a disc, otherwise >= 3.
    """

    scene_id: str
    name: str
    seed: int = 0
    width: int = 256
    height: int = 160
    num_frames: int = 4
    num_sets: int = 2
    samples: int = 128
    blades: int = 0

    def __post_init__(self) -> None:
        if self.name not in BUILDERS:
            raise RaytraceError(f"scene must be one of {', '.join(BUILDERS)}, got {self.name!r}")
        for field in ("width", "height", "num_frames", "num_sets", "samples"):
            if getattr(self, field) < 1:
                raise RaytraceError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.seed < 0:
            raise RaytraceError(f"seed must be >= 0, got {self.seed}")
        if not self.scene_id or self.scene_id != Path(self.scene_id).name or self.scene_id in (".", ".."):
            raise RaytraceError(f"scene_id must be a plain folder name, got {self.scene_id!r}")
        try:
            Aperture(blades=self.blades)
        except OpticsError as error:
            raise RaytraceError(str(error)) from None


def at_focal_length(lens: Lens, f_m: float) -> Lens:
    """The contract lens of focal length `f_m` with the same circle of confusion at every depth: N goes with f squared."""
    return Lens(f_m=f_m, f_number=lens.f_number * (f_m / lens.f_m) ** 2, focus_m=lens.focus_m)


def write_photographs(out_dir: Path, request: PhotographRequest) -> bool:
    """Trace a scene's photographs into `out_dir/<scene_id>`, or leave finished ones alone.

    Returns:
        True if they were written, False if the same ones were already there.

    Raises:
        RaytraceError: the folder was made with other settings, or by something else.
    """
    target = out_dir / request.scene_id
    if target.exists():
        _check_existing(target, request)
        return False
    scene, size = BUILDERS[request.name](request.seed), {"width": request.width, "height": request.height}
    per_mm = px_per_mm(request.width)
    partial = target.with_name(f".{request.scene_id}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in ("frames", "depth"):
        (partial / folder).mkdir(parents=True)
    try:
        depths = []
        for index in range(request.num_frames):
            frame = render_frame(scene, index, **size, supersample=2)
            Image.fromarray(frame.srgb).save(partial / "frames" / f"frame_{index:04d}.png")
            write_arrays(partial / "depth" / f"depth_{index:04d}.npz", depth=frame.depth_m.astype(np.float16))
            depths.append(frame.depth_m)
        seen_m = np.stack(depths)
        lenses = []
        for number in range(request.num_sets):
            drawn = draw_visible_lens(request.scene_id, number, seen_m, px_per_mm=per_mm, width_px=request.width)
            # The scene's focal length is its field of view, so the drawn lens's blur is made by another opening.
            lens = at_focal_length(drawn.lens, scene.f_m)
            lenses.append(lens)
            (partial / f"set_{number:02d}").mkdir()
            opening = Aperture(blades=request.blades)
            for index in range(request.num_frames):
                photo = render_photograph(scene, index, lens, opening, **size, samples=request.samples, workers=1)
                Image.fromarray(to_srgb8(photo)).save(partial / f"set_{number:02d}" / f"photo_{index:04d}.png")
        record = {
            "schema": 1,
            "request": asdict(request),
            "px_per_mm": per_mm,
            "lenses": [{"f_m": one.f_m, "f_number": one.f_number, "focus_m": one.focus_m} for one in lenses],
        }
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def make_photographs(out_dir: Path, request: PhotographRequest) -> tuple[bool, bool, str]:
    """`write_photographs` for a worker process: a failure is a result, so that the other scenes go on.

    Returns:
        Whether it succeeded, whether anything was written, and a line that says so.
    """
    started = time.monotonic()
    try:
        made = write_photographs(out_dir, request)
    except (RaytraceError, OSError) as error:
        return False, False, f"{request.scene_id}: FAILED: {error}"
    if not made:
        return True, False, f"{request.scene_id}: already there, skipped"
    count = request.num_frames * request.num_sets
    return True, True, f"{request.scene_id}: {count} photographs in {time.monotonic() - started:.0f} s"


def _check_existing(target: Path, request: PhotographRequest) -> None:
    try:
        found = dict(json.loads((target / RECORD).read_bytes())["request"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RaytraceError(
            f"{target} exists but holds no ray-traced photographs; move it away or choose another folder"
        ) from error
    different = [
        f"{key} {found.get(key)!r} -> {value!r}" for key, value in asdict(request).items() if found.get(key) != value
    ]
    if different:
        raise RaytraceError(
            f"{target} was made with other settings ({', '.join(different)}); delete it or keep it as is"
        )
