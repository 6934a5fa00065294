"""Phase 3: metric depth for every sharp frame, chunked and crossfaded for engines that look at several frames at once.

A first pass stores what the engine knows, with NaN where it knows nothing; exact scene statistics come from one table of all
float16 values; a second pass fills the unknown with the scene's median. `.done` comes after the second pass.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import Clip, DepthEstimator, StreamingDepth
from pipeline.engines.flags import engine_from
from pipeline.engines.info import EngineInfo
from pipeline.errors import ExitCode, InputError, SceneError, UsageError
from pipeline.hints import phase_command
from pipeline.media.delivered_depth import find_delivered_depth
from pipeline.media.depth_files import Depth, encode_npz, read_depth, resize_depth
from pipeline.media.images import multiple_of_16, read_sharp
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
from pipeline.phases.dependencies import check_raw, require
from pipeline.phases.registry import Phase, Presenter
from pipeline.phases.runner import run_scenes
from pipeline.phases.temporal import crossfade_chunks
from pipeline.run_settings import RunSettings
from pipeline.storage.completion import Fields
from pipeline.storage.files import dump_json
from pipeline.storage.scene import DEPTH_OUTPUTS, Scene, SceneEntry

VERSION = 1
MIN_DEPTH_M, MAX_DEPTH_M = 0.01, 1000.0  # beyond is sky: as good as infinity for these lenses
ROBUST_FAR_M = 100.0  # the focus range looks only at what is nearer; see focus_range
MEDIAN_RANGE_M = (0.5, 50.0)  # a scene median outside is probably a wrong scale
MEDIAN_JUMP = 0.15
DEFAULT_CHUNK = 256
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """How a scene is cut for engines that look at several frames at once.

    Args:
        chunk: frames an engine sees at once; None is the whole scene for engines that stream, and 256 for others.
        overlap: frames that consecutive chunks share and blend.
    """

    chunk: int | None = None
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise UsageError(f"chunk must be at least 1 frame, got {self.chunk}")
        if not 0 <= self.overlap <= self.chunk_frames // 2:
            raise UsageError(f"overlap must be in [0, chunk / 2 = {self.chunk_frames // 2}] frames, got {self.overlap}")

    @property
    def chunk_frames(self) -> int:
        return DEFAULT_CHUNK if self.chunk is None else self.chunk


class DepthPhase(ScenePhase):
    """depth_maps/ from frames_sharp/."""

    name = "depth"

    def __init__(self, settings: DepthSettings, engine: DepthEstimator, run: RunSettings) -> None:
        self.settings, self._engine, self._run = settings, engine, run

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def fields(self, scene: Scene, entry: SceneEntry) -> Fields:
        upstream = {"deblur": require(scene, entry, "deblur").fingerprint}
        if self.info.name == "given":
            upstream["delivered_depth"] = entry.depth_hash
        return {
            "phase": self.name,
            "version": VERSION,
            "engine": engine_fields(self._engine),
            "settings": self._settings_fields(),
            "upstream": upstream,
        }

    @property
    def _streams(self) -> bool:
        return self.settings.chunk is None and isinstance(self._engine, StreamingDepth)

    def _settings_fields(self) -> Fields:
        if self._streams:
            return {"chunk": "whole scene"}
        return {"chunk": self.settings.chunk_frames, "overlap": self.settings.overlap} if self._engine.temporal else {}

    def ready(self, scene: Scene, entry: SceneEntry) -> None:
        if self.info.name == "given":
            check_raw(self._run.raw_root, entry)
            if entry.depth_kind is None:
                raise InputError(
                    f"engine 'given' needs depth/ or disparity/ beside the frames, and {self._run.raw_root / entry.source} "
                    f"has none; choose another depth engine, or add it and run: {phase_command('index')}"
                )

    def run(self, scene: Scene, entry: SceneEntry, work: Work) -> Result:
        missing = [number for number in ordered_missing(self.outputs(scene, entry)) if number < entry.num_frames]
        work.reporter.begin_progress(f"depth {scene.scene_id}", entry.num_frames, entry.num_frames - len(missing))
        with WriteBehind() as writer:
            for frame, depth in self._estimate(scene, entry, work, set(missing)):
                writer.submit(partial(self._write, scene, frame, depth, work))
        if "statistics" not in work.journal.facts:  # once: the second pass changes the maps they are taken from
            work.journal.add("statistics", self._statistics(scene, entry, work))
        statistics = work.journal.facts["statistics"]
        filled = self._fill(scene, entry, work, statistics["d_median"])
        work.write_if_changed(scene.stats_path, dump_json(statistics).encode())
        return Result(
            summary=statistics,
            repairs=filled,
            warnings=tuple(self._warnings(entry, work, statistics, filled)),
        )

    def _estimate(self, scene: Scene, entry: SceneEntry, work: Work, missing: set[int]) -> Iterator[tuple[int, Depth]]:
        if not missing:
            return
        size = multiple_of_16((entry.width, entry.height))
        delivered = self._delivered(entry, size)

        def clip(frames: range) -> Clip:
            return Clip(
                frames, lambda frame: read_sharp(scene.sharp_path(frame)), delivered, (entry.width, entry.height)
            )

        def warn(text: str) -> None:
            work.reporter.warning(f"{scene.scene_id}: {text}")

        def estimate(frames: range) -> npt.NDArray[np.float32]:
            engine = self._engine
            maps = retry_on_oom(engine, lambda: engine.estimate(clip(frames), work.safe_point), warn)
            self._check_shape(maps.shape, (len(frames), size[1], size[0]))
            return maps

        if self._streams:
            for frame, depth in self._streamed(clip(range(entry.num_frames)), work, warn, min(missing), max(missing)):
                self._check_shape(depth.shape, (size[1], size[0]))
                if frame in missing:
                    yield frame, depth
            return
        chunk, overlap = (self.settings.chunk_frames, self.settings.overlap) if self._engine.temporal else (1, 0)
        for frame, depth in crossfade_chunks(entry.num_frames, estimate, chunk=chunk, overlap=overlap, wanted=missing):
            work.safe_point()
            yield frame, depth

    def _check_shape(self, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if shape != expected:
            raise SceneError(f"engine {self.info.name!r} returned depth of shape {shape}, needs {expected}")

    def _streamed(
        self, clip: Clip, work: Work, warn: Callable[[str], None], first: int, last: int
    ) -> Iterator[tuple[int, Depth]]:
        """Frames `first` to `last` of the scene as one video; after an out-of-memory error it goes on with less."""
        engine = self._engine
        assert isinstance(engine, StreamingDepth), "asked for only where it is"
        while first <= last:
            try:
                with closing(engine.stream(clip, work.safe_point, first)) as maps:  # type: ignore[type-var]  # a generator
                    for depth in maps:
                        work.safe_point()
                        yield first, depth
                        first += 1
                        if first > last:
                            return
            except Exception as error:
                if not is_out_of_memory(error) or not engine.shrink():
                    raise
                warn(f"out of memory ({error}); trying again with less")

    def _delivered(self, entry: SceneEntry, size: tuple[int, int]) -> Callable[[int], Depth] | None:
        """Reads the depth delivered for a frame, resized with it; None where there is none to read."""
        found = None
        if self.info.name == "given":
            found = find_delivered_depth(self._run.raw_root / entry.source, entry.num_frames)
        if found is None:
            return None

        def read(frame: int) -> Depth:
            return resize_depth(found.read_fitting(frame, (entry.width, entry.height)), size)

        return read

    @staticmethod
    def _write(scene: Scene, frame: int, depth: Depth, work: Work) -> None:
        stored = to_stored(depth)
        known = stored[~np.isnan(stored)]
        median = float(np.median(known.astype(np.float32))) if known.size else None
        data = encode_npz("depth", stored)
        work.journal.add(f"{frame:04d}", {"missing": int(stored.size - known.size), "median": median})
        work.write(scene.depth_path(frame), data)
        work.reporter.advance()

    @staticmethod
    def _statistics(scene: Scene, entry: SceneEntry, work: Work) -> dict[str, float]:
        counts = np.zeros(65536, np.int64)
        for frame in range(entry.num_frames):
            work.safe_point()
            counts += count_values(read_depth(scene.depth_path(frame)))
        if not counts.any():
            raise SceneError(
                "no frame has a single valid depth value (finite and > 0); nothing can be filled in from it"
            )
        return statistics_of(counts)

    @staticmethod
    def _fill(scene: Scene, entry: SceneEntry, work: Work, median: float) -> int:
        """Write the median where depth is unknown; returns how many pixels of how many frames."""
        filled = 0
        for frame in range(entry.num_frames):
            unknown = int(work.journal.facts.get(f"{frame:04d}", {}).get("missing", 0))
            if not unknown:
                continue
            work.safe_point()
            filled += unknown
            depth = read_depth(scene.depth_path(frame))
            if np.isnan(depth).any():
                path = scene.depth_path(frame)
                work.write(path, encode_npz("depth", np.where(np.isnan(depth), np.float16(median), depth)))
        return filled

    @staticmethod
    def _warnings(entry: SceneEntry, work: Work, statistics: dict[str, float], filled: int) -> Iterator[str]:
        median = statistics["d_median"]
        if not MEDIAN_RANGE_M[0] <= median <= MEDIAN_RANGE_M[1]:
            yield f"median depth is {median:.2f} m, outside {MEDIAN_RANGE_M[0]} to {MEDIAN_RANGE_M[1]:.0f} m: is it metric?"
        if filled:
            yield f"{filled} pixels without valid depth were set to the scene median, {median:.2f} m"
        facts = work.journal.facts
        medians = [facts.get(f"{frame:04d}", {}).get("median") or np.nan for frame in range(entry.num_frames)]
        jumps = [
            frame
            for frame, (before, now) in enumerate(itertools.pairwise(medians), start=1)
            if abs(now / before - 1) > MEDIAN_JUMP  # NaN, a frame without valid depth, compares as no jump
        ]
        if jumps:
            shown = ", ".join(str(frame) for frame in jumps[:8]) + (" ..." if len(jumps) > 8 else "")
            yield f"median depth jumps by more than 15 % at {len(jumps)} frames: {shown}"


def to_stored(depth_m: Depth) -> npt.NDArray[np.float16]:
    """Clamp to [0.01, 1000] m and narrow to float16; +inf is far, so 1000; NaN and values <= 0 become NaN."""
    known = depth_m > 0
    return np.where(known, np.clip(depth_m, MIN_DEPTH_M, MAX_DEPTH_M), np.nan).astype(np.float16)


def count_values(depth: npt.NDArray[np.float16]) -> Counts:
    """How often each of the 65,536 float16 bit patterns occurs, NaN excluded.

    Positive float16 values sort like their bit patterns, so percentiles of any number of frames are exact and need no
    second look at the pixels.
    """
    counts: Counts = np.bincount(np.ascontiguousarray(depth).view(np.uint16).ravel(), minlength=65536).astype(np.int64)
    counts[np.isnan(np.arange(65536, dtype=np.uint16).view(np.float16))] = 0
    return counts


def table_percentile(counts: Counts, percent: float) -> float:
    """The percentile of the counted values, linearly interpolated as numpy does it, in metres."""
    cumulative = np.cumsum(counts)
    position = percent / 100 * (int(cumulative[-1]) - 1)
    below = int(np.floor(position))
    patterns = np.searchsorted(cumulative, [below + 1, min(below + 2, int(cumulative[-1]))]).astype(np.uint16)
    low, high = (float(value) for value in patterns.view(np.float16))
    return low + (position - below) * (high - low)


def statistics_of(counts: Counts) -> dict[str, float]:
    """stats.json: d_* over all valid depth, focus_near and focus_far over what is nearer than 100 m (docs/optics.md)."""
    far_pattern = int(np.float16(ROBUST_FAR_M).view(np.uint16))
    nearby = counts.copy()
    nearby[far_pattern:] = 0
    focus = nearby if nearby.any() else counts  # a scene with nothing nearer than 100 m: its whole range
    return {
        "d_min": table_percentile(counts, 0),
        "d_max": table_percentile(counts, 100),
        "d_median": table_percentile(counts, 50),
        "d_p5": table_percentile(counts, 5),
        "d_p95": table_percentile(counts, 95),
        "focus_near": table_percentile(focus, 5),
        "focus_far": table_percentile(focus, 95),
    }


def _add_flags(parser: argparse.ArgumentParser) -> None:
    default = DepthSettings()
    parser.add_argument(
        "--chunk",
        type=int,
        default=default.chunk,
        help="frames that an engine sees at once (default: the whole scene for vda, which streams; 256 for others)",
    )
    parser.add_argument(
        "--overlap", type=int, default=default.overlap, help="frames that consecutive chunks share and blend"
    )


def _settings(args: argparse.Namespace) -> DepthSettings:
    return DepthSettings(chunk=args.chunk, overlap=args.overlap)


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    return run_scenes(DepthPhase(_settings(args), engine_from(args, "depth", DepthEstimator), run), run)


PHASES = (
    Phase(
        name="depth",
        number=3,
        script="scripts/03_depth.py",
        help="metric depth for every sharp frame",
        groups=("1-4", "test"),
        outputs=DEPTH_OUTPUTS,
        title="depth",
        role="depth",
        resources="depth",
        default_engine="given",
        add_flags=_add_flags,
        settings=_settings,
        run=_run,
    ),
)
