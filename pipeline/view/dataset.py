"""What lies in the output root for looking at: scenes with sharp frames and finished depth, and the calibration if any.

Other phases may run meanwhile: which scenes there are is read whenever the page is opened, and files tell by their times
whether what is kept of them still holds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError, UsageError
from pipeline.hints import phase_command
from pipeline.media.depth_files import read_depth
from pipeline.media.images import Picture, multiple_of_16, read_sharp
from pipeline.phases.calibration import CalibrateSettings, finished_depth, read_calibration
from pipeline.phases.lenses import read_statistics, scene_lenses
from pipeline.report.colours import SKY_FROM_M
from pipeline.report.formatting import lens_words, moment
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex, calibration_path
from pipeline.view.memo import Memo

DRAWN_SETS = 4  # as many lenses as phase 5 draws where it is not told otherwise
SUPPOSED_MAX_COC_M = 1.728e-3  # without a measurement: the prior `visible` comes out near it, 4.8 % of 36 mm


class Dataset:
    """The output root of a run."""

    def __init__(self, run: RunSettings) -> None:
        self.run = run
        self._ready: dict[str, SceneEntry] = {}
        self._calibrations: Memo[dict[str, Any]] = Memo(1)

    def ready(self) -> tuple[dict[str, SceneEntry], list[str]]:
        """The scenes that can be looked at, by id, and why the others cannot.

        Raises:
            PipelineError: there is none; the message names the phase to run.
        """
        missing: list[str] = []
        entries = self.run.chosen(SceneIndex.load(self.run.index_path))
        found, _ = finished_depth(entries, self.run, missing.append)
        self._ready = {entry.scene_id: entry for entry in found}
        return self._ready, missing

    def entry(self, scene_id: str, frame: int) -> SceneEntry:
        """The index's entry of a scene that has this frame.

        Raises:
            UsageError: no such scene or frame; the message lists those there are.
        """
        ready = self._ready or self.ready()[0]
        if scene_id not in ready:
            raise UsageError(f"there is no scene {scene_id!r} to look at; there are: {', '.join(ready)}")
        if not 0 <= frame < ready[scene_id].num_frames:
            raise UsageError(f"frame must be in [0, {ready[scene_id].num_frames - 1}] for {scene_id}, got {frame}")
        return ready[scene_id]

    def _files(self, scene_id: str, frame: int) -> tuple[Path, Path]:
        scene = Scene(self.run.out_root, scene_id)
        return scene.sharp_path(frame), scene.depth_path(frame)

    def stamp(self, scene_id: str, frame: int) -> tuple[int, ...]:
        """Changes when the frame or its depth is written anew."""
        return tuple(path.stat().st_mtime_ns for path in self._files(scene_id, frame) if path.exists())

    def sharp(self, scene_id: str, frame: int) -> Picture:
        """The stored frame; InputError where the file is damaged."""
        return read_sharp(self._files(scene_id, frame)[0])

    def depth(self, scene_id: str, frame: int) -> npt.NDArray[np.float16]:
        """The stored depth, (H, W) metres; InputError where the file is damaged."""
        return read_depth(self._files(scene_id, frame)[1])

    def calibration(self) -> dict[str, Any] | None:
        """The content of coc_stats.json, None where phase 4 has not run; PipelineError where it is damaged."""
        path = calibration_path(self.run.out_root)
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return self._calibrations.get((found.st_mtime_ns, found.st_size), lambda: read_calibration(path))

    def settings(self) -> CalibrateSettings:
        """Sensor and lens model of the calibration; the defaults where there is none to read."""
        try:
            stats = self.calibration()
        except PipelineError:
            stats = None
        return CalibrateSettings(**stats["fields"]["settings"]) if stats else CalibrateSettings()

    def describe(self) -> dict[str, Any]:
        """What the page needs to begin, as JSON."""
        ready, missing = self.ready()
        described: dict[str, Any] = {
            "out_root": str(self.run.out_root),
            "scenes": [_describe_entry(entry) for entry in ready.values()],
            "missing": missing,
            "calibration": None,
            "problem": "",
            "supposed_max_coc_m": SUPPOSED_MAX_COC_M,
        }
        try:
            stats = self.calibration()
        except PipelineError as error:
            return described | {"problem": str(error)}
        if stats is None:
            told = f"The blur of this dataset is not measured yet. Run: {phase_command('calibrate')}"
            return described | {"problem": told}
        return described | {"calibration": _describe_calibration(stats)}

    def describe_scene(self, scene_id: str) -> dict[str, Any]:
        """Distances of a scene, and the lenses that phase 5 would draw for it where the blur is measured."""
        entry = self.entry(scene_id, 0)
        scene, settings = Scene(self.run.out_root, scene_id), self.settings()
        statistics = read_statistics(scene)
        lenses = []
        if self.calibration() is not None:
            for one in scene_lenses(scene, entry, DRAWN_SETS, settings):
                lens = one.lens
                lenses.append(
                    {
                        "f_number": lens.f_number,
                        "focal_mm": lens.f_mm,
                        "focus_m": lens.focus_m,
                        "words": lens_words(lens.f_m, lens.f_number, lens.focus_m),
                        "reason": one.reason,
                    }
                )
        near_m = statistics["d_min"]
        return {
            "near_m": near_m,
            "far_m": max(near_m * 1.01, min(statistics["d_max"], SKY_FROM_M)),
            "middle_m": (statistics["focus_near"] * statistics["focus_far"]) ** 0.5,
            "lenses": lenses,
        }


def _describe_entry(entry: SceneEntry) -> dict[str, Any]:
    width, height = multiple_of_16((entry.width, entry.height))
    return {
        "id": entry.scene_id,
        "frames": entry.num_frames,
        "width": width,
        "height": height,
        "split": entry.split,
    }


def _describe_calibration(stats: dict[str, Any]) -> dict[str, Any]:
    confirmed = stats.get("confirmed") or {}
    return {
        **{name: stats[name] for name in ("p50", "p95", "max", "recommended_max_coc", "confirmed_max_coc")},
        "confirmed_by": str(confirmed.get("by", "")),
        "confirmed_at": moment(str(confirmed["at"])) if confirmed.get("at") else "",
        "histogram": stats["histogram"],
        "scenes_sampled": stats["counts"]["scenes_sampled"],
        "nearly_sharp": bool(stats.get("blur", {}).get("nearly_sharp")),
    }
