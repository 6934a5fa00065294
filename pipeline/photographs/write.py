"""A generated scene through its lenses, written as a finished scene of the output contract, which loaders read as any other.

What stands where is the pipeline's own layout; what made it is said in every `.done` and in metadata.json: engine
"raytrace", depth exact instead of estimated, photographs traced through the lens instead of rendered from frame and depth.
A scene's folder appears under its name only when it is complete.
"""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.measures import psnr
from pipeline.media.depth_files import encode_npz
from pipeline.media.images import encode_png
from pipeline.optics import SENSOR_WIDTH_MM, coc_to_radius_px, px_per_mm
from pipeline.optics.labels import label_of
from pipeline.phases.depth import count_values, statistics_of
from pipeline.photographs.lenses import draw_focus_pull, draw_photograph_lens, traced_lens
from pipeline.photographs.requests import LICENCE, MAX_COC_M, PhotographRequest
from pipeline.raytrace import RayScene, RaytraceError, render_frame, render_photograph, to_srgb8
from pipeline.storage.completion import DoneRecord, fingerprint
from pipeline.storage.files import dump_json, write_bytes
from pipeline.storage.scene import TRACED_TRUTH, LensSet, Scene, lens_set_to_json


def write_photographs(out_root: Path, request: PhotographRequest) -> bool:
    """Generate, photograph and lay out a scene, or leave a complete one alone.

    Returns:
        True if it was written, False if the same scene was already there.

    Raises:
        RaytraceError: a folder of that name exists that was made with other settings or by something else.
    """
    final = Scene(out_root, request.scene_id)
    if final.dir.exists():
        _check_existing(final, request)
        return False
    partial = out_root / f".{request.scene_id}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    # The layout's own paths, below a folder whose name no loader takes for a scene.
    scene = Scene(partial, request.scene_id)
    try:
        _write(scene, request)
        scene.dir.rename(final.dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _write(scene: Scene, request: PhotographRequest) -> None:
    generated = request.scene()
    size = {"width": request.width, "height": request.height}
    depths, counts = [], np.zeros(65536, np.int64)
    for i in range(request.num_frames):
        frame = render_frame(generated, i, **size)
        stored = np.clip(frame.depth_m, 0.01, 1000).astype(np.float16)
        _put(scene.sharp_path(i), encode_png(frame.srgb))
        _put(scene.depth_path(i), encode_npz("depth", stored))
        counts += count_values(stored)
        depths.append(stored)
    statistics = statistics_of(counts)
    _put(scene.stats_path, dump_json(statistics).encode())
    sample = np.stack(depths)[:, ::4, ::4].astype(np.float32)
    drawn = [_draw_set(request, number, sample) for number in range(request.num_sets)]
    noise_db = [
        _photograph_set(scene, generated, request, number, one, depths) for number, (one, _) in enumerate(drawn)
    ]
    _put(scene.metadata_path, dump_json(_metadata(request, generated, drawn, noise_db)).encode())
    _put(scene.split_path, f"{request.split}\n".encode())
    _write_records(scene, request, statistics)


def _draw_set(request: PhotographRequest, number: int, depth_m: NDArray[np.float32]) -> tuple[LensSet, str]:
    """A lens, or one whose focus travels, and the reason where it is not as the prior wants it."""
    seeded = {"width_px": request.width, "seed": request.seed}
    one = draw_photograph_lens(request.scene_id, number, depth_m, **seeded)
    if number < request.num_sets - request.pulls:
        return LensSet(lens=one.lens, max_coc_m=MAX_COC_M), one.reason
    lens, pull_m = draw_focus_pull(request.scene_id, number, depth_m, one.lens, request.num_frames, **seeded)
    return LensSet(lens=lens, max_coc_m=MAX_COC_M, pull_m=pull_m), one.reason


def _photograph_set(
    scene: Scene,
    generated: RayScene,
    request: PhotographRequest,
    number: int,
    drawn: LensSet,
    depths: list[Any],
) -> float:
    """Labels and photographs of one lens; returns how near the first is to a noiseless one, dB."""

    def shot(i: int, sample_set: int = 0) -> NDArray[np.uint8]:
        size = {"width": request.width, "height": request.height, "samples": request.samples}
        lens, opening = traced_lens(drawn.lens_at(i), generated.f_m), request.aperture()
        return to_srgb8(render_photograph(generated, i, lens, opening, workers=1, sample_set=sample_set, **size))

    noise_db = 0.0
    for i, depth in enumerate(depths):
        picture = shot(i)
        _put(scene.focus_path(number, i), encode_npz("focus_map", label_of(depth, drawn.lens_at(i), MAX_COC_M)))
        _put(scene.bokeh_path(number, i), encode_png(picture))
        if i == 0:
            again = shot(i, sample_set=1)
            # Two photographs with independent noise differ by 3 dB more than each from their limit.
            noise_db = psnr(picture / 255, again / 255, 1.0) + 10 * math.log10(2)
    return round(float(min(noise_db, 100.0)), 2)


def _metadata(
    request: PhotographRequest, generated: RayScene, drawn: list[tuple[LensSet, str]], noise_db: list[float]
) -> dict[str, Any]:
    per_mm = px_per_mm(request.width)
    return {
        "scene_id": request.scene_id,
        "sets": [
            lens_set_to_json(one) | ({"reason": reason} if reason else {}) | {"noise_db": noise}
            for (one, reason), noise in zip(drawn, noise_db, strict=True)
        ],
        "num_frames": request.num_frames,
        "width": request.width,
        "height": request.height,
        "sensor_width_mm": SENSOR_WIDTH_MM,
        "px_per_mm": per_mm,
        "max_radius_px": coc_to_radius_px(MAX_COC_M, per_mm),
        "coc_model": "contract",
        "lens_prior": "visible",
        "engine": {"name": "raytrace", "samples": request.samples}
        | ({"blades": request.blades} if request.blades else {}),
        "guidance": None,
        "guidance_factor": None,
        "seed": request.seed,
        "licences": {"deblur": LICENCE, "depth": LICENCE, "bokeh": LICENCE},
        "truth": TRACED_TRUTH,
        "family": request.family,
        "frame_f": generated.f_m,
        "generated": request.recorded(),
    }


def _write_records(scene: Scene, request: PhotographRequest, statistics: dict[str, float]) -> None:
    """A `.done` for every modality folder, as the phases leave them."""
    fields = {"engine": {"name": "raytrace"}, "generated": request.recorded()}
    marks = {name: fingerprint({"phase": name, **fields}) for name in ("deblur", "depth", "render")}
    pictures = request.num_frames * request.num_sets
    for name, folders, outputs, upstream, summary in (
        ("deblur", (scene.sharp_dir,), request.num_frames, (), {}),
        ("depth", (scene.depth_dir,), request.num_frames + 1, ("deblur",), statistics),
        ("render", (scene.focus_dir, scene.bokeh_dir), 2 * pictures + 1, ("deblur", "depth"), {}),
    ):
        record = DoneRecord(
            phase=name,
            fingerprint=marks[name],
            fields={"phase": name, **fields},
            upstream={other: marks[other] for other in upstream},
            outputs=outputs,
            engine="raytrace",
            licence=LICENCE,
            summary=dict(summary),
        )
        for folder in folders:
            record.write(folder)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)


