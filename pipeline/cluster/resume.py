"""`python -m pipeline resume`: submit again what is missing, failed or stale, and say why for every scene.

It looks at the dataset, not at what earlier runs meant to do: the first half of the pipeline where any scene lacks it,
else the second. Flags of the scripts are those of the newest run that had the phase.
"""

from dataclasses import dataclass, replace
from typing import Any

from pipeline.cluster.commands import submit
from pipeline.cluster.plan import Run, all_runs
from pipeline.cluster.request import Request
from pipeline.errors import ExitCode
from pipeline.hints import phase_command
from pipeline.phases.registry import GROUPS, group
from pipeline.run_settings import RunSettings
from pipeline.status import dataset_status
from pipeline.storage.completion import State
from pipeline.storage.scene import validation_path


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a resume would submit: phases in order, and why each scene is in it."""

    phases: tuple[str, ...]
    why: dict[str, str]
    stale: bool


def what_is_missing(settings: RunSettings) -> Missing | None:
    """The half of the pipeline that is unfinished; None when every scene is done."""
    found = dataset_status(settings)["scenes"]
    for name in GROUPS:
        phases = [phase.name for phase in group(name) if phase.per_scene]
        why: dict[str, str] = {}
        stale = False
        first = len(phases)
        for scene, row in found.items():
            for phase in phases:
                state, detail = row[phase]["state"], row[phase]["detail"]
                if state != State.DONE:
                    why[scene] = f"{phase} is {state}" + (f": {detail}" if detail else "")
                    stale = stale or state in (State.STALE, State.FOREIGN)
                    first = min(first, phases.index(phase))
                    break
        if why:
            after = [phase.name for phase in group(name) if not phase.per_scene and phase.resumed(settings)]
            return Missing(phases=(*phases[first:], *after), why=why, stale=stale)
    return None


def resume(settings: RunSettings, flags: dict[str, Any]) -> ExitCode:
    """Submit what is missing.

    Args:
        settings: roots, logs, scenes and --dry_run.
        flags: as `request.cluster_flags` gives them.

    Raises:
        PipelineError: as `submit`.
    """
    missing = what_is_missing(settings)
    if missing is None:
        report = validation_path(settings.out_root)
        more = "" if report.exists() else f"; there is no {report} yet: {phase_command('validate')}"
        print(f"every scene is done; nothing to resume{more}")
        return ExitCode.DONE
    last = _last_runs(settings, missing.phases)
    if not flags["profile"] and last and not flags["local"]:
        newest = next(iter(last.values()))
        flags = {**flags, "profile": "" if newest.local else newest.profile.name}
    scenes = tuple(settings.scenes) or tuple(sorted(missing.why))
    on_stale = "redo" if missing.stale and settings.on_stale == "stop" else settings.on_stale
    if on_stale != settings.on_stale:
        print("stale scenes are made again (--on_stale redo)")
    request = Request(
        phases=missing.phases,
        args={phase: run.stage(phase).args for phase, run in last.items()},
        settings=replace(settings, scenes=scenes, on_stale=on_stale),
        **flags,
    )
    return submit(request, why={scene: missing.why[scene] for scene in scenes if scene in missing.why})


def _last_runs(settings: RunSettings, phases: tuple[str, ...]) -> dict[str, Run]:
    """For each phase the newest run on this output root that had it."""
    found: dict[str, Run] = {}
    for run in all_runs(settings.logs.resolve()):
        if run.out_root == settings.out_root.resolve():
            for stage in run.stages:
                if stage.phase in phases:
                    found.setdefault(stage.phase, run)
    return found
