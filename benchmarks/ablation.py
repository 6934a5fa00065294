"""What the ablations share: one training run that is resumed rather than repeated, and a table of means over seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from model import train

Scores = Mapping[str, float | None]


def train_once(config: Path, settings: Mapping[str, Any]) -> None:
    """Train a config with changed settings, in the folder that they name; a run that is finished is left as it is.

    Raises:
        SystemExit: training failed or was stopped, with its exit code; the same command goes on.
    """
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={toml(value)}")]
    if code := train.main(["--config", str(config), *given]):
        raise SystemExit(code)


def toml(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str | Path) else str(value)


def kept(path: Path, measure: Callable[[], Any]) -> Any:
    """What a JSON file holds, measured and written first if it is not there."""
    if not path.is_file():
        found = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1))
    return json.loads(path.read_text())


def print_table(title: str, rows: Mapping[str, Sequence[Scores]], columns: Sequence[str]) -> None:
    """A row per name: the mean over its runs and, where there are several, the smallest and the largest."""
    table = Table(title, *columns)
    for name, runs in rows.items():
        cells = []
        for column in columns:
            known = [value for run in runs if (value := run.get(column)) is not None]
            spread = f" ({min(known):.3f} to {max(known):.3f})" if len(known) > 1 else ""
            cells.append(f"{sum(known) / len(known):.3f}{spread}" if known else "-")
        table.add_row(name, *cells)
    Console(width=140).print(table)
