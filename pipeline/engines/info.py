"""The facts an engine carries into records, and which of its options belong there. Knows no engine and imports none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Role = str  # "deblur", "depth", "bokeh": the job that a phase has an engine for


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What goes into done records and reports.

    An engine's class carries it; an engine whose options choose among published weights carries its own, with their
    licence and content (`pipeline.engines.base.with_weights`).

    Args:
        version: raised when the same input gives another output.
        licence: of the engine's weights, since it binds what is made with them.
        deterministic: the seed changes nothing.
        weights: SHA-256 of each file or folder of weights in use, by the name it was published under; no paths.
    """

    name: str
    role: Role
    version: int
    licence: str
    deterministic: bool
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)


def option(default: Any, help: str, *, flag: str = "", recorded: bool = True) -> Any:
    """A field of an engine's Options: its default, and what `--help` says of it.

    Args:
        default: its type is the option's type.
        help: with unit and range.
        flag: a flag of the phase's script that sets it too, without dashes.
        recorded: False for what changes no output (where weights lie, how memory is saved): kept out of fingerprints.
    """
    return field(default=default, metadata={"help": help, "flag": flag, "recorded": recorded})


def unrecorded(default: Any, help: str = "") -> Any:
    """An option that changes no output, see `option`."""
    return option(default, help, recorded=False)


def recorded_options(options: Any) -> dict[str, Any]:
    """An engine's options by name, without the unrecorded ones."""
    return {item.name: getattr(options, item.name) for item in fields(options) if item.metadata.get("recorded", True)}
