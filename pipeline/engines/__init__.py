"""Engines by name. A new one is a new module here; nothing else has to know it."""

import importlib
import pkgutil
from dataclasses import fields
from typing import Any, TypeVar

from pipeline.device import resolve_device
from pipeline.engines.base import Engine
from pipeline.engines.info import Role
from pipeline.errors import UsageError

DEFAULTS: dict[Role, str] = {"deblur": "wiener", "depth": "given", "bokeh": "lens"}


def engine_class(role: Role, name: str) -> type[Engine]:
    """The class of an engine.

    Raises:
        UsageError: no such engine for this job; the message lists those there are.
    """
    found: dict[str, type[Engine]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name in ("base", "info"):
            continue
        engine = importlib.import_module(f"{__name__}.{module.name}").ENGINE
        if engine.info.role == role:
            found[engine.info.name] = engine
    if name in found:
        return found[name]
    allowed = ", ".join(sorted(found))
    raise UsageError(f"there is no {role} engine {name!r}; allowed are: {allowed}")


def parse_options(engine: type[Engine], given: dict[str, str]) -> Any:
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


Kind = TypeVar("Kind", bound=Engine)


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
    engine = found(parse_options(found, options), resolve_device(device))
    assert isinstance(engine, kind), f"engine {name} does not do what its role {role} needs"
    return engine
