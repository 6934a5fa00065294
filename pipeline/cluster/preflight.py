"""What can be known to fail is refused before anything is queued: flags, options, settings that differ from what was done."""

import contextlib
import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.cluster.plan import Run
from pipeline.cluster.stage_status import StageStatus
from pipeline.commands import phase_parser
from pipeline.device import check_device
from pipeline.engines import engine_class, info_for, parse_options
from pipeline.engines.flags import given_options
from pipeline.errors import InputError, StaleError, UsageError
from pipeline.phases.dependencies import record_folder
from pipeline.phases.registry import Phase, phase_named
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene, SceneEntry


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a phase's flags ask for, as far as it is known before the phase runs: engine, options that were given, settings.

    Args:
        exact: the settings are what a record will hold, name by name: what a record lacks was not asked for then.
    """

    engine: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    exact: bool = False


def check_flags(phase: Phase, args: tuple[str, ...]) -> Asked:
    """Read a phase's flags now, as its script will in a task hours later: every value is checked, no weights are looked for.

    Raises:
        UsageError: the script would not accept them; with its own words.
    """
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            parsed = phase_parser(phase).parse_args(list(args))
    except SystemExit:
        last = words.getvalue().strip().splitlines()[-1:] or [""]
        raise UsageError(f"{shlex.join(phase.command)} does not take {shlex.join(args)}: {last[0]}") from None
    settings = phase.settings(parsed)
    exact = hasattr(settings, "recorded")
    asked = settings.recorded() if exact else asdict(settings)
    if phase.role is None:
        return Asked(settings=asked, exact=exact)
    if not parsed.device.startswith("cuda"):  # whether there is one is known on the node alone
        check_device(parsed.device)
    engine = engine_class(phase.role, parsed.engine)
    given = given_options(parsed, phase.role)
    options = parse_options(engine, given)
    phase.check(settings, info_for(engine, options))
    named = {name: getattr(options, name) for name in given}
    return Asked(engine=parsed.engine, options=named, settings=asked, exact=exact)


def check_same_settings(run: Run, asked: dict[str, Asked], entries: Sequence[SceneEntry]) -> None:
    """Whether what is done was made with what is asked for now; tasks are only sent to what is not done.

    Raises:
        StaleError: names the first scene and field that differ. Nothing was submitted.
    """
    for phase, wanted in asked.items():
        if not phase_named(phase).per_scene:
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
    if engine.get("name", "") != wanted.engine:
        return f"engine {engine.get('name')!r} -> {wanted.engine!r}"
    settings = recorded.get("settings", {})
    for old, new, exact in (
        (engine.get("options", {}), wanted.options, False),
        (settings, wanted.settings, wanted.exact),
    ):
        for name in sorted(new.keys() | (old.keys() if exact else ())):
            before, value = old.get(name, "not given"), new.get(name, "not given")
            # "auto" is recorded as what it became on the node that did it.
            if (exact or name in old) and value != "auto" and before != value:
                return f"{name} {before!r} -> {value!r}"
    return None


def refuse_stale(phase: str, found: StageStatus) -> None:
    """Raise StaleError where scenes are stale and nobody said what to do with them."""
    stale = found.of_cause("stale")
    if stale:
        raise StaleError(
            f"{phase} of {len(stale)} scenes is stale, the first is {stale[0].scene}: {stale[0].detail}; nothing was "
            f"submitted. Choose with --on_stale: redo to make them again, keep to leave them"
        )
