"""What a cluster offers and what each phase asks for: one TOML file per cluster, in jobs/profiles/."""

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.storage.bounded import MIB, read_bounded

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILES = REPOSITORY / "jobs" / "profiles"
ARRAY_PHASES = ("deblur", "depth", "render")
CPU = "cpu"  # calibration, validation, gates


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
        missing = {*ARRAY_PHASES, CPU} - set(self.phases)
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

    @property
    def file(self) -> str:
        """How a person finds it."""
        return self.name if self.name.endswith(".toml") else f"jobs/profiles/{self.name}.toml"

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


def known_profiles() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A profile by name, or by the path of a TOML file.

    Raises:
        UsageError: there is none, or it does not parse or fit; the message names the file and the field.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
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
