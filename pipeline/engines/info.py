"""The facts an engine carries into records, and which of its options belong there. Knows no engine and imports none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Role = Literal["deblur", "depth", "bokeh"]


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What goes into done records and reports.

    An engine's class carries it; an engine whose options choose among published weights carries its own, with their
    licence and content (`pipeline.weights.with_weights`).

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


def unrecorded(default: Any) -> Any:
    """The default of an option that changes no output (where weights lie, how memory is saved): kept out of fingerprints."""
    return field(default=default, metadata={"recorded": False})


def recorded_options(options: Any) -> dict[str, Any]:
    """An engine's options by name, without the unrecorded ones."""
    return {item.name: getattr(options, item.name) for item in fields(options) if item.metadata.get("recorded", True)}
