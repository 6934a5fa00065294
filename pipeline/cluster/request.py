"""A submission as a person asks for it: phases, their scripts' flags, and where to run."""

import argparse
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline import cli
from pipeline.cluster.profile import array_phases, known_profiles
from pipeline.errors import UsageError
from pipeline.phases.registry import GROUPS, Phase, group, phase_named, phases
from pipeline.run_settings import RunSettings


def choices() -> dict[str, tuple[str, ...]]:
    """What can be asked for: groups of phases, and single ones that become arrays."""
    found = {name: tuple(phase.name for phase in group(name)) for name in (*GROUPS, "test")}
    return found | {name: (name,) for name in array_phases()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A submission as it was asked for.

    Args:
        phases: as `choices` has them, in order; "index" runs at once.
        args: flags of single phases' scripts.
        profile: a name, a path, or empty to look at the cluster.
    """

    phases: tuple[str, ...]
    args: dict[str, tuple[str, ...]]
    settings: RunSettings
    profile: str = ""
    account: str = ""
    qos: str = ""
    mail: str = ""
    local: bool = False
    workers: int = 0
    min_yield: float = 0.9
    scenes_per_task: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_yield <= 1:
            raise UsageError(f"--min_yield must be between 0 and 1, got {self.min_yield}")
        for name in ("workers", "scenes_per_task"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} must not be negative, got {getattr(self, name)}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say where and how to run; shared by jobs/*.sh and `resume`."""
    group = parser.add_argument_group("cluster")
    shipped = ", ".join(known_profiles())
    group.add_argument(
        "--profile",
        default=os.environ.get("BOKEHFLOW_PROFILE", ""),
        help=f"resources: {shipped}, or a .toml file; by default what fits the cluster's partitions",
    )
    for name in ("account", "qos", "mail"):
        group.add_argument(f"--{name}", default="", help="overrides the profile's")
    group.add_argument("--local", action="store_true", help="in processes of this machine, without SLURM; waits")
    group.add_argument("--workers", type=int, default=0, help="with --local: processes at once; 0: the profile's")
    group.add_argument("--scenes_per_task", type=int, default=0, help="0: as many as fill the profile's target_minutes")
    group.add_argument("--min_yield", type=float, default=0.9, help="share of scenes that the next stage needs")


def parse(description: str | None, argv: list[str] | None = None) -> Request:
    parser = cli.parser(description)
    parser.prog = "python -m pipeline.cluster"
    parser.add_argument("what", choices=sorted(choices()), help="phases to run")
    add_flags(parser)
    add_phase_args(parser, phases())
    args, rest = parser.parse_known_args(argv)
    asked = choices()[args.what]
    given = phase_args(parser, args, asked)
    if rest and len(asked) > 1:
        parser.error(f'{rest[0]} is no flag of all phases; give it to one, as in: --{asked[1]}_args "{" ".join(rest)}"')
    given[asked[0]] = (*given[asked[0]], *rest)
    for name in asked:
        if phase_named(name).confirms:
            given[name] = ("--confirm", "--keep_confirmed", *given[name])
    return Request(phases=asked, args=given, settings=cli.run_settings(args), **cluster_flags(args))


def add_phase_args(parser: argparse.ArgumentParser, taken: Iterable[Phase]) -> None:
    """--NAME_args for each phase: flags of its script, in one word."""
    for phase in taken:
        told = f"further flags of {shlex.join(phase.command)}"
        parser.add_argument(f"--{phase.name}_args", default="", metavar="FLAGS", help=told)


def phase_args(
    parser: argparse.ArgumentParser, args: argparse.Namespace, names: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """What `add_phase_args` was given, in words; ends the program as the parser does where a quotation does not end."""
    return {name: _split(parser, name, getattr(args, f"{name}_args")) for name in names}


def _split(parser: argparse.ArgumentParser, phase: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:  # a quotation that does not end
        parser.error(f"--{phase}_args takes flags as a shell would, got {text!r}: {error}")


def cluster_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_flags` added."""
    names = ("profile", "account", "qos", "mail", "local", "workers", "min_yield", "scenes_per_task")
    return {name: getattr(args, name) for name in names}
