"""The lenses of a scene: one function that phases 4 and 5 both call, so that what was measured is what is rendered."""

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.depth_files import read_depth
from pipeline.media.images import multiple_of_16
from pipeline.optics.lens import OpticsError, px_per_mm
from pipeline.optics.sampling import DrawnLens, draw_lens
from pipeline.optics.visible import draw_visible_lens
from pipeline.phases.calibration import CalibrateSettings
from pipeline.seeds import stable_seed
from pipeline.storage.bounded import one_line
from pipeline.storage.files import read_json
from pipeline.storage.scene import Scene, SceneEntry

FRAMES_PER_SCENE = 8
PIXELS_PER_FRAME = 4096


def scene_lenses(scene: Scene, entry: SceneEntry, count: int, settings: CalibrateSettings) -> list[DrawnLens]:
    """The lenses of a scene's first `count` sets: what phases 4 and 5 both call.

    Raises:
        InputError: the scene's depth is missing, damaged or nothing that a lens could look at.
    """
    try:
        if settings.lens_prior == "visible":
            width, _ = multiple_of_16((entry.width, entry.height))
            depth_m = sample_depth(scene, entry, settings)
            per_mm = px_per_mm(width, settings.sensor_width_mm)
            return [
                draw_visible_lens(
                    scene.scene_id,
                    number,
                    depth_m,
                    px_per_mm=per_mm,
                    width_px=width,
                    project_seed=settings.seed,
                    coc_model=settings.coc_model,
                )
                for number in range(count)
            ]
        statistics = read_statistics(scene)
        names = ("focus_near", "focus_far") if settings.focus_range == "robust" else ("d_min", "d_max")
        near_m, far_m = (statistics[name] for name in names)
        return [
            DrawnLens(
                draw_lens(
                    scene.scene_id,
                    number,
                    near_m=near_m,
                    far_m=far_m,
                    project_seed=settings.seed,
                    coc_model=settings.coc_model,
                )
            )
            for number in range(count)
        ]
    except OpticsError as error:
        raise InputError(f"{scene.depth_dir}: {error}") from None


def sample_depth(scene: Scene, entry: SceneEntry, settings: CalibrateSettings) -> npt.NDArray[np.float64]:
    """Depths in metres of seeded pixels of frames spread evenly over a scene: the same ones whenever it is called."""
    rng = np.random.default_rng(stable_seed("calibration pixels", scene.scene_id, settings.seed))
    samples = []
    for frame in sampled_frames(entry):
        pixels = read_depth(scene.depth_path(frame)).ravel()
        samples.append(pixels[rng.integers(0, pixels.size, min(PIXELS_PER_FRAME, pixels.size))])
    return np.concatenate(samples).astype(np.float64)


def sampled_frames(entry: SceneEntry) -> list[int]:
    """The frames that `sample_depth` reads."""
    return [int(frame) for frame in np.unique(np.linspace(0, entry.num_frames - 1, FRAMES_PER_SCENE).round())]


def read_statistics(scene: Scene) -> dict[str, float]:
    """stats.json of a scene's depth.

    Raises:
        InputError: missing, damaged, or lacking a number.
    """
    try:
        stored = read_json(scene.stats_path, "the depth statistics")
        return {name: float(stored[name]) for name in ("d_min", "d_max", "focus_near", "focus_far")} | stored
    except Exception as error:
        raise InputError(
            f"{scene.stats_path} is missing or incomplete ({one_line(error)}); run phase 3 again"
        ) from None
