"""Engines by name. A new one is a new module here; nothing else has to know it. A folder that says `HOLDS_ENGINES` is looked
through like this one: it holds the engines of one job."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.device import check_device
from pipeline.engines.info import EngineInfo, Role
from pipeline.errors import UsageError

if TYPE_CHECKING:  # whoever asks for facts alone imports no OpenCV
    from pipeline.engines.base import Engine


def _modules(package: str, paths: Iterable[str]) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(paths):
        module = importlib.import_module(f"{package}.{found.name}")
        yield module
        if getattr(module, "HOLDS_ENGINES", False):
            yield from _modules(module.__name__, module.__path__)


def engines_of(role: Role) -> "dict[str, type[Engine]]":
    """The engines for a job, by name, in alphabetical order."""
    found: dict[str, type[Engine]] = {}
    for module in _modules(__name__, __path__):
        engine = getattr(module, "ENGINE", None)
        if engine is not None and engine.info.role == role:
            found[engine.info.name] = engine
    return dict(sorted(found.items()))


def engine_class(role: Role, name: str) -> "type[Engine]":
    """The class of an engine.

    Raises:
        UsageError: no such engine for this job; the message lists those there are.
    """
    found = engines_of(role)
    if name not in found:
        raise UsageError(f"there is no {role} engine {name!r}; allowed are: {', '.join(found)}")
    return found[name]


def parse_options(engine: "type[Engine]", given: dict[str, str]) -> Any:
    """The engine's Options from NAME=VALUE strings; values are converted to the type of the default.

    Raises:
        UsageError: unknown name or a value that does not convert or is out of range.
    """
    known = {item.name: item for item in fields(engine.Options)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            allowed = ", ".join(f"{item.name}={item.default}" for item in known.values()) or "none"
            raise UsageError(f"engine {engine.info.name!r} has no option {name!r}; options and defaults: {allowed}")
        kind: Any = type(known[name].default)
        try:
            values[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError:
            raise UsageError(f"engine option {name} must be a {kind.__name__}, got {text!r}") from None
    try:
        return engine.Options(**values)
    except ValueError as error:
        raise UsageError(f"engine {engine.info.name!r}: {error}") from None


def info_for(engine: "type[Engine]", options: Any) -> EngineInfo:
    """What an engine says of itself with these options, without its weights: as `info_for` of its class, where it has one."""
    told = getattr(engine, "info_for", None)
    return engine.info if told is None else told(options)


Kind = TypeVar("Kind", bound="Engine")


def load_engine(role: Role, name: str, options: dict[str, str], device: str, kind: type[Kind]) -> Kind:
    """The engine of that name, ready to work.

    Args:
        role: the job.
        name: as in --engine.
        options: NAME -> VALUE as in --engine_opt.
        device: as in --device.
        kind: the protocol the caller needs.

    Raises:
        UsageError: unknown name, option or device.
    """
    found = engine_class(role, name)
    engine = found(parse_options(found, options), check_device(device))
    assert isinstance(engine, kind), f"engine {name} does not do what its role {role} needs"
    return engine
