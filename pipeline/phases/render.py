"""Phase 5: per frame, atomically, the focus map and the render that this very map drives.

The label is stored as float16, decoded from its stored bytes, and handed to the renderer; so the picture is the picture of
the label that a loader will read. The render's file is renamed last: where it is, its label is.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import BokehRenderer, BokehRequest
from pipeline.engines.flags import engine_from
from pipeline.engines.info import EngineInfo
from pipeline.errors import ExitCode, InputError, UsageError
from pipeline.media.depth_files import decode_npz, encode_npz, read_depth
from pipeline.media.images import Picture, encode_png, multiple_of_16, read_sharp
from pipeline.media.prefetch import WriteBehind, map_ahead
from pipeline.optics.labels import FocusMap, label_of
from pipeline.optics.lens import Lens, OpticsError, coc_to_radius_px, px_per_mm
from pipeline.phases.base import Result, ScenePhase, Work, engine_fields, ordered_missing, retry_on_oom
from pipeline.phases.calibration import Calibration, confirmed_calibration, read_statistics, scene_lens
from pipeline.phases.dependencies import require
from pipeline.phases.registry import Phase, Presenter
from pipeline.phases.runner import run_scenes
from pipeline.run_settings import RunSettings
from pipeline.seeds import stable_seed
from pipeline.storage.completion import DoneRecord, Fields
from pipeline.storage.files import dump_json
from pipeline.storage.scene import (
    RENDER_OUTPUTS,
    LensSet,
    Scene,
    SceneEntry,
    SceneIndex,
    lens_set_to_json,
)

VERSION = 1
MEAN_FOCUS_RANGE = (0.2, 0.8)  # a set whose mean focus lies outside is nearly all blur or nearly none


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """num_sets: lens sets per scene."""

    num_sets: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.num_sets <= 100:
            raise UsageError(f"num_sets must be in [1, 100], got {self.num_sets}")


@runtime_checkable
class GuidedRenderer(Protocol):
    """A renderer that a defocus map guides, (1 - focus_map) * guidance_factor."""

    @property
    def guidance(self) -> str:
        """What the map means."""
        ...

    def guidance_factor(self, max_coc_m: float, px_per_mm: float) -> float:
        """For a map that saturates at a circle of max_coc_m metres, in frames of px_per_mm."""
        ...


@dataclass(frozen=True)
class _Loaded:
    frame: int
    sharp: Picture
    depth_m: npt.NDArray[np.float32]
    labels: dict[int, bytes]  # set -> npz bytes


class RenderPhase(ScenePhase):
    """focus_maps/, bokeh_renders/ and metadata.json from frames_sharp/ and depth_maps/."""

    name = "render"

    def __init__(self, settings: RenderSettings, engine: BokehRenderer, calibration: Calibration) -> None:
        self.settings, self._engine, self._calibration = settings, engine, calibration
        self.num_sets = settings.num_sets

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def fields(self, scene: Scene, entry: SceneEntry) -> Fields:
        return {
            "phase": self.name,
            "version": VERSION,
            "engine": engine_fields(self._engine),
            "settings": asdict(self.settings),
            "calibration": asdict(self._calibration.settings),
            "max_coc": self._calibration.max_coc_m,
            "upstream": {phase: require(scene, entry, phase).fingerprint for phase in ("deblur", "depth")},
        }

    def _pairs(self, entry: SceneEntry) -> list[tuple[int, int]]:
        return [(frame, number) for frame in range(entry.num_frames) for number in range(self.settings.num_sets)]

    def run(self, scene: Scene, entry: SceneEntry, work: Work) -> Result:
        sets = self._lens_sets(scene)
        self._write_metadata(scene, entry, sets, work)
        outputs = self.outputs(scene, entry)
        pairs = self._pairs(entry)
        todo = sorted({number // 2 for number in ordered_missing(outputs) if number < 2 * len(pairs)})
        by_frame: dict[int, list[int]] = {}
        for frame, set_index in (pairs[number] for number in todo):
            by_frame.setdefault(frame, []).append(set_index)
        work.reporter.begin_progress(f"render {scene.scene_id}", len(pairs), len(pairs) - len(todo))
        load = partial(self._load, scene, entry, sets)
        with WriteBehind() as writer:
            for loaded in map_ahead(load, by_frame.items()):
                for set_index, label in loaded.labels.items():
                    work.safe_point()
                    # Read back from the very bytes that are stored: what a loader will see is what drives the picture.
                    focus = decode_npz(label, "focus_map", f"{scene.scene_id} frame {loaded.frame}").astype(np.float16)
                    picture = self._render(scene, entry, sets[set_index], loaded, focus, work)
                    mean = round(float(focus.mean(dtype=np.float64)), 6)
                    writer.submit(partial(self._write, scene, set_index, loaded.frame, label, picture, mean, work))
        return self._result(entry, sets, work)

    def _lens_sets(self, scene: Scene) -> list[LensSet]:
        statistics = read_statistics(scene)
        try:
            lenses = [
                scene_lens(scene, statistics, number, self._calibration.settings)
                for number in range(self.settings.num_sets)
            ]
        except OpticsError as error:
            raise InputError(f"{scene.stats_path}: {error}") from None
        return [LensSet(lens=lens, max_coc_m=self._calibration.max_coc_m) for lens in lenses]

    def _px_per_mm(self, entry: SceneEntry) -> float:
        width, _ = multiple_of_16((entry.width, entry.height))
        return px_per_mm(width, self._calibration.settings.sensor_width_mm)

    def _write_metadata(self, scene: Scene, entry: SceneEntry, sets: list[LensSet], work: Work) -> None:
        width, height = multiple_of_16((entry.width, entry.height))
        per_mm = self._px_per_mm(entry)
        licences = {"bokeh": self.info.licence}
        for phase, folder in (("deblur", scene.sharp_dir), ("depth", scene.depth_dir)):
            record = DoneRecord.read(folder)
            licences[phase] = record.licence if record else "unknown"
        metadata: dict[str, Any] = {
            "scene_id": scene.scene_id,
            "sets": [lens_set_to_json(lens_set) for lens_set in sets],
            "num_frames": entry.num_frames,
            "width": width,
            "height": height,
            "sensor_width_mm": self._calibration.settings.sensor_width_mm,
            "px_per_mm": per_mm,
            "max_radius_px": coc_to_radius_px(self._calibration.max_coc_m, per_mm),
            "coc_model": self._calibration.settings.coc_model,
            "focus_range": self._calibration.settings.focus_range,
            "engine": engine_fields(self._engine),
            **self._guidance(sets, per_mm),
            "seed": self._calibration.settings.seed,
            "licences": licences,
        }
        work.write_if_changed(scene.metadata_path, dump_json(metadata).encode())

    def _guidance(self, sets: list[LensSet], per_mm: float) -> dict[str, Any]:
        """What 1 - focus_map was multiplied with, for engines that are guided by a map; the lens engine takes radii."""
        if not isinstance(self._engine, GuidedRenderer):
            return {"guidance": None, "guidance_factor": None}
        return {
            "guidance": self._engine.guidance,
            "guidance_factor": self._engine.guidance_factor(sets[0].max_coc_m, per_mm),  # one max_coc for all sets
        }

    def _load(self, scene: Scene, entry: SceneEntry, sets: list[LensSet], item: tuple[int, list[int]]) -> _Loaded:
        frame, set_indices = item
        sharp = read_sharp(scene.sharp_path(frame))
        stored = read_depth(scene.depth_path(frame))
        if stored.shape != sharp.shape[:2]:
            raise InputError(
                f"{scene.depth_path(frame)} is {stored.shape[1]}x{stored.shape[0]}, its frame is "
                f"{sharp.shape[1]}x{sharp.shape[0]}; run phases 2 and 3 again with --on_stale redo"
            )
        labels = {}
        for set_index in set_indices:
            try:
                label = label_of(stored, sets[set_index].lens, sets[set_index].max_coc_m)
            except OpticsError as error:
                raise InputError(f"{scene.depth_path(frame)}: {error}") from None
            labels[set_index] = encode_npz("focus_map", label)
        return _Loaded(frame, sharp, stored.astype(np.float32), labels)

    def _render(
        self, scene: Scene, entry: SceneEntry, lens_set: LensSet, loaded: _Loaded, focus: FocusMap, work: Work
    ) -> Picture:
        request = BokehRequest(
            sharp=loaded.sharp,
            focus_map=focus,
            depth_m=loaded.depth_m,
            lens=lens_set.lens,
            max_coc_m=lens_set.max_coc_m,
            px_per_mm=self._px_per_mm(entry),
            seed=stable_seed("bokeh", scene.scene_id, self._calibration.settings.seed),
        )
        return retry_on_oom(
            self._engine,
            lambda: self._engine.render(request, work.safe_point),
            lambda text: work.reporter.warning(f"{scene.scene_id} frame {loaded.frame}: {text}"),
        )

    @staticmethod
    def _write(
        scene: Scene, set_index: int, frame: int, label: bytes, picture: Picture, mean_focus: float, work: Work
    ) -> None:
        png = encode_png(picture)
        work.journal.add(f"{set_index:02d}/{frame:04d}", {"mean_focus": mean_focus})
        work.write(scene.focus_path(set_index, frame), label)
        work.write(scene.bokeh_path(set_index, frame), png)
        work.reporter.advance()

    def _result(self, entry: SceneEntry, sets: list[LensSet], work: Work) -> Result:
        return Result(
            summary={"mean_focus": self._mean_focus(entry, work)}, warnings=tuple(self._warn(entry, sets, work))
        )

    def _mean_focus(self, entry: SceneEntry, work: Work) -> list[float]:
        facts = work.journal.facts
        means = []
        for number in range(self.settings.num_sets):
            values = [facts.get(f"{number:02d}/{frame:04d}", {}).get("mean_focus") for frame in range(entry.num_frames)]
            known = [value for value in values if value is not None]
            means.append(round(float(np.mean(known)), 4) if known else float("nan"))
        return means

    def _warn(self, entry: SceneEntry, sets: list[LensSet], work: Work) -> Iterator[str]:
        for number, mean in enumerate(self._mean_focus(entry, work)):
            if not MEAN_FOCUS_RANGE[0] <= mean <= MEAN_FOCUS_RANGE[1]:
                lens: Lens = sets[number].lens
                kind = "blurred" if mean < MEAN_FOCUS_RANGE[0] else "sharp"
                yield (
                    f"set {number} ({lens.f_mm:.0f} mm, f/{lens.f_number:.1f}, focus {lens.focus_m:.2f} m) is nearly all "
                    f"{kind}: mean focus {mean:.2f}, expected {MEAN_FOCUS_RANGE[0]} to {MEAN_FOCUS_RANGE[1]}"
                )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_sets", type=int, default=RenderSettings().num_sets, help="lens sets per scene")


def _settings(args: argparse.Namespace) -> RenderSettings:
    return RenderSettings(num_sets=args.num_sets)


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    engine = engine_from(args, "bokeh", BokehRenderer)
    calibration = confirmed_calibration(run, SceneIndex.load(run.index_path))
    return run_scenes(RenderPhase(_settings(args), engine, calibration), run)


PHASES = (
    Phase(
        name="render",
        number=5,
        script="scripts/05_render_and_labels.py",
        help="per frame, atomically, the focus map and the render driven by that same map",
        groups=("5-6", "test"),
        outputs=RENDER_OUTPUTS,
        title="bokeh",
        role="bokeh",
        resources="render",
        default_engine="lens",
        calibrated=True,
        needs_yield=False,
        add_flags=_add_flags,
        settings=_settings,
        run=_run,
    ),
)
