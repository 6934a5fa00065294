"""What is wrong with one finished scene: files are counted, decoded and measured, and each label is computed again.

Nothing here trusts a done record, and the result is the list of everything wrong, not the first thing.
"""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError, SceneError
from pipeline.media.depth_files import read_npz
from pipeline.media.images import multiple_of_16, read_sharp
from pipeline.optics.labels import label_of
from pipeline.optics.lens import OpticsError, coc_to_radius_px, px_per_mm
from pipeline.phases.blur_check import check_set, listed, read_blur_frame
from pipeline.phases.dependencies import redo_command, require
from pipeline.phases.depth import MAX_DEPTH_M, MIN_DEPTH_M
from pipeline.phases.registry import scene_phases
from pipeline.storage.bounded import parsing
from pipeline.storage.completion import DONE_NAME, DoneRecord
from pipeline.storage.files import names_in, read_json
from pipeline.storage.scene import RENDER_OUTPUTS, LensSet, Scene, SceneEntry

_METADATA_KEYS = ("sets", "sensor_width_mm", "px_per_mm", "max_radius_px", "coc_model", "engine", "seed", "licences")
_STATS_KEYS = ("d_min", "d_max", "d_median", "d_p5", "d_p95", "focus_near", "focus_far")
_MAX_LISTED = 5  # of one kind of problem; the count is always given


@dataclass(kw_only=True)
class SceneReport:
    """What was found in one scene."""

    scene_id: str
    passed: bool = False
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    num_frames: int = 0
    num_sets: int = 0
    size: tuple[int, int] = (0, 0)
    bytes: int = 0
    mean_focus: list[float] = field(default_factory=list)
    made_frames: int = 0  # of a set: interpolated, not rendered
    label_error: float = 0.0  # largest difference of a recomputed focus map
    blur: list[dict[str, object]] | None = None  # of every set with --check_blur, see blur_check.listed


def check_scene(out_root: Path, entry: SceneEntry, *, check_blur: bool = False) -> SceneReport:
    """Everything that is wrong with one scene, and a few numbers about it."""
    return _SceneCheck(Scene(out_root, entry.scene_id), entry, check_blur).run()


