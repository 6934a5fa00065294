"""Phase 2: sharpen every frame once and average over time along the raw frames' optical flow."""

import argparse
import csv
import io
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from pipeline.engines.base import Deblurrer
from pipeline.engines.flags import engine_from
from pipeline.engines.info import EngineInfo
from pipeline.errors import ExitCode, InputError, UsageError
from pipeline.measures import psnr
from pipeline.media.flow import Flow, flow_pair
from pipeline.media.images import Picture, encode_png, multiple_of_16, read_sharp, resize_picture
from pipeline.media.prefetch import WriteBehind
from pipeline.phases.base import (
    Result,
    ScenePhase,
    Work,
    engine_fields,
    is_out_of_memory,
    ordered_missing,
    retry_on_oom,
)
from pipeline.phases.dependencies import check_raw, open_raw
from pipeline.phases.registry import Phase, Presenter
from pipeline.phases.runner import run_scenes
from pipeline.phases.temporal import (
    STRIDE,
    WINDOW,
    average_aligned,
    flicker,
    gradient_energy,
    shared_windows,
    window_starts,
    windows_of,
)
from pipeline.run_settings import RunSettings
from pipeline.seeds import stable_seed
from pipeline.storage.completion import DoneRecord, Fields
from pipeline.storage.files import write_shared
from pipeline.storage.scene import SHARP_OUTPUTS, Scene, SceneEntry, scene_folders

VERSION = 1
Temporal = Literal["flow", "resample", "none"]
PSNR_COLUMNS = ("scene", "frame", "psnr_db")


@dataclass(frozen=True, kw_only=True)
class DeblurSettings:
    """What changes the sharp frames.

    Args:
        temporal: "flow" warps neighbours' outputs onto each frame; "resample" deblurs each frame once per window with the
            window's own noise and needs an engine that draws noise; "none" is plain per-frame.
        reach: how many frames to each side "flow" looks.
        window, stride: the windows; neighbours weigh as many windows as they share.
        seed: the project's seed.
    """

    temporal: Temporal = "flow"
    reach: int = 2
    window: int = WINDOW
    stride: int = STRIDE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temporal not in ("flow", "resample", "none"):
            raise UsageError(f"temporal must be flow, resample or none, got {self.temporal!r}")
        if not 1 <= self.reach < self.window:
            raise UsageError(f"reach must be in [1, window - 1 = {self.window - 1}], got {self.reach}")
        if not 1 <= self.stride <= self.window:
            raise UsageError(f"stride must be in [1, window = {self.window}], got {self.stride}")


def check_engine(settings: DeblurSettings, info: EngineInfo) -> None:
    """Refuse to average noise draws of an engine that draws none (UsageError)."""
    if settings.temporal == "resample" and info.deterministic:
        raise UsageError(
            f"--temporal resample averages several noise draws, and engine {info.name!r} draws none: its average "
            f"would be the identity; use --temporal flow"
        )


class DeblurPhase(ScenePhase):
    """frames_sharp/ from raw frames."""

    name = "deblur"

    def __init__(self, settings: DeblurSettings, engine: Deblurrer, run: RunSettings) -> None:
        check_engine(settings, engine.info)
        self.settings, self._engine, self._run = settings, engine, run

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def fields(self, scene: Scene, entry: SceneEntry) -> Fields:
        check_raw(self._run.raw_root, entry, may_be_gone=True)
        used = asdict(self.settings)
        if self.settings.temporal == "none":
            used = {"temporal": "none", "seed": self.settings.seed}
        if self._engine.info.deterministic:
            used.pop("seed")
        return {
            "phase": self.name,
            "version": VERSION,
            "engine": engine_fields(self._engine),
            "settings": used,
            "upstream": {"source": entry.content_hash},
        }

    def ready(self, scene: Scene, entry: SceneEntry) -> None:
        check_raw(self._run.raw_root, entry)

    def run(self, scene: Scene, entry: SceneEntry, work: Work) -> Result:
        missing = ordered_missing(self.outputs(scene, entry))
        work.reporter.begin_progress(f"deblur {scene.scene_id}", entry.num_frames, entry.num_frames - len(missing))
        with WriteBehind() as writer:
            for frame, picture, facts in SceneDeblur(self, scene, entry, work).frames(missing):
                writer.submit(partial(self._write, scene, frame, picture, facts, work))
        return self._result(entry, work)

    @staticmethod
    def _write(scene: Scene, frame: int, picture: Picture, facts: dict[str, Any], work: Work) -> None:
        data = encode_png(picture)
        work.journal.add(f"{frame:04d}", facts)
        work.write(scene.sharp_path(frame), data)
        work.reporter.advance()

    def _result(self, entry: SceneEntry, work: Work) -> Result:
        facts = [work.journal.facts.get(f"{frame:04d}", {}) for frame in range(entry.num_frames)]
        summary = {
            name: _mean([fact[name] for fact in facts if fact.get(name) is not None])
            for name in ("psnr_db", "flicker_raw", "flicker_frame", "flicker_output", "detail_frame", "detail_output")
        }
        fallbacks = sum(bool(fact.get("fallback")) for fact in facts)
        warnings = []
        if fallbacks:
            warnings.append(f"{fallbacks} frames ran out of memory and are the raw frames, unsharpened")
        if self.settings.temporal != "none" and summary["flicker_frame"]:
            if not (summary["flicker_output"] or 0) < summary["flicker_frame"]:
                warnings.append("averaging over time did not reduce flicker")
            if (summary["detail_output"] or 0) < 0.95 * (summary["detail_frame"] or 0):
                warnings.append("averaging over time cost more than 5 % of the gradient energy")
        per_frame = [fact.get("psnr_db") for fact in facts]
        return Result(summary=summary | {"psnr_db_per_frame": per_frame}, fallbacks=fallbacks, warnings=tuple(warnings))

    def after(self) -> None:
        merge_psnr(self._run)


