"""Phase 6: read every output as a training loader would, recompute the labels, and write the report.

What is looked for in a scene is in `scene_check`.
"""

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.device import fix_threads
from pipeline.errors import ExitCode, PipelineError, UsageError
from pipeline.hints import roots_in_use, use_roots
from pipeline.media.prefetch import map_processes
from pipeline.phases.registry import Phase, Presenter
from pipeline.phases.scene_check import SceneReport, check_scene
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.signals import StopSignals
from pipeline.storage.files import dump_json, read_json, write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import SPLITS, SceneEntry, SceneIndex, calibration_path, page_path, validation_path

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ValidateSettings:
    """What phase 6 does beside its checks.

    Args:
        workers: scenes checked at once.
        if_changed: do nothing when a passing report is younger than all outputs.
        check_blur: look into photographs of every set for the blur that their labels say.
    """

    workers: int = 2
    if_changed: bool = False
    check_blur: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}")


def nothing_changed(run: RunSettings, entries: list[SceneEntry], check_blur: bool = False) -> bool:
    """Whether a passing report is younger than every file and folder it covers (a removed file touches its folder)."""
    try:
        report = validation_path(run.out_root)
        written = min(report.stat().st_mtime_ns, page_path(run.out_root).stat().st_mtime_ns)
        stored = read_json(report, "the validation report")["scenes"]
        if any(not stored[entry.scene_id]["passed"] for entry in entries) or len(stored) != len(entries):
            return False
        if check_blur and any(stored[entry.scene_id]["blur"] is None for entry in entries):
            return False
    except Exception:  # whatever is wrong with the report, it is written anew
        return False
    covered = [run.index_path, calibration_path(run.out_root)]
    for entry in entries:
        for folder, folders, names in os.walk(run.out_root / entry.scene_id):
            covered += [Path(folder), *(Path(folder) / name for name in [*folders, *names])]
    return all(path.stat().st_mtime_ns <= written for path in covered if path.exists())


def run_validate(settings: ValidateSettings, run: RunSettings, presenter: Presenter) -> ExitCode:
    """Check the chosen scenes, write validation_report.json and the report page.

    Args:
        settings: how.
        run: the shared flags.
        presenter: writes the page.
    """
    index = SceneIndex.load(run.index_path)
    entries = run.chosen(index)
    refuse_links(run.out_root, [validation_path(run.out_root), page_path(run.out_root)])
    with StopSignals() as signals, Reporter("validate", None if run.dry_run else run.logs) as reporter:
        if settings.if_changed and entries and nothing_changed(run, entries, settings.check_blur):
            reporter.info(
                f"validate: nothing changed since all {len(entries)} scenes passed; see {page_path(run.out_root)}"
            )
            return ExitCode.DONE
        if run.dry_run:
            reporter.info(f"validate: would check {len(entries)} scenes. Nothing was written")
            return ExitCode.DONE
        if not entries:
            raise PipelineError(f"{run.index_path} has no accepted scene; see the reasons in it")
        fix_threads()
        reporter.begin_progress("validate", len(entries))
        reports: dict[str, SceneReport] = {}
        calls = [(roots_in_use(), run.out_root, entry, settings.check_blur) for entry in entries]
        for found in map_processes(_check_elsewhere, calls, settings.workers):
            reports[found.scene_id] = found
            reporter.advance()
            if signals.received:
                reporter.info("validate: stopped; nothing was written. Run the same command to begin again.")
                return ExitCode.STOPPED
        reporter.end_progress()
        _write_report(run, index, reports)
        presenter.write_page(run)
        for found in reports.values():
            for reason in found.reasons:
                reporter.error(f"{found.scene_id}: {reason}")
            for warning in found.warnings:
                reporter.warning(f"{found.scene_id}: {warning}")
        failed = sorted(name for name, found in reports.items() if not found.passed)
        names = f" ({', '.join(failed)})" if failed else ""
        reporter.info(
            f"validate: {len(reports) - len(failed)} scenes pass, {len(failed)} fail{names}, "
            f"{sum(found.bytes for found in reports.values()) / 1e6:.1f} MB. Next: look at {page_path(run.out_root)}"
        )
        return ExitCode.SOME_SCENES_FAILED if failed else ExitCode.DONE


def _write_report(run: RunSettings, index: SceneIndex, reports: dict[str, SceneReport]) -> None:
    rejected = {name: list(entry.reasons) for name, entry in index.entries.items() if not entry.accepted}
    passed = [found for found in reports.values() if found.passed]
    stored = {
        "schema": SCHEMA,
        "scenes": {name: asdict(found) for name, found in sorted(reports.items())},
        "rejected": rejected,
        "totals": {
            "scenes": len(reports),
            "passed": len(passed),
            "failed": len(reports) - len(passed),
            "rejected": len(rejected),
            "frames": sum(found.num_frames for found in reports.values()),
            "pairs": sum(found.num_frames * found.num_sets for found in reports.values()),
            "bytes": sum(found.bytes for found in reports.values()),
            "splits": {split: sum(index.entries[name].split == split for name in reports) for split in SPLITS},
        },
    }
    write_shared(validation_path(run.out_root), dump_json(stored).encode())


def _check_elsewhere(roots: tuple[str, ...], out_root: Path, entry: SceneEntry, check_blur: bool) -> SceneReport:
    use_roots(*roots)  # a fresh process, and its reasons name commands
    return check_scene(out_root, entry, check_blur=check_blur)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=ValidateSettings().workers, help="scenes checked at once")
    parser.add_argument("--if_changed", action="store_true", help="nothing to do when a passing report is still good")
    parser.add_argument(
        "--check_blur",
        action="store_true",
        help="hold photographs of every set against their sharp frames: is the blur the label's?",
    )


def _settings(args: argparse.Namespace) -> ValidateSettings:
    return ValidateSettings(workers=args.workers, if_changed=args.if_changed, check_blur=args.check_blur)


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    return run_validate(_settings(args), run, presenter)


PHASES = (
    Phase(
        name="validate",
        number=6,
        script="scripts/06_validate_outputs.py",
        help="check every output, write the report",
        groups=("5-6", "test"),
        resumed=lambda run: True,
        add_flags=_add_flags,
        settings=_settings,
        run=_run,
    ),
)
