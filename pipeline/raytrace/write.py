"""A scene as input for the pipeline: frames that a camera could have recorded, their exact depth, the camera's data.

    <scene_id>/frame_0000.png ...            uint8 sRGB; slightly soft and noisy on request
    <scene_id>/depth/depth_0000.npz ...      key 'depth', float16 z-depth, metres, 1000 for the sky
    <scene_id>/camera.json                   focal length, sensor, pose of every frame

The folder appears under its name only when it is complete: everything is written beside it and renamed. The same
arguments give the same bytes on every machine with the same NumPy.
"""

import io
import json
import os
import shutil
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.optics import SENSOR_WIDTH_MM, px_per_mm
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.render import render_frame, to_srgb8
from pipeline.raytrace.scenes import BUILDERS
from pipeline.raytrace.textures import generator
from pipeline.raytrace.world import RayScene, RaytraceError

BLUR_SIGMA_PX = 0.8  # about what demosaicking and a fair lens cost; enough for deblurring to have something to do
NOISE = 0.01  # standard deviation at white, in linear light; a part of it is left in the shadows


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """One scene folder to write.

    Args:
        scene_id: folder name.
        name: one of the demo scenes.
        seed: 0 for the canonical one, others vary it.
        width, height: pixels, > 0.
        num_frames: >= 1; the pipeline wants 16 or more.
        supersample: samples along each side of a pixel, >= 1.
        degrade: blur and add sensor noise, so that deblurring has something to do.
    """

    scene_id: str
    name: str
    seed: int = 0
    width: int = 320
    height: int = 192
    num_frames: int = 24
    supersample: int = 2
    degrade: bool = False

    def __post_init__(self) -> None:
        if self.name not in BUILDERS:
            raise RaytraceError(f"scene must be one of {', '.join(BUILDERS)}, got {self.name!r}")
        for field in ("width", "height", "num_frames", "supersample"):
            if getattr(self, field) < 1:
                raise RaytraceError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.seed < 0:
            raise RaytraceError(f"seed must be >= 0, got {self.seed}")
        if not self.scene_id or self.scene_id != Path(self.scene_id).name or self.scene_id in (".", ".."):
            raise RaytraceError(f"scene_id must be a plain folder name, got {self.scene_id!r}")