def _mean(values: list[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None


def psnr_db(first: Picture, second: Picture) -> float:
    """PSNR of two uint8 images for logs and records: rounded, and 100 dB when they are equal."""
    value = psnr(first, second, peak=255)
    return round(value, 3) if math.isfinite(value) else 100.0


class SceneDeblur:
    """One scene on its way through the engine, holding a few frames to each side of the one in hand."""

    def __init__(self, phase: DeblurPhase, scene: Scene, entry: SceneEntry, work: Work) -> None:
        self._settings, self._engine = phase.settings, phase._engine
        self._scene, self._entry, self._work = scene, entry, work
        self._source = open_raw(phase._run.raw_root, entry)
        self._size = multiple_of_16((entry.width, entry.height))
        self._starts = window_starts(entry.num_frames, self._settings.window, self._settings.stride)
        self._raw: dict[int, Picture] = {}
        self._own: dict[int, Picture] = {}
        self._output: dict[int, Picture] = {}
        self._fallback: set[int] = set()
        self._flows: dict[tuple[int, int], Future[tuple[Flow, Flow]]] = {}

    def frames(self, missing: list[int]) -> Iterator[tuple[int, Picture, dict[str, Any]]]:
        """Yield (frame, output, facts) for every missing frame, ascending.

        After an interruption the engine runs again on up to `reach` finished frames on each side of a gap, whose outputs
        the frames in the gap need; the finished frames themselves are left alone.
        """
        reach = self._settings.reach if self._settings.temporal == "flow" else 1
        last = self._entry.num_frames - 1
        wanted = set(missing)
        near = {other for frame in missing for other in range(max(0, frame - reach), min(last, frame + reach) + 1)}
        decoded = self._source.decode(sorted(near))
        with ThreadPoolExecutor(2, thread_name_prefix="flow") as pool:
            for frame in sorted(near):
                index, picture, _ = next(decoded)
                assert index == frame, "the source yields the wanted frames in order"
                self._work.safe_point()
                self._take_in(frame, picture, reach, pool)
                for ready in sorted(wanted):
                    if min(ready + reach, last) > frame:
                        break
                    wanted.discard(ready)
                    yield self._make(ready, reach, last)
                self._forget(frame - 2 * reach - 1)

    def _take_in(self, frame: int, picture: Picture, reach: int, pool: ThreadPoolExecutor) -> None:
        self._raw[frame] = resize_picture(picture, self._size)
        for other in range(max(0, frame - reach), frame):
            if other in self._raw:
                self._flows[other, frame] = pool.submit(flow_pair, self._raw[other], self._raw[frame])
        self._own[frame] = self._sharpen(frame)

    def _sharpen(self, frame: int) -> Picture:
        scene_id, seed = self._scene.scene_id, self._settings.seed
        if self._settings.temporal == "resample":
            draws = [
                self._infer(frame, stable_seed("deblur", scene_id, seed, window)).astype(np.float64)
                for window in windows_of(frame, self._starts, self._settings.window)
            ]
            return np.rint(np.mean(draws, axis=0)).astype(np.uint8)
        return self._infer(frame, stable_seed("deblur", scene_id, seed))

    def _infer(self, frame: int, seed: int) -> Picture:
        raw, safe_point = self._raw[frame], self._work.safe_point

        def warn(text: str) -> None:
            self._work.reporter.warning(f"{self._scene.scene_id} frame {frame}: {text}")

        try:
            return retry_on_oom(self._engine, lambda: self._engine.deblur(raw, seed, safe_point), warn)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            warn(f"out of memory ({error}); the raw frame takes its place")
            self._fallback.add(frame)
            return raw

    def _flow(self, start: int, end: int) -> Flow:
        pair = self._flows[min(start, end), max(start, end)].result()
        return pair[0] if start < end else pair[1]

    def _make(self, frame: int, reach: int, last: int) -> tuple[int, Picture, dict[str, Any]]:
        settings = self._settings
        output = own = self._own[frame]
        if settings.temporal == "flow":
            neighbours = []
            for other in range(max(0, frame - reach), min(last, frame + reach) + 1):
                weight = shared_windows(frame, other, self._starts, settings.window)
                if other != frame and weight:
                    neighbours.append((self._own[other], self._flow(frame, other), float(weight)))
            own_weight = float(shared_windows(frame, frame, self._starts, settings.window))
            output = average_aligned(own, own_weight, neighbours)
        self._output[frame] = output
        facts: dict[str, Any] = {
            "psnr_db": psnr_db(output, self._raw[frame]),
            "detail_frame": gradient_energy(own),
            "detail_output": gradient_energy(output),
        }
        if frame in self._fallback:
            facts["fallback"] = True
        if frame > 0:
            back = self._flow(frame, frame - 1)
            facts["flicker_raw"] = flicker(self._raw[frame], self._raw[frame - 1], back)
            facts["flicker_frame"] = flicker(own, self._own[frame - 1], back)
            facts["flicker_output"] = facts["flicker_frame"]
            if settings.temporal == "flow":
                facts["flicker_output"] = flicker(output, self._previous_output(frame - 1), back)
        return frame, output, facts

    def _previous_output(self, frame: int) -> Picture:
        if frame not in self._output:  # finished before an interruption
            self._output[frame] = read_sharp(self._scene.sharp_path(frame))
        return self._output[frame]

    def _forget(self, upto: int) -> None:
        for held in (self._raw, self._own, self._output):
            for frame in [frame for frame in held if frame <= upto]:
                del held[frame]
        for pair in [pair for pair in self._flows if pair[0] <= upto]:
            del self._flows[pair]


def merge_psnr(settings: RunSettings) -> None:
    """`<logs>/deblur_psnr.csv` from the scenes' done records.

    Array tasks run at once: each merges what is finished, atomically, and whoever ends last has everything.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(PSNR_COLUMNS)
    for scene in scene_folders(settings.out_root):
        try:
            record = DoneRecord.read(scene.sharp_dir)
        except InputError:
            continue
        for frame, value in enumerate(record.summary.get("psnr_db_per_frame", []) if record else []):
            table.writerow((scene.scene_id, frame, value))
    settings.logs.mkdir(parents=True, exist_ok=True)
    write_shared(settings.logs / "deblur_psnr.csv", text.getvalue().encode())


def _add_flags(parser: argparse.ArgumentParser) -> None:
    default = DeblurSettings()
    parser.add_argument(
        "--temporal", choices=("flow", "resample"), default=default.temporal, help="how outputs are averaged"
    )
    parser.add_argument("--no_temporal_avg", action="store_true", help="plain per-frame output")
    parser.add_argument(
        "--reach", type=int, default=default.reach, help="frames to each side that flow averaging looks"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="project seed of the engine's noise")


def _settings(args: argparse.Namespace) -> DeblurSettings:
    return DeblurSettings(temporal="none" if args.no_temporal_avg else args.temporal, reach=args.reach, seed=args.seed)


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    return run_scenes(DeblurPhase(_settings(args), engine_from(args, "deblur", Deblurrer), run), run)


PHASES = (
    Phase(
        name="deblur",
        number=2,
        script="scripts/02_deblur.py",
        help="sharpen every frame and average over time",
        groups=("1-4", "test"),
        outputs=SHARP_OUTPUTS,
        title="sharp frames",
        role="deblur",
        resources="deblur",
        default_engine="wiener",
        add_flags=_add_flags,
        settings=_settings,
        check=check_engine,
        run=_run,
    ),
)
