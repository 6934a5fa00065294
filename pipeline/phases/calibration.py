"""The calibration as a file: settings, confirmation, and what phase 5 takes from it. `calibrate` measures it.

Phase 5 takes the confirmed value, the seed, the lens model and the focus range from here, so the two phases cannot disagree.
"""

import getpass
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ExitCode, InputError, NotConfirmedError, PipelineError, SceneError, UsageError
from pipeline.hints import phase_command
from pipeline.optics.lens import SENSOR_WIDTH_MM, CocModel, Lens
from pipeline.optics.sampling import draw_lens
from pipeline.phases.dependencies import require
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.storage.bounded import one_line
from pipeline.storage.completion import fingerprint
from pipeline.storage.files import dump_json, read_json, write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene, SceneIndex, calibration_path, histogram_path

SCHEMA = 1
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
    except Exception as error:
        raise InputError(
            f"{scene.stats_path} is missing or incomplete ({one_line(error)}); run phase 3 again"
        ) from None


def read_calibration(path: Path) -> dict[str, Any]:
    """The content of coc_stats.json.

    Raises:
        PipelineError: it is damaged; the message names the command that makes it anew.
    """
    try:
        stats = read_json(path, "the calibration")
        numbers = [stats[name] for name in ("p50", "p95", "max", "recommended_max_coc")]
        confirmed = stats["confirmed_max_coc"]
        if stats["schema"] != SCHEMA or fingerprint(stats["fields"]) != stats["fingerprint"]:
            raise InputError(f"the calibration {path} has another schema, or a fingerprint that is not its fields'")
        if not all(math.isfinite(number) and number > 0 for number in numbers + ([confirmed] if confirmed else [])):
            raise InputError(f"the calibration {path} holds a CoC that is not > 0")
        CalibrateSettings(**stats["fields"]["settings"])
    except Exception as error:
        reason = (
            error if isinstance(error, InputError) else f"the calibration {path} lacks or garbles {one_line(error)}"
        )
        raise PipelineError(
            f"{reason}; make it anew with: {phase_command('calibrate', '--on_stale', 'redo')}"
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
    path = calibration_path(run.out_root)
    refuse_links(run.out_root, [path])
    if not path.exists():
        raise PipelineError(f"there is no {path} to confirm; run: {phase_command('calibrate')}")
    stats = read_calibration(path)
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
        write_shared(path, dump_json(stats).encode())
        reporter.info(f"calibrate: max_coc {value * 1e6:.1f} um confirmed. Next: {phase_command('render')}")
    return ExitCode.DONE


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def confirmed_calibration(run: RunSettings, index: SceneIndex) -> Calibration:
    """The calibration that phase 5 renders with.

    Raises:
        NotConfirmedError: nobody confirmed it, or the depth it was taken from is no longer what it was.
    """
    path = calibration_path(run.out_root)
    if not path.exists():
        raise NotConfirmedError(f"there is no {path}; run: {phase_command('calibrate')}")
    stats = read_calibration(path)
    if not stats["confirmed_max_coc"]:
        um = {name: f"{stats[name] * 1e6:.0f}" for name in ("p50", "p90", "p95", "p99", "max")}
        raise NotConfirmedError(
            f"max_coc is not confirmed. Circle of confusion in um: p50 {um['p50']}, p90 {um['p90']}, p95 {um['p95']} "
            f"(recommended), p99 {um['p99']}, max {um['max']}. Look at {histogram_path(run.out_root)}, then run: "
            f"{phase_command('calibrate', '--confirm')}"
        )
    recorded: dict[str, str] = stats["fields"]["upstream"]["depth"]
    for scene_id, depth in recorded.items():
        entry = index.accepted.get(scene_id)
        if entry is None:
            continue  # taken out of the dataset; its statistics were good
        try:
            current = require(Scene(run.out_root, scene_id), entry, "depth").fingerprint
        except SceneError as error:
            raise NotConfirmedError(f"the depth of {scene_id} changed after max_coc was confirmed: {error}") from None
        if current != depth:
            raise NotConfirmedError(
                f"the depth of {scene_id} changed after max_coc was confirmed ({depth} -> {current}); run: "
                f"{phase_command('calibrate', '--on_stale', 'redo')}, look at the numbers, and --confirm again"
            )
    return Calibration(
        settings=CalibrateSettings(**stats["fields"]["settings"]),
        max_coc_m=float(stats["confirmed_max_coc"]),
        depth_fingerprints=recorded,
    )