def _check_existing(scene: Scene, request: PhotographRequest) -> None:
    try:
        found = dict(scene.read_metadata()["generated"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise RaytraceError(
            f"{scene.dir} exists but was not made by this generator; move it away or choose another folder"
        ) from error
    wanted = request.recorded()
    other = [
        f"{key} {found.get(key)!r} -> {wanted.get(key)!r}"
        for key in dict.fromkeys((*wanted, *found))
        if found.get(key) != wanted.get(key)
    ]
    if other:
        raise RaytraceError(
            f"{scene.dir} was made with other settings ({', '.join(other)}); delete it or keep it as is"
        )


def make_photographs(out_root: Path, request: PhotographRequest) -> tuple[bool, bool, str]:
    """`write_photographs` for a worker process: a failure is a result, so that the other scenes go on.

    Returns:
        Whether it succeeded, whether anything was written, and a line that says so.
    """
    started = time.monotonic()
    try:
        made = write_photographs(out_root, request)
    except (RaytraceError, OSError) as error:
        return False, False, f"{request.scene_id}: FAILED: {error}"
    if not made:
        return True, False, f"{request.scene_id}: already there, skipped"
    pictures = request.num_frames * request.num_sets
    return True, True, f"{request.scene_id}: {pictures} photographs in {time.monotonic() - started:.0f} s"
