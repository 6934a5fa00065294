"""The calibration as a file: settings, confirmation, and what phase 5 takes from it. `calibrate` measures it.

Phase 5 takes the confirmed value, the seed, the lens model and the prior from here, so the two phases cannot disagree.
"""

import getpass
import math
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, get_args

from pipeline.errors import ExitCode, InputError, NotConfirmedError, PipelineError, SceneError, UsageError
from pipeline.hints import next_step, phase_command
from pipeline.optics.lens import SENSOR_WIDTH_MM, CocModel
from pipeline.phases.dependencies import require
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.storage.bounded import one_line
from pipeline.storage.completion import fingerprint
from pipeline.storage.files import dump_json, read_json, write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex, calibration_path, histogram_path

SCHEMA = 1
FocusRange = Literal["robust", "full"]
LensPrior = Literal["published", "visible"]


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """What changes max_coc and the lens draws.

    Args:
        seed: the project's seed; lens draws and sampling follow it.
        focus_range: "robust" draws the focus between the 5th and 95th percentile of the depths below 100 m, "full"
            between the nearest and the farthest depth, sky included.
        coc_model: "contract" for generated data (docs/optics.md).
        sensor_width_mm: width of the sensor that the pictures are taken to come from.
        lens_prior: "published" draws lenses as in the paper, most of which blur little; "visible" draws them for the scene at
            hand so that its depth of field shows, and looks for its own focus.
    """

    seed: int = 0
    focus_range: FocusRange = "robust"
    coc_model: CocModel = "contract"
    sensor_width_mm: float = SENSOR_WIDTH_MM
    lens_prior: LensPrior = "published"

    def __post_init__(self) -> None:
        if self.focus_range not in ("robust", "full"):
            raise UsageError(f"focus_range must be robust or full, got {self.focus_range!r}")
        if not (math.isfinite(self.sensor_width_mm) and self.sensor_width_mm > 0):
            raise UsageError(f"sensor_width_mm must be > 0 mm, got {self.sensor_width_mm}")
        if self.lens_prior not in get_args(LensPrior):
            raise UsageError(f"lens_prior must be published or visible, got {self.lens_prior!r}")
        if self.lens_prior == "visible" and self.focus_range != "robust":
            raise UsageError("focus_range belongs to the prior published; visible focuses on what is in the scene")

    def recorded(self) -> dict[str, Any]:
        """The settings in fingerprints: without a prior where it is the published one, as datasets have it from before."""
        fields = asdict(self)
        if self.lens_prior == "published":
            del fields["lens_prior"]
        return fields


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A confirmed calibration as phase 5 uses it."""

    settings: CalibrateSettings
    max_coc_m: float
    depth_fingerprints: dict[str, str]


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


def statistics(stats: dict[str, Any]) -> str:
    """What an operator looks at before confirming, in a sentence."""
    um = {name: f"{stats[name] * 1e6:.0f}" for name in ("p50", "p90", "p95", "p99", "max")}
    return (
        f"Circle of confusion in um: p50 {um['p50']}, p90 {um['p90']}, p95 {um['p95']} (recommended), p99 {um['p99']}, "
        f"max {um['max']}"
    )


def finished_depth(
    entries: list[SceneEntry], run: RunSettings, warn: Callable[[str], None]
) -> tuple[list[SceneEntry], dict[str, str]]:
    """The scenes whose depth is finished, and its fingerprints; `warn` hears of the others.

    Raises:
        PipelineError: there is none.
    """
    ready, depths = [], {}
    for entry in entries:
        try:
            depths[entry.scene_id] = require(Scene(run.out_root, entry.scene_id), entry, "depth").fingerprint
            ready.append(entry)
        except SceneError as error:
            warn(f"{entry.scene_id} is left out: {error}")
    if not ready:
        raise PipelineError(f"no scene has finished depth; run: {phase_command('depth')}")
    return ready, depths


def _check_measured(stats: dict[str, Any], run: RunSettings) -> None:
    """A measurement is confirmed for the scenes that it was taken of, not for others that lie in its place now."""
    entries = list(SceneIndex.load(run.index_path).accepted.values())
    _, now = finished_depth(entries, run, lambda text: None)
    measured = stats["fields"]["upstream"]["depth"]
    added = sorted(now.keys() - measured.keys())
    changed = sorted(name for name in now.keys() & measured.keys() if now[name] != measured[name])
    if added or changed:
        said = [
            f"{', '.join(names)} {what}" for names, what in ((added, "came later"), (changed, "changed since")) if names
        ]
        raise NotConfirmedError(
            f"the measurement is not of the scenes at hand: {shorten('; '.join(said), 200, placeholder=' ...')}. "
            f"Nothing was confirmed; measure them first: {phase_command('calibrate', '--on_stale', 'redo')}"
        )


def confirm(value_m: float | None, run: RunSettings, keep_confirmed: bool = False) -> ExitCode:
    """Record max_coc with who and when.

    Args:
        value_m: metres; None takes the recommendation.
        run: where the calibration is.
        keep_confirmed: leave a value that was confirmed before.

    Raises:
        PipelineError: there is no calibration yet, or it is damaged.
        NotConfirmedError: other scenes are there than those that were measured.
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
    _check_measured(stats, run)
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
        reporter.info(f"calibrate: max_coc {value * 1e6:.1f} um confirmed.{next_step('render')}")
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
        raise NotConfirmedError(
            f"max_coc is not confirmed. {statistics(stats)}. Look at {histogram_path(run.out_root)}, then run: "
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
                f"the depth of {scene_id} changed after max_coc was confirmed ({depth} -> {current}); measure again, "
                f"look at the numbers and confirm them: {phase_command('calibrate', '--on_stale', 'redo')}"
            )
    return Calibration(
        settings=CalibrateSettings(**stats["fields"]["settings"]),
        max_coc_m=float(stats["confirmed_max_coc"]),
        depth_fingerprints=recorded,
    )
