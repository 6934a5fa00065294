"""Phase 5: per frame, atomically, the focus map and the render that this very map drives.

The label is stored as float16, decoded from its stored bytes, and handed to the renderer; so the picture is the picture of
the label that a loader will read. The render's file is renamed last: where it is, its label is.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.arguments import named_values
from pipeline.engines import engine_class, engines_of, load_engine, parse_options
from pipeline.engines.base import BokehRenderer, BokehRequest
from pipeline.engines.flags import engine_from
from pipeline.engines.info import EngineInfo
from pipeline.engines.interpolation.context import Interpolator
from pipeline.errors import ExitCode, InputError, UsageError
from pipeline.media.depth_files import decode_npz, encode_npz, read_depth
from pipeline.media.images import Picture, encode_png, multiple_of_16, read_sharp
from pipeline.media.prefetch import WriteBehind, map_ahead
from pipeline.optics.labels import FocusMap, label_of
from pipeline.optics.lens import Lens, OpticsError, coc_to_radius_px, px_per_mm
from pipeline.optics.sampling import DrawnLens
from pipeline.phases.base import Result, ScenePhase, Work, engine_fields, ordered_missing, retry_on_oom
from pipeline.phases.calibration import Calibration, confirmed_calibration
from pipeline.phases.dependencies import require
from pipeline.phases.lenses import scene_lenses
from pipeline.phases.made_frames import FrameMaker, FramePlan
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
OWN_LENS = ("f_number", "focal_mm", "focus_m")
MEAN_FOCUS_RANGE = (0.2, 0.8)  # a set whose mean focus lies outside is nearly all blur or nearly none


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """What a user chooses of the lenses.

    Args:
        num_sets: lens sets per scene.
        f_number, focal_mm, focus_m: of one's own lens, in place of what is drawn for every set; None draws.
        render_every: the engine renders every n-th frame, and the rest is interpolated; 1 renders all.
        interpolator: the engine for the rest.
        interpolator_options: of that engine, (NAME, VALUE).
        min_sharp_db: PSNR that the interpolator must reach on a frame's sharp picture, else the frame is rendered, dB.
    """

    num_sets: int = 4
    f_number: float | None = None
    focal_mm: float | None = None
    focus_m: float | None = None
    render_every: int = 1
    interpolator: str = "guided"
    interpolator_options: tuple[tuple[str, str], ...] = ()
    min_sharp_db: float = 20.0

    def __post_init__(self) -> None:
        if not 1 <= self.render_every <= 16:
            raise UsageError(f"render_every must be in [1, 16], got {self.render_every}")
        if not 0 <= self.min_sharp_db <= 99:
            raise UsageError(f"min_sharp_db must be in [0, 99] dB, got {self.min_sharp_db}")
        parse_options(engine_class("interpolate", self.interpolator), dict(self.interpolator_options))
        for name, value in self.own.items():
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be > 0, got {value}")
        if len(self.own) == len(OWN_LENS) and self.num_sets != 1:
            raise UsageError(
                f"with f_number, focal_mm and focus given all sets are the same one; num_sets must be 1, got {self.num_sets}"
            )
        if not 1 <= self.num_sets <= 100:
            raise UsageError(f"num_sets must be in [1, 100], got {self.num_sets}")

    @property
    def own(self) -> dict[str, float]:
        """What is given of one's own lens, by field."""
        return {name: value for name in OWN_LENS if (value := getattr(self, name)) is not None}

    def recorded(self) -> dict[str, Any]:
        """The settings in fingerprints: of one's own lens, and of made frames, nothing where there are none, as datasets
        have it from before."""
        between = (
            {"render_every": self.render_every, "min_sharp_db": self.min_sharp_db} if self.render_every > 1 else {}
        )
        return {"num_sets": self.num_sets, **self.own, **between}


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

    def __init__(
        self,
        settings: RenderSettings,
        engine: BokehRenderer,
        calibration: Calibration,
        interpolator: Interpolator | None = None,
    ) -> None:
        assert (interpolator is not None) == (settings.render_every > 1), "made frames, and only those, need one"
        self.settings, self._engine, self._calibration = settings, engine, calibration
        self._interpolator = interpolator
        self.num_sets = settings.num_sets

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def fields(self, scene: Scene, entry: SceneEntry) -> Fields:
        return {
            "phase": self.name,
            "version": VERSION,
            "engine": engine_fields(self._engine),
            **({"interpolator": engine_fields(self._interpolator)} if self._interpolator else {}),
            "settings": self.settings.recorded(),
            "calibration": self._calibration.settings.recorded(),
            "max_coc": self._calibration.max_coc_m,
            "upstream": {phase: require(scene, entry, phase).fingerprint for phase in ("deblur", "depth")},
        }

    def _pairs(self, entry: SceneEntry) -> list[tuple[int, int]]:
        return [(frame, number) for frame in range(entry.num_frames) for number in range(self.settings.num_sets)]

    def run(self, scene: Scene, entry: SceneEntry, work: Work) -> Result:
        drawn = self._lenses(scene, entry)
        sets = [LensSet(lens=one.lens, max_coc_m=self._calibration.max_coc_m) for one in drawn]
        maker = FrameMaker(scene, self._interpolator, work) if self._interpolator else None
        plan = FramePlan(rendered=tuple(range(entry.num_frames)), made={})
        if maker is not None:
            plan = maker.plan(entry.num_frames, self.settings.render_every, self.settings.min_sharp_db)
        self._write_metadata(scene, entry, sets, [one.reason for one in drawn], plan, work)
        outputs = self.outputs(scene, entry)
        pairs = self._pairs(entry)
        todo = sorted({number // 2 for number in ordered_missing(outputs) if number < 2 * len(pairs)})
        by_frame: dict[int, list[int]] = {}
        for frame, set_index in (pairs[number] for number in todo):
            by_frame.setdefault(frame, []).append(set_index)
        work.reporter.begin_progress(f"render {scene.scene_id}", len(pairs), len(pairs) - len(todo))
        load = partial(self._load, scene, entry, sets)
        rendered = {frame: missing for frame, missing in by_frame.items() if frame not in plan.made}
        made = {frame: missing for frame, missing in by_frame.items() if frame in plan.made}
        with WriteBehind() as writer:
            for part in (rendered, made):
                for loaded in map_ahead(load, part.items()):
                    for set_index, label in loaded.labels.items():
                        work.safe_point()
                        # Read back from the very bytes that are stored: what a loader will see is what drives the picture.
                        where = f"{scene.scene_id} frame {loaded.frame}"
                        focus = decode_npz(label, "focus_map", where).astype(np.float16)
                        facts: dict[str, Any] = {"mean_focus": round(float(focus.mean(dtype=np.float64)), 6)}
                        if maker is not None and part is made:
                            radius_px = self._radius_px(entry, sets[set_index], focus)
                            picture = maker.make(loaded.frame, set_index, plan, loaded.sharp, radius_px)
                            facts["made"] = True
                        else:
                            picture = self._render(scene, entry, sets[set_index], loaded, focus, work)
                        writer.submit(partial(self._write, scene, set_index, loaded.frame, label, picture, facts, work))
                writer.drain()  # made frames read the rendered ones
        return self._result(entry, sets, plan, work)

    def _radius_px(self, entry: SceneEntry, lens_set: LensSet, focus: FocusMap) -> npt.NDArray[np.float32]:
        """(H, W) radius of the blur that a focus map stands for, px."""
        largest = float(coc_to_radius_px(lens_set.max_coc_m, self._px_per_mm(entry)))
        return (1 - focus.astype(np.float32)) * np.float32(largest)

    def _lenses(self, scene: Scene, entry: SceneEntry) -> list[DrawnLens]:
        own = self.settings
        drawn = scene_lenses(scene, entry, own.num_sets, self._calibration.settings)
        if not own.own:
            return drawn
        try:
            return [
                DrawnLens(
                    replace(
                        one.lens,
                        f_m=own.focal_mm / 1000 if own.focal_mm else one.lens.f_m,
                        f_number=own.f_number or one.lens.f_number,
                        focus_m=own.focus_m or one.lens.focus_m,
                    )
                )
                for one in drawn
            ]
        except OpticsError as error:
            raise InputError(f"{scene.scene_id}: {error}") from None

    def _px_per_mm(self, entry: SceneEntry) -> float:
        width, _ = multiple_of_16((entry.width, entry.height))
        return px_per_mm(width, self._calibration.settings.sensor_width_mm)

    def _write_metadata(
        self,
        scene: Scene,
        entry: SceneEntry,
        sets: list[LensSet],
        reasons: list[str],
        plan: FramePlan,
        work: Work,
    ) -> None:
        width, height = multiple_of_16((entry.width, entry.height))
        per_mm = self._px_per_mm(entry)
        licences = {"bokeh": self.info.licence}
        for phase, folder in (("deblur", scene.sharp_dir), ("depth", scene.depth_dir)):
            record = DoneRecord.read(folder)
            licences[phase] = record.licence if record else "unknown"
        metadata: dict[str, Any] = {
            "scene_id": scene.scene_id,
            "sets": [
                lens_set_to_json(one) | ({"reason": reason} if reason else {})
                for one, reason in zip(sets, reasons, strict=True)
            ],
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
        if self._calibration.settings.lens_prior != "published":
            metadata["lens_prior"] = self._calibration.settings.lens_prior
        if self.settings.own:
            metadata["own_lens"] = self.settings.own
        if self._interpolator is not None:
            metadata["render_every"] = self.settings.render_every
            metadata["interpolator"] = engine_fields(self._interpolator)
            metadata["made_frames"] = sorted(plan.made)
            licences["interpolation"] = self._interpolator.info.licence
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
        scene: Scene, set_index: int, frame: int, label: bytes, picture: Picture, facts: dict[str, Any], work: Work
    ) -> None:
        png = encode_png(picture)
        work.journal.add(f"{set_index:02d}/{frame:04d}", facts)
        work.write(scene.focus_path(set_index, frame), label)
        work.write(scene.bokeh_path(set_index, frame), png)
        work.reporter.advance()

    def _result(self, entry: SceneEntry, sets: list[LensSet], plan: FramePlan, work: Work) -> Result:
        summary: dict[str, Any] = {"mean_focus": self._mean_focus(entry, work)}
        if self._interpolator is not None:
            sharp_db = sorted(plan.made.values())
            summary["made_frames"] = sorted(plan.made)
            summary["rendered_instead"] = list(plan.refused)
            summary["made_sharp_psnr_db"] = [sharp_db[0], float(np.median(sharp_db))] if sharp_db else []
        return Result(summary=summary, warnings=tuple(self._warn(entry, sets, work)))

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
    default = RenderSettings().num_sets
    parser.add_argument(
        "--num_sets", type=int, metavar="N", help=f"lens sets per scene; {default}, or 1 where the lens is all your own"
    )
    between = parser.add_argument_group("frames that are interpolated instead of rendered")
    between.add_argument(
        "--render_every", type=int, default=1, metavar="N", help="render every N-th frame, make the rest; 1 renders all"
    )
    between.add_argument(
        "--interpolator",
        default=RenderSettings().interpolator,
        metavar="NAME",
        help=f"{', '.join(engines_of('interpolate'))}; guided warps along the sharp frames, which are all there",
    )
    between.add_argument(
        "--interpolator_opt", action="append", default=[], metavar="NAME=VALUE", help="an option of it; repeatable"
    )
    between.add_argument(
        "--min_sharp_db",
        type=float,
        default=RenderSettings().min_sharp_db,
        metavar="DB",
        help="render a frame after all when its sharp picture is interpolated worse than this PSNR",
    )
    own = parser.add_argument_group("a lens of your own in place of drawn ones; what is not given is drawn")
    own.add_argument("--f_number", type=float, metavar="N", help="focal length over the opening's diameter, as 1.8")
    own.add_argument(
        "--focal_mm", type=float, metavar="MM", help="focal length, mm, for the calibration's sensor width"
    )
    own.add_argument("--focus", type=float, metavar="M", help="focus distance, metres")


def _settings(args: argparse.Namespace) -> RenderSettings:
    own = {"f_number": args.f_number, "focal_mm": args.focal_mm, "focus_m": args.focus}
    default = 1 if None not in own.values() else RenderSettings().num_sets
    return RenderSettings(
        num_sets=default if args.num_sets is None else args.num_sets,
        **own,
        render_every=args.render_every,
        interpolator=args.interpolator,
        interpolator_options=tuple(named_values(args.interpolator_opt, "--interpolator_opt").items()),
        min_sharp_db=args.min_sharp_db,
    )


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    engine = engine_from(args, "bokeh", BokehRenderer)
    calibration = confirmed_calibration(run, SceneIndex.load(run.index_path))
    settings, interpolator = _settings(args), None
    if settings.render_every > 1:
        options = dict(settings.interpolator_options)
        interpolator = load_engine("interpolate", settings.interpolator, options, args.device, Interpolator)
    return run_scenes(RenderPhase(settings, engine, calibration, interpolator), run)


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