class _SceneCheck:
    def __init__(self, scene: Scene, entry: SceneEntry, check_blur: bool = False) -> None:
        self._scene, self._entry, self._blur_wanted = scene, entry, check_blur
        self._size = multiple_of_16((entry.width, entry.height))
        self._report = SceneReport(scene_id=scene.scene_id, num_frames=entry.num_frames, size=self._size)
        self._problems: dict[str, list[str]] = {}
        self._damaged: dict[str, set[str]] = {}  # kind of problem -> phases whose outputs have to be made again

    def run(self) -> SceneReport:
        self._check_records()
        self._check_split()
        sets = self._check_metadata()
        self._report.num_sets = len(sets)
        self._check_made()
        self._check_statistics()
        self._check_names(sets)
        sums = [0.0] * len(sets)
        for frame in range(self._entry.num_frames):
            self._check_frame(frame, sets, sums)
        if self._blur_wanted and not self._problems:  # of damaged files nothing can be said
            self._check_blur(sets)
        self._report.mean_focus = [round(total / max(1, self._entry.num_frames), 4) for total in sums]
        for kind, details in self._problems.items():
            more = f" and {len(details) - _MAX_LISTED} more" if len(details) > _MAX_LISTED else ""
            names = [phase.name for phase in scene_phases() if phase.name in self._damaged.get(kind, ())]
            redo = [redo_command(self._scene, name) for name in names]
            advice = f"; run: {' && '.join(redo)}" if redo else ""
            self._report.reasons.append(f"{kind}: {'; '.join(details[:_MAX_LISTED])}{more}{advice}")
        self._report.bytes = _folder_bytes(self._scene.dir)
        self._report.passed = not self._report.reasons
        return self._report

    def _problem(self, kind: str, detail: str, *damaged: str) -> None:
        """Note a problem. `damaged` are the phases that have to be done again although they count as done."""
        self._problems.setdefault(kind, []).append(detail)
        self._damaged.setdefault(kind, set()).update(damaged)

    def _check_records(self) -> None:
        for phase in scene_phases():
            try:
                record = require(self._scene, self._entry, phase.name)
                self._report.warnings += record.warnings
            except SceneError as error:
                self._problem(f"phase {phase.name}", str(error))
            made = phase.outputs
            assert made is not None, f"{phase.name} works scene by scene"
            *others, last = [self._scene.folder(modality) for modality in made.modalities]
            for folder in others:
                if last.exists() and not (folder / DONE_NAME).exists():
                    self._problem(f"phase {phase.name}", f"{folder} has no {DONE_NAME}")

    def _check_split(self) -> None:
        found = self._scene.read_split()
        if found != self._entry.split:
            says = "none of train, val and test" if found is None else found
            self._problem("split", f"{self._scene.split_path.name} says {says}, scene_index.json {self._entry.split}")

    def _check_metadata(self) -> list[LensSet]:
        scene = self._scene
        try:
            metadata = scene.read_metadata()
            sets = scene.lens_sets()
        except (InputError, OSError) as error:
            self._problem("metadata", str(error), "render")
            return []
        absent = [key for key in _METADATA_KEYS if key not in metadata]
        if absent:
            self._problem("metadata", f"metadata.json lacks {', '.join(absent)}", "render")
            return sets
        if not sets:
            self._problem("metadata", "metadata.json has no lens sets", "render")
            return sets
        try:
            numbers = {key: float(metadata[key]) for key in ("sensor_width_mm", "px_per_mm", "max_radius_px")}
            per_mm = px_per_mm(self._size[0], numbers["sensor_width_mm"])
            radius = coc_to_radius_px(sets[0].max_coc_m, per_mm)
        except (TypeError, ValueError, ArithmeticError) as error:
            self._problem("metadata", f"metadata.json holds sizes that are no sizes ({error})", "render")
            return sets
        for key, expected in (("px_per_mm", per_mm), ("max_radius_px", float(radius))):
            if not abs(numbers[key] - expected) <= 1e-6 * expected:
                self._problem("metadata", f"{key} is {metadata[key]}, its frames and sets say {expected}", "render")
        return sets

    def _check_made(self) -> None:
        """That metadata.json tells the same frames as made that the done record does."""
        try:
            record = DoneRecord.read(self._scene.folder(RENDER_OUTPUTS.modalities[-1]))
        except InputError:
            return  # told where records are looked at
        try:
            made = list(self._scene.made_frames())
        except (InputError, OSError) as error:
            self._problem("made frames", str(error), "render")
            return
        told = [] if record is None else record.summary.get("made_frames", [])
        if record is not None and made != told:
            self._problem("made frames", f"metadata.json says {_short(made)}, the done record {_short(told)}", "render")
        if made:
            self._report.made_frames = len(made)

    def _check_statistics(self) -> None:
        try:
            stats: dict[str, Any] = _read_stats(self._scene)
        except InputError as error:
            self._problem("depth statistics", str(error), "depth")
            return
        order = [stats[key] for key in ("d_min", "d_p5", "d_median", "d_p95", "d_max")]
        if not all(np.isfinite(order)) or order != sorted(order) or order[0] <= 0:
            self._problem(
                "depth statistics", f"d_min <= d_p5 <= d_median <= d_p95 <= d_max and > 0 fails: {order}", "depth"
            )

    def _check_names(self, sets: list[LensSet]) -> None:
        """Counts, and nothing between the frames that does not belong there."""
        expected: dict[Path, set[str]] = {}
        for phase in scene_phases():
            assert phase.outputs is not None, f"{phase.name} works scene by scene"
            for modality in phase.outputs.modalities:
                set_names = {self._scene.frame_folder(modality, number).name for number in range(len(sets))}
                expected[self._scene.folder(modality)] = set_names if modality.per_set else set()
            for folder, names in self._scene.output_names(phase.outputs, self._entry.num_frames, len(sets)).items():
                if folder != self._scene.dir:
                    expected.setdefault(folder, set()).update(names)
        for folder, wanted in expected.items():
            found = {name for name in names_in(folder) if name != DONE_NAME}
            where = folder.relative_to(self._scene.dir)
            for name in sorted(wanted - found):
                self._problem("missing files", f"{where}/{name}")
            for name in sorted(found - wanted):
                self._problem("files that do not belong", f"{where}/{name}")

    def _check_frame(self, frame: int, sets: list[LensSet], sums: list[float]) -> None:
        scene = self._scene
        self._check_picture(scene.sharp_path(frame), "deblur")
        depth = self._check_array(scene.depth_path(frame), "depth", "depth", MIN_DEPTH_M * 0.99, MAX_DEPTH_M)
        for number, lens_set in enumerate(sets):
            self._check_picture(scene.bokeh_path(number, frame), "render")
            path = scene.focus_path(number, frame)
            label = self._check_array(path, "render", "focus_map", 0.0, 1.0)
            if label is None:
                continue
            sums[number] += float(label.mean(dtype=np.float64))
            if depth is None:
                continue
            try:
                again = label_of(depth, lens_set.lens_at(frame), lens_set.max_coc_m)
            except OpticsError as error:
                self._problem("labels", f"{path.name}: {error}", "depth", "render")
                continue
            # float16 rounding: half a step at 1 is 2.4e-4; the same code gives 0.
            error_of_label = float(np.abs(again.astype(np.float32) - label.astype(np.float32)).max())
            self._report.label_error = max(self._report.label_error, error_of_label)
            if error_of_label > 5e-4:
                where = path.relative_to(scene.dir)
                self._problem(
                    "labels",
                    f"{where} differs from depth and metadata by up to {error_of_label:.4f}",
                    "depth",
                    "render",
                )

    def _check_blur(self, sets: list[LensSet]) -> None:
        metadata = self._scene.read_metadata()
        found = []
        for number, lens_set in enumerate(sets):
            read = partial(read_blur_frame, self._scene, number, lens_set, float(metadata["px_per_mm"]))
            found.append(check_set(read, self._entry.num_frames))
            for problem in found[-1].problems():
                self._problem("blur", f"set {number}: {problem}", "render")
            if not found[-1].judged:
                self._report.warnings.append(
                    f"set {number}: too little texture or blur to tell whether the blur is right"
                )
        self._report.blur = listed(found)

    def _check_picture(self, path: Path, phase: str) -> None:
        if not path.exists():
            return  # listed as missing
        try:
            picture = read_sharp(path)
        except InputError as error:
            self._problem("damaged files", str(error), phase)
            return
        if picture.shape[1::-1] != self._size:
            self._problem("sizes", f"{path.name} is {picture.shape[1]}x{picture.shape[0]}, needs {self._size}", phase)

    def _check_array(self, path: Path, phase: str, key: str, low: float, high: float) -> Any:
        if not path.exists():
            return None
        try:
            array = read_npz(path, key, 16 * self._size[0] * self._size[1])
        except InputError as error:
            self._problem("damaged files", str(error), phase)
            return None
        where = path.relative_to(self._scene.dir)
        if array.dtype != np.float16:
            self._problem("dtypes", f"{where} is {array.dtype}, needs float16", phase)
            return None
        if array.shape != self._size[::-1]:
            self._problem("sizes", f"{where} has shape {array.shape}, needs {self._size[::-1]}", phase)
            return None
        values: Any = array
        if not (np.isfinite(values).all() and values.min() >= low and values.max() <= high):
            self._problem("ranges", f"{where} holds values outside [{low:g}, {high:g}], or NaN", phase)
            return None
        return values


def _short(frames: Any, shown: int = 6) -> str:
    if not isinstance(frames, list):
        return repr(frames)
    return f"{len(frames)} frames ({', '.join(map(str, frames[:shown]))}{', ...' if len(frames) > shown else ''})"


def _read_stats(scene: Scene) -> dict[str, Any]:
    try:
        stats = read_json(scene.stats_path, "the depth statistics")
    except FileNotFoundError:
        raise InputError(f"there is no {scene.stats_path}") from None
    absent = [key for key in _STATS_KEYS if not isinstance(stats.get(key), (int, float))]
    if absent:
        raise InputError(f"{scene.stats_path} lacks {', '.join(absent)}")
    with parsing("the depth statistics", scene.stats_path):  # an integer of a thousand digits is no float
        return {**stats, **{key: float(stats[key]) for key in _STATS_KEYS}}


def _folder_bytes(folder: Path) -> int:
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(folder) for name in names)
