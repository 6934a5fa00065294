"""Every phase by name: the one place that scripts, status, report, cluster, leases and validation ask.

A phase is a module in this folder that says what it is in `PHASES`; nothing lists it. The registry reads the modules when it is
first asked, so none of them may import PyTorch before it computes: `status` and the cluster's gate would wait for it.
"""

import argparse
import importlib
import pkgutil
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import pipeline.phases
from pipeline.checkout import checkout
from pipeline.engines.info import EngineInfo, Role
from pipeline.errors import ExitCode, UsageError
from pipeline.hints import spell_phases
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import Outputs

Group = Literal["1-4", "5-6", "test"]
GROUPS: tuple[Group, ...] = ("1-4", "5-6")  # before and after the operator confirms the calibration
CPU = "cpu"  # resources of what runs on all scenes at once


class Presenter(Protocol):
    """What phases show to a person without knowing how it looks (`pipeline.report`)."""

    def draw_histogram(self, run: RunSettings, stats: dict[str, Any]) -> None:
        """Draw a calibration."""
        ...

    def write_page(self, run: RunSettings) -> None:
        """Write the report page from what is there."""
        ...


def _no_flags(parser: argparse.ArgumentParser) -> None:
    return


def _never(run: RunSettings) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What everybody needs to know of a phase.

    Args:
        name: in commands, records and file names; never changed, since it is in every `.done`.
        number: its place in the order of phases.
        script: what a person types, relative to the repository; empty where there is only `python -m pipeline NAME`.
        help: one line.
        groups: runs of several phases on a cluster that it belongs to, see GROUPS.
        outputs: what it writes into a scene; None for a phase that works on all scenes at once.
        title: what the report calls its outputs.
        role: of its engine; None without one.
        default_engine: the engine that needs no weights.
        lists_scenes: whether it makes the scene index, without which a run on a cluster cannot be planned.
        confirms: whether it confirms the calibration, which is an operator's decision otherwise.
        calibrated: whether its outputs are stale when the confirmed calibration changes.
        needs_yield: whether a run stops after it when too few scenes are done.
        add_flags: adds its own flags; the shared ones and the engine's are added for it.
        settings: its settings from parsed flags, a frozen dataclass; UsageError for what is not allowed.
        check: refuses settings that do not go with an engine, before anything begins; UsageError.
        run: does it, on all chosen scenes.
        resources: the section of a cluster profile that says what a task of it asks for.
        resumed: whether `resume` runs it after the phases of its group that work scene by scene.
    """

    name: str
    number: int
    help: str
    settings: Callable[[argparse.Namespace], Any]
    run: Callable[[argparse.Namespace, RunSettings, Presenter], ExitCode]
    script: str = ""
    groups: tuple[Group, ...] = ()
    outputs: Outputs | None = None
    title: str = ""
    role: Role | None = None
    default_engine: str = ""
    lists_scenes: bool = False
    confirms: bool = False
    calibrated: bool = False
    needs_yield: bool = True
    resources: str = CPU
    add_flags: Callable[[argparse.ArgumentParser], None] = _no_flags
    check: Callable[[Any, EngineInfo], None] = lambda settings, info: None
    resumed: Callable[[RunSettings], bool] = _never

    @property
    def per_scene(self) -> bool:
        """Whether it works scene by scene: such phases have records, leases and array tasks."""
        return self.outputs is not None

    @property
    def command(self) -> tuple[str, ...]:
        """How Python is told to run it: the script of a checkout, else the package's own command."""
        return (self.script,) if self.script and checkout() else ("-m", "pipeline", self.name)


@cache
def phases() -> tuple[Phase, ...]:
    """All phases, in their order."""
    found: list[Phase] = []
    for module in pkgutil.iter_modules(pipeline.phases.__path__):
        if f"{pipeline.phases.__name__}.{module.name}" != __name__:
            found += getattr(importlib.import_module(f"{pipeline.phases.__name__}.{module.name}"), "PHASES", ())
    return tuple(sorted(found, key=lambda phase: phase.number))


def scene_phases() -> tuple[Phase, ...]:
    """Those that work scene by scene: the columns of status and report."""
    return tuple(phase for phase in phases() if phase.per_scene)


def phase_named(name: str) -> Phase:
    """One phase.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    for phase in phases():
        if phase.name == name:
            return phase
    raise UsageError(f"there is no phase {name!r}; phases are: {', '.join(phase.name for phase in phases())}")


def group(name: Group) -> tuple[Phase, ...]:
    """The phases that a cluster run of that name takes scenes through."""
    return tuple(phase for phase in phases() if name in phase.groups)


def following(name: str) -> Phase | None:
    """The phase after one, as a person would run them; None after the last."""
    order = [phase for phase in phases() if set(phase.groups) & set(GROUPS)]
    names = [phase.name for phase in order]
    return order[names.index(name) + 1] if name in names[:-1] else None


def _spelled(name: str) -> str:
    return shlex.join(["python", *phase_named(name).command])


spell_phases(_spelled)
