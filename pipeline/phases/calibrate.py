"""Phase 4: one max_coc for the dataset, from the depth statistics and the very lens draws that phase 5 will render.

The recommendation is the 95th percentile of the circle of confusion. An operator looks at it and confirms; phase 5 takes the
confirmed value, the seed, the lens model and the focus range from here, so the two cannot disagree.
"""

import getpass
import math
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.completion import Fields, as_stored, fingerprint, first_difference
from pipeline.errors import InputError, NotConfirmed, PipelineError, SceneError, StaleError, UsageError
from pipeline.files import read_json, write_json
from pipeline.optics import SENSOR_WIDTH_MM, CocModel, Lens, OpticsError, coc_diameter, draw_lens, stable_seed
from pipeline.phases.depth import read_depth
from pipeline.phases.upstream import require
from pipeline.report.histogram import draw_histogram
from pipeline.reporter import Reporter
from pipeline.runner import ExitCode, RunSettings, StopSignals
from pipeline.scene import Scene, SceneEntry, SceneIndex

VERSION = 1
SCHEMA = 1
SCENE_SHARE = 0.2
DRAWS = 8
FRAMES_PER_SCENE = 8
PIXELS_PER_FRAME = 4096
PERCENTILES = (50, 90, 95, 99)
HISTOGRAM_BINS = 60
FocusRange = Literal["robust", "full"]


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """What changes max_coc and the lens draws.

    Args:
        seed: the project's seed; lens draws and sampling follow it.
        focus_range: "robust" draws the focus between the 5th and 95th percentile of the depths below 100 m, "full"
            between the nearest and the farthest depth, sky included.
        coc_model: "contract" for generated data (docs/optics.md).
        sensor_width_mm: width of the sensor that the pictures are taken to come from.
    """

    seed: int = 0
    focus_range: FocusRange = "robust"
    coc_model: CocModel = "contract"
    sensor_width_mm: float = SENSOR_WIDTH_MM

    def __post_init__(self) -> None:
        if self.focus_range not in ("robust", "full"):
            raise UsageError(f"focus_range must be robust or full, got {self.focus_range!r}")
        if not (math.isfinite(self.sensor_width_mm) and self.sensor_width_mm > 0):
            raise UsageError(f"sensor_width_mm must be > 0 mm, got {self.sensor_width_mm}")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A confirmed calibration as phase 5 uses it."""

    settings: CalibrateSettings
    max_coc_m: float
    depth_fingerprints: dict[str, str]


def stats_path(out_root: Path) -> Path:
    return out_root / "coc_stats.json"


def histogram_path(out_root: Path) -> Path:
    return out_root / "report" / "coc_histogram.png"


def scene_lens(scene: Scene, statistics: dict[str, float], set_index: int, settings: CalibrateSettings) -> Lens:
    """The lens of one set of one scene: what phases 4 and 5 both call."""
    names = ("focus_near", "focus_far") if settings.focus_range == "robust" else ("d_min", "d_max")
    near_m, far_m = (statistics[name] for name in names)
    return draw_lens(
        scene.scene_id,
        set_index,
        near_m=near_m,
        far_m=far_m,
        project_seed=settings.seed,
        coc_model=settings.coc_model,
    )


def read_statistics(scene: Scene) -> dict[str, float]:
    """stats.json of a scene's depth.

    Raises:
        InputError: missing, damaged, or lacking a number.
    """
    try:
        stored = read_json(scene.stats_path, "the depth statistics")
        return {name: float(stored[name]) for name in ("d_min", "d_max", "focus_near", "focus_far")} | stored
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{scene.stats_path} is missing or incomplete ({error!r}); run phase 3 again") from None


def run_calibrate(settings: CalibrateSettings, run: RunSettings) -> ExitCode:
    """Measure and write coc_stats.json and the histogram; leave a confirmed calibration alone unless told otherwise.

    Raises:
        PipelineError: no scene has finished depth, or coc_stats.json is damaged or stale.
    """
    entries = run.chosen(SceneIndex.load(run.index_path))
    path = stats_path(run.out_root)
    with StopSignals() as signals, Reporter("calibrate", None if run.dry_run else run.logs) as reporter:
        ready, depths = _finished_depth(entries, run, reporter)
        fields = as_stored(
            {"phase": "calibrate", "version": VERSION, "settings": asdict(settings), "upstream": {"depth": depths}}
        )
        old = _read(path) if path.exists() and run.on_stale != "redo" else None
        if old is not None and _settled(old, fields, run, reporter, path):
            return ExitCode.DONE
        sampled = _sample_scenes(ready, settings.seed)
        if run.dry_run:
            reporter.info(f"calibrate: would sample {len(sampled)} of {len(ready)} scenes. Nothing was written")
            return ExitCode.DONE
        reporter.begin_progress("calibrate", len(sampled))
        values: list[npt.NDArray[np.float64]] = []
        summaries = {}
        for entry in sampled:
            if signals.received:
                reporter.info("calibrate: stopped; nothing was written. Run the same command to begin again.")
                return ExitCode.STOPPED
            scene = Scene(run.out_root, entry.scene_id)
            coc, summaries[entry.scene_id] = _measure(scene, entry, settings)
            values.append(coc)
            reporter.advance()
        reporter.end_progress()
        stats = _summarise(np.concatenate(values), summaries, settings, fields, len(ready))
        histogram_path(run.out_root).parent.mkdir(parents=True, exist_ok=True)
        draw_histogram(histogram_path(run.out_root), stats)
        write_json(path, stats)
        reporter.info(
            f"calibrate: {len(sampled)} of {len(ready)} scenes sampled, CoC p50 {stats['p50'] * 1e6:.0f} um, "
            f"p95 {stats['p95'] * 1e6:.0f} um, max {stats['max'] * 1e6:.0f} um. Look at {histogram_path(run.out_root)}, "
            f"then: python scripts/04_calibrate_coc.py --confirm"
        )
        return ExitCode.DONE


def _settled(old: dict[str, Any], fields: Fields, run: RunSettings, reporter: Reporter, path: Path) -> bool:
    difference = first_difference(old["fields"], fields)
    confirmed = old.get("confirmed_max_coc")
    if difference is None:
        state = f"confirmed at {confirmed * 1e6:.0f} um" if confirmed else "not confirmed yet"
        step = "scripts/05_render_and_labels.py" if confirmed else "scripts/04_calibrate_coc.py --confirm"
        reporter.info(f"calibrate: already done, {state}. Next: python {step}")
        return True
    if not confirmed:
        return False  # nobody relied on it yet
    name, before, after = difference
    if run.on_stale == "keep":
        reporter.warning(f"calibrate: kept although {name} changed: {before!r} -> {after!r}")
        return True
    raise StaleError(
        f"{path} was confirmed for other data or settings: {name} changed: {before!r} -> {after!r}; nothing was touched. "
        f"Choose with --on_stale: redo to measure again (the confirmation is dropped), keep to leave it"
    )


def _finished_depth(
    entries: list[SceneEntry], run: RunSettings, reporter: Reporter
) -> tuple[list[SceneEntry], dict[str, str]]:
    ready, depths = [], {}
    for entry in entries:
        try:
            depths[entry.scene_id] = require(Scene(run.out_root, entry.scene_id), entry, "depth").fingerprint
            ready.append(entry)
        except SceneError as error:
            reporter.warning(f"{entry.scene_id} is left out: {error}")
    if not ready:
        raise PipelineError("no scene has finished depth; run: python scripts/03_depth.py")
    return ready, depths


def _sample_scenes(entries: list[SceneEntry], seed: int) -> list[SceneEntry]:
    rng = np.random.default_rng(stable_seed("calibration scenes", seed))
    count = max(1, round(SCENE_SHARE * len(entries)))
    chosen = rng.permutation(len(entries))[:count]
    return [entries[number] for number in sorted(chosen)]


def _measure(
    scene: Scene, entry: SceneEntry, settings: CalibrateSettings
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """CoC diameters in metres of DRAWS lenses over sampled pixels of sampled frames, and a summary of the scene."""
    rng = np.random.default_rng(stable_seed("calibration pixels", scene.scene_id, settings.seed))
    frames = np.unique(np.linspace(0, entry.num_frames - 1, FRAMES_PER_SCENE).round().astype(int))
    samples = []
    for frame in frames:
        pixels = read_depth(scene.depth_path(int(frame))).ravel()
        samples.append(pixels[rng.integers(0, pixels.size, min(PIXELS_PER_FRAME, pixels.size))])
    depth = torch.from_numpy(np.concatenate(samples).astype(np.float64))
    statistics = read_statistics(scene)
    try:
        lenses = [scene_lens(scene, statistics, draw, settings) for draw in range(DRAWS)]
        coc = torch.stack([coc_diameter(depth, lens) for lens in lenses]).numpy()
    except OpticsError as error:
        raise InputError(f"{scene.scene_id}: {error}") from None
    summary = {
        "p50": float(np.percentile(coc, 50)),
        "p95": float(np.percentile(coc, 95)),
        "max": float(coc.max()),
        "pixels": int(depth.numel()),
        "frames": len(frames),
        "lenses": [{"f": lens.f_m, "N": lens.f_number, "S_focus": lens.focus_m} for lens in lenses],
    }
    return coc.ravel(), summary


def _summarise(
    coc: npt.NDArray[np.float64],
    summaries: dict[str, Any],
    settings: CalibrateSettings,
    fields: Fields,
    num_ready: int,
) -> dict[str, Any]:
    percentiles = {f"p{percent}": float(np.percentile(coc, percent)) for percent in PERCENTILES}
    if percentiles["p95"] <= 0:
        raise PipelineError("every sampled circle of confusion is 0: the depth is one constant plane; check phase 3")
    counts, edges = np.histogram(coc, bins=HISTOGRAM_BINS, range=(0.0, float(np.percentile(coc, 99.5))))
    return {
        "schema": SCHEMA,
        **percentiles,
        "max": float(coc.max()),
        "recommended_max_coc": percentiles["p95"],
        "confirmed_max_coc": None,
        "unit": "metres on the sensor, diameter",
        "counts": {
            "scenes_with_depth": num_ready,
            "scenes_sampled": len(summaries),
            "lens_draws_per_scene": DRAWS,
            "samples": int(coc.size),
        },
        "seed": settings.seed,
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
        "scenes": summaries,
        "fields": fields,
        "fingerprint": fingerprint(fields),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        stats = read_json(path, "the calibration")
        numbers = [stats[name] for name in ("p50", "p95", "max", "recommended_max_coc")]
        confirmed = stats["confirmed_max_coc"]
        if stats["schema"] != SCHEMA or fingerprint(stats["fields"]) != stats["fingerprint"]:
            raise InputError(f"the calibration {path} has another schema, or a fingerprint that is not its fields'")
        if not all(math.isfinite(number) and number > 0 for number in numbers + ([confirmed] if confirmed else [])):
            raise InputError(f"the calibration {path} holds a CoC that is not > 0")
        CalibrateSettings(**stats["fields"]["settings"])
    except (InputError, KeyError, TypeError) as error:
        reason = error if isinstance(error, InputError) else f"the calibration {path} lacks or garbles {error}"
        raise PipelineError(
            f"{reason}; make it anew with: python scripts/04_calibrate_coc.py --on_stale redo"
        ) from None
    return stats


def confirm(value_m: float | None, run: RunSettings, keep_confirmed: bool = False) -> ExitCode:
    """Record max_coc with who and when.

    Args:
        value_m: metres; None takes the recommendation.
        run: where the calibration is.
        keep_confirmed: leave a value that was confirmed before.

    Raises:
        PipelineError: there is no calibration yet, or it is damaged.
        UsageError: the value is not a plausible CoC.
    """
    path = stats_path(run.out_root)
    if not path.exists():
        raise PipelineError(f"there is no {path} to confirm; run: python scripts/04_calibrate_coc.py")
    stats = _read(path)
    if keep_confirmed and stats["confirmed_max_coc"]:
        print(f"calibrate: already confirmed at {stats['confirmed_max_coc'] * 1e6:.1f} um")
        return ExitCode.DONE
    value = stats["recommended_max_coc"] if value_m is None else value_m
    with Reporter("calibrate", None if run.dry_run else run.logs) as reporter:
        if not (math.isfinite(value) and 0 < value < 0.05):
            raise UsageError(
                f"--confirm takes a diameter on the sensor in metres (or 350um, 0.35mm), above 0 and below 50 mm, got {value}"
            )
        if value > stats["max"]:
            reporter.warning(f"{value * 1e6:.0f} um is above the largest sampled CoC ({stats['max'] * 1e6:.0f} um)")
        if run.dry_run:
            reporter.info(f"calibrate: would confirm {value * 1e6:.1f} um. Nothing was written")
            return ExitCode.DONE
        stats["confirmed_max_coc"] = value
        stats["confirmed"] = {
            "by": f"{_user()}@{socket.gethostname()}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "took_recommendation": value_m is None,
        }
        write_json(path, stats)
        reporter.info(
            f"calibrate: max_coc {value * 1e6:.1f} um confirmed. Next: python scripts/05_render_and_labels.py"
        )
    return ExitCode.DONE


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def confirmed_calibration(run: RunSettings, index: SceneIndex) -> Calibration:
    """The calibration that phase 5 renders with.

    Raises:
        NotConfirmed: nobody confirmed it, or the depth it was taken from is no longer what it was.
    """
    path = stats_path(run.out_root)
    if not path.exists():
        raise NotConfirmed(f"there is no {path}; run: python scripts/04_calibrate_coc.py")
    stats = _read(path)
    if not stats["confirmed_max_coc"]:
        um = {name: f"{stats[name] * 1e6:.0f}" for name in ("p50", "p90", "p95", "p99", "max")}
        raise NotConfirmed(
            f"max_coc is not confirmed. Circle of confusion in um: p50 {um['p50']}, p90 {um['p90']}, p95 {um['p95']} "
            f"(recommended), p99 {um['p99']}, max {um['max']}. Look at {histogram_path(run.out_root)}, then run: "
            f"python scripts/04_calibrate_coc.py --confirm"
        )
    recorded: dict[str, str] = stats["fields"]["upstream"]["depth"]
    for scene_id, depth in recorded.items():
        entry = index.accepted.get(scene_id)
        if entry is None:
            continue  # taken out of the dataset; its statistics were good
        try:
            current = require(Scene(run.out_root, scene_id), entry, "depth").fingerprint
        except SceneError as error:
            raise NotConfirmed(f"the depth of {scene_id} changed after max_coc was confirmed: {error}") from None
        if current != depth:
            raise NotConfirmed(
                f"the depth of {scene_id} changed after max_coc was confirmed ({depth} -> {current}); run: "
                f"python scripts/04_calibrate_coc.py --on_stale redo, look at the numbers, and --confirm again"
            )
    return Calibration(
        settings=CalibrateSettings(**stats["fields"]["settings"]),
        max_coc_m=float(stats["confirmed_max_coc"]),
        depth_fingerprints=recorded,
    )