def scene_requests(num_scenes: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """Which scenes a data set of `num_scenes` holds: (scene_id, name, seed), the canonical ones first.

    Args:
        num_scenes: >= 1.
        seed: of the data set; shifts the variations, the first three scenes stay canonical.

    Example:
        >>> [scene_id for scene_id, _, _ in scene_requests(5)]
        ['bear', 'fence', 'night', 'bear_01', 'fence_01']
    """
    if num_scenes < 1:
        raise RaytraceError(f"num_scenes must be at least 1, got {num_scenes}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    names, scenes = tuple(BUILDERS), []
    for i in range(num_scenes):
        round_, name = i // len(names), names[i % len(names)]
        variation = 0 if round_ == 0 else round_ + 1000 * seed
        scenes.append((name if round_ == 0 else f"{name}_{round_:02d}", name, variation))
    return scenes


def write_scene(out_dir: Path | str, request: SceneRequest, clean_dir: Path | str | None = None) -> bool:
    """Render a scene into `out_dir/<scene_id>`, or leave a complete one alone.

    Args:
        out_dir: the raw root; made if missing.
        request: what to render.
        clean_dir: also write frames without blur and noise to `clean_dir/<scene_id>`, for tests.

    Returns:
        True if it was written, False if the same scene was already there.

    Raises:
        RaytraceError: a folder of that name exists that was made with other settings or by something else.
    """
    target = Path(out_dir) / request.scene_id
    wanted = {key: value for key, value in asdict(request).items() if key != "scene_id"}
    if target.exists():
        _check_existing(target, wanted)
        return False
    scene = BUILDERS[request.name](request.seed)
    partial = target.with_name(f".{request.scene_id}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "depth").mkdir(parents=True)
    clean = None if clean_dir is None else Path(clean_dir) / request.scene_id
    if clean is not None:
        clean.mkdir(parents=True, exist_ok=True)
    try:
        for index in range(request.num_frames):
            frame = render_frame(
                scene, index, width=request.width, height=request.height, supersample=request.supersample
            )
            picture = degraded(frame.linear, scene, index) if request.degrade else frame.linear
            Image.fromarray(to_srgb8(picture)).save(partial / f"frame_{index:04d}.png")
            write_arrays(partial / "depth" / f"depth_{index:04d}.npz", depth=frame.depth_m.astype(np.float16))
            if clean is not None:
                Image.fromarray(frame.srgb).save(clean / f"frame_{index:04d}.png")
        (partial / "camera.json").write_text(json.dumps(_camera(scene, request, wanted), indent=1) + "\n")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def degraded(linear: F32, scene: RayScene, frame_index: int) -> F32:
    """What a modest camera makes of a clean frame: clipped, a little soft, a little noisy.

    Args:
        linear: (H, W, 3) linear light.
        scene, frame_index: seed the noise.

    Returns:
        (H, W, 3) linear light in [0, 1].
    """
    rng = generator("sensor", scene.name, scene.seed, frame_index)
    soft = gaussian_filter(np.clip(linear, 0, 1), (BLUR_SIGMA_PX, BLUR_SIGMA_PX, 0), mode="nearest")
    # Photon noise grows with the root of the light; a tenth of it remains in the dark as read noise.
    sigma = NOISE * np.sqrt(0.01 + 0.99 * soft)
    return np.clip(soft + sigma * rng.standard_normal(soft.shape, dtype=np.float32), 0, 1).astype(np.float32)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """An npz archive whose bytes depend on nothing but the arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))  # a fixed date
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data.getvalue(), compresslevel=4)


def _camera(scene: RayScene, request: SceneRequest, wanted: dict) -> dict:
    frames = []
    for index in range(request.num_frames):
        pose = scene.path(index / scene.fps)
        parts = {"position_m": pose.position, "right": pose.right, "up": pose.up, "forward": pose.forward}
        frames.append({key: [round(float(v), 6) for v in vector] for key, vector in parts.items()})
    return {
        "scene": request.name,
        "seed": request.seed,
        "f_mm": scene.f_mm,
        "sensor_width_mm": SENSOR_WIDTH_MM,
        "px_per_mm": px_per_mm(request.width),
        "fps": scene.fps,
        "units": "metres; x right, y up, z forward; depth is z-depth along 'forward', 1000 = sky",
        "degraded": {"blur_sigma_px": BLUR_SIGMA_PX, "noise": NOISE} if request.degrade else None,
        "request": wanted,
        "frames": frames,
    }


def _check_existing(target: Path, wanted: dict) -> None:
    try:
        found = dict(json.loads((target / "camera.json").read_bytes())["request"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RaytraceError(
            f"{target} exists but was not written by the ray tracer; move it away or choose another raw root"
        ) from error
    different = [f"{key} {found.get(key)!r} -> {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if different:
        raise RaytraceError(
            f"{target} was made with other settings ({', '.join(different)}); delete it or keep it as is"
        )
    frames = len(list(target.glob("frame_*.png")))
    if frames != wanted["num_frames"]:
        raise RaytraceError(
            f"{target} holds {frames} of {wanted['num_frames']} frames; delete it to have it made again"
        )


def make_scene(out_dir: Path, request: SceneRequest) -> tuple[bool, bool, str]:
    """`write_scene` for a worker process: a failure is a result, so that the other scenes go on.

    Returns:
        Whether it succeeded, whether anything was written, and a line that says so.
    """
    started = time.monotonic()
    try:
        made = write_scene(out_dir, request)
    except (RaytraceError, OSError) as error:
        return False, False, f"{request.scene_id}: FAILED: {error}"
    if not made:
        return True, False, f"{request.scene_id}: already there, skipped"
    return True, True, f"{request.scene_id}: {request.num_frames} frames in {time.monotonic() - started:.0f} s"
