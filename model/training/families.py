"""Network families by name. A new one is a folder `model/<family>/` with a `task.py`; nothing else has to know it."""

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import model
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from model.training.task import Task

DEFAULT_FAMILY = "bokehflow"  # of configs and checkpoints from before there was a choice
_SEAM = "training"  # its task.py says what a family is, and is none


def family_names() -> list[str]:
    """All families, sorted. Folders are looked at and nothing is imported, so that a list costs nothing."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(model.__path__)
        if module.ispkg and module.name != _SEAM and (_folder(module) / "task.py").is_file()
    )


def _folder(module: pkgutil.ModuleInfo) -> Path:
    return Path(str(getattr(module.module_finder, "path", ""))) / module.name


def task_class(name: str) -> "type[Task[Any]]":
    """The `TASK` of a family; only that family is imported.

    Raises:
        UsageError: there is no such family; the message lists those there are.
    """
    names = family_names()
    if name not in names:
        raise UsageError(f"there is no network family {name!r}; task.name must be one of: {', '.join(names)}")
    found: type[Task[Any]] = importlib.import_module(f"model.{name}.task").TASK
    assert found.name == name, f"model/{name}/task.py must define a TASK named {name!r}, got {found.name!r}"
    return found
