"""What a cluster offers and what each phase asks for: one TOML file per cluster, in jobs/profiles/.

Names are looked up in jobs/profiles below the current folder, so that a project can have its own, and then among the shipped
ones: jobs/profiles of the checkout, or beside this file where the project is installed.
"""

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.checkout import checkout
from pipeline.errors import UsageError
from pipeline.phases.registry import CPU, phase_named, scene_phases
from pipeline.storage.bounded import MIB, read_bounded

REPOSITORY = checkout() or Path.cwd()  # where tasks run: scripts are found there, or else what relative paths begin at
_OWN = Path("jobs") / "profiles"


def array_phases() -> tuple[str, ...]:
    """The phases that become arrays of tasks; the others run on all scenes at once, inside a gate."""
    return tuple(phase.name for phase in scene_phases())


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task of a phase asks for.

    Args:
        partition: empty for the cluster's default.
        mem_gb: 0 leaves it to the cluster.
        hours: time limit.
    """

    partition: str = ""
    gpus: int = 0
    mem_gb: float = 0
    hours: float = 1
    cpus: int = 0

    def __post_init__(self) -> None:
        for name in ("gpus", "mem_gb", "cpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.hours <= 0:
            raise ValueError(f"hours must be positive, got {self.hours}")

    @property
    def minutes(self) -> int:
        return max(1, round(self.hours * 60))

    def with_memory(self, factor: float) -> "Resources":
        return replace(self, mem_gb=self.mem_gb * factor)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A cluster as its TOML file describes it; see jobs/profiles/generic.toml for what each setting means.

    Args:
        phases: resources by section; a phase says which section it takes.
        name: of a file in jobs/profiles, or the path of a .toml file.
    """

    name: str
    phases: dict[str, Resources]
    max_gpus: int = 0
    workers: int = 1
    target_minutes: float = 60
    signal_s: int = 120
    account: str = ""
    qos: str = ""
    mail: str = ""
    setup: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        missing = {CPU, *(phase.resources for phase in scene_phases())} - set(self.phases)
        if missing:
            raise ValueError(f"there is no [phase.{sorted(missing)[0]}]")
        for name in ("workers", "target_minutes", "signal_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for phase, asked in self.phases.items():
            if asked.hours * 3600 <= self.signal_s:
                raise ValueError(f"[phase.{phase}] hours must be longer than signal_s, got {asked.hours * 3600:g} s")
        if self.max_gpus < 0:
            raise ValueError(f"max_gpus must not be negative, got {self.max_gpus}")

    def resources(self, phase: str) -> Resources:
        """What a task of a phase asks for; `CPU` names what runs on all scenes at once."""
        return self.phases[CPU if phase == CPU else phase_named(phase).resources]

    @property
    def file(self) -> str:
        """Where a person edits it: below the current folder it comes before a shipped one of that name."""
        if self.name.endswith(".toml"):
            return self.name
        own = _OWN / f"{self.name}.toml"
        return str(own) if checkout() or own.is_file() else f"{own}, a copy of {profile_path(self.name)}"

    def to_json(self) -> dict[str, Any]:
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **plain,
            "phases": {name: vars(resources) for name, resources in self.phases.items()},
            "setup": [*self.setup],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Profile":
        phases = {name: Resources(**value) for name, value in stored["phases"].items()}
        return cls(**{**stored, "phases": phases, "setup": tuple(stored["setup"])})


def _folders() -> tuple[Path, Path]:
    """The current project's profiles and the shipped ones."""
    root = checkout()
    return Path.cwd() / _OWN, root / _OWN if root else Path(__file__).parent / "profiles"


def known_profiles() -> list[str]:
    """Names that `load_profile` finds from the current folder."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def profile_path(name: str) -> Path:
    """The file of a profile, given by name or as the path of a .toml file; it need not exist."""
    if name.endswith(".toml"):
        return Path(name)
    places = [folder / f"{name}.toml" for folder in _folders()]
    return next((place for place in places if place.is_file()), places[-1])


def load_profile(name: str) -> Profile:
    """A profile by name, or by the path of a TOML file.

    Raises:
        UsageError: there is none, or it does not parse or fit; the message names the file and the field.
    """
    path = profile_path(name)
    try:
        stored = tomllib.loads(read_bounded(path, MIB).decode())
        phases = {phase: Resources(**value) for phase, value in stored.pop("phase", {}).items()}
        cluster = stored.pop("cluster", {})
        if stored:
            raise ValueError(f"unknown section {sorted(stored)[0]!r}; sections are cluster and phase.NAME")
        return Profile(name=name, phases=phases, **{**cluster, "setup": tuple(cluster.get("setup", ()))})
    except FileNotFoundError:
        raise UsageError(
            f"there is no profile {name!r} ({path}); there are: {', '.join(known_profiles())}, or give the path of a .toml file"
        ) from None
    except UsageError:
        raise
    except Exception as error:  # InputError of the file, TOML's own, whatever its values do to the settings
        raise UsageError(f"profile {path}: {str(error).removeprefix('Resources.__init__() ')}") from None
