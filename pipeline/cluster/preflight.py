"""What can be known to fail is refused before anything is queued: flags, engines, settings that differ from what was done."""

import contextlib
import importlib.util
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline import cli
from pipeline.cluster.plan import SCRIPTS, Run
from pipeline.cluster.profile import REPOSITORY
from pipeline.cluster.stage_status import StageStatus
from pipeline.engines import engine_class, parse_options
from pipeline.engines.info import Role
from pipeline.errors import InputError, StaleError, UsageError
from pipeline.phases.dependencies import record_folder
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene, SceneEntry

_ROLES: dict[str, Role] = {"deblur": "deblur", "depth": "depth", "render": "bokeh"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a phase's flags ask for, as far as it is known before the phase runs: engine, options that were given, settings."""

    engine: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def check_script_flags(phase: str, args: tuple[str, ...]) -> Asked:
    """Let the phase's own script parse its flags now, not in a task hours later; engines by name, without weights.

    Raises:
        UsageError: it does not accept them; with the script's own words.
    """
    path = REPOSITORY / SCRIPTS[phase]
    spec = importlib.util.spec_from_file_location(f"cluster_{path.stem}", path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            parsed = module.parse(list(args))
    except SystemExit:
        last = words.getvalue().strip().splitlines()[-1:] or [""]
        raise UsageError(f"{SCRIPTS[phase]} does not take {shlex.join(args)}: {last[0]}") from None
    if phase not in _ROLES:
        return Asked()
    engine = engine_class(_ROLES[phase], parsed.engine)
    settings = vars(parsed)
    if settings.get("no_temporal_avg"):
        settings["temporal"] = "none"
    flags = {item.name: settings[item.name] for item in fields(engine.Options) if item.name in settings}  # as --steps 8
    given = cli.engine_options(parsed) | {name: value for name, value in flags.items() if isinstance(value, str)}
    options = parse_options(engine, given)
    return Asked(engine=parsed.engine, options={name: getattr(options, name) for name in given}, settings=settings)


def check_same_settings(run: Run, asked: dict[str, Asked], entries: Sequence[SceneEntry]) -> None:
    """Whether what is done was made with what is asked for now; tasks are only sent to what is not done.

    Raises:
        StaleError: names the first scene and field that differ. Nothing was submitted.
    """
    for phase, wanted in asked.items():
        if phase not in _ROLES:
            continue
        for entry in entries:
            try:
                record = DoneRecord.read(record_folder(Scene(run.out_root, entry.scene_id), phase))
            except InputError:
                continue
            difference = _difference(wanted, record.fields) if record else None
            if difference:
                raise StaleError(
                    f"{phase} of {entry.scene_id} is done with other settings: {difference}; nothing was submitted. "
                    f"Choose with --on_stale: redo to make such scenes again, keep to leave them"
                )


def _difference(wanted: Asked, recorded: dict[str, Any]) -> str | None:
    engine = recorded.get("engine", {})
    if engine.get("name") != wanted.engine:
        return f"engine {engine.get('name')!r} -> {wanted.engine!r}"
    for old, new in ((engine.get("options", {}), wanted.options), (recorded.get("settings", {}), wanted.settings)):
        for name, value in new.items():
            # "auto" is recorded as what it became on the node that did it.
            if name in old and value != "auto" and old[name] != value:
                return f"{name} {old[name]!r} -> {value!r}"
    return None


def refuse_stale(phase: str, found: StageStatus) -> None:
    """Raise StaleError where scenes are stale and nobody said what to do with them."""
    stale = found.of_cause("stale")
    if stale:
        raise StaleError(
            f"{phase} of {len(stale)} scenes is stale, the first is {stale[0].scene}: {stale[0].detail}; nothing was "
            f"submitted. Choose with --on_stale: redo to make them again, keep to leave them"
        )
