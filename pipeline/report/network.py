"""The part of the page about a network trained on these scenes: loss curves, a table beside the baselines, pictures.

What it shows lies in `report/network.json` and picture files beside it, written by whoever trained; this package knows no
network. The format:

    {"schema": 1, "title": text, "note": text, "facts": [[label, text], ...],
     "curves": [[name, [[step, value > 0], ...]], ...],
     "table": {"columns": [text, ...], "rows": [[text, ...], ...], "strong": row number,
               "better": ["higher", "lower" or "" for each column]},
     "pictures": [{"file": name in report/, "caption": text}, ...]}

The best figure of each column is marked, whoever has it; the strong row is only pointed at. Without "better" none is marked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.report.chart import Tick
from pipeline.report.embed import data_uri
from pipeline.storage.bounded import read_bounded
from pipeline.storage.files import read_json
from pipeline.storage.ownership import refuse_links

SCHEMA = 1
WIDTH, HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _FLOOR = 52.0, 10.0, 12.0, 220.0
_MAX_PICTURE_BYTES = 4_000_000
_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: SVG points, and its last value in words."""

    name: str
    points: str
    last: str


@dataclass(frozen=True, kw_only=True)
class LossChart:
    """Curves over steps, the value logarithmic, in the SVG's own units."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    floor: float = _FLOOR
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What the page shows; `problem` alone when the file is damaged."""

    title: str = ""
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    chart: LossChart | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    strong: int = -1
    best: frozenset[tuple[int, int]] = frozenset()  # (row, column) of the best figures
    pictures: tuple[tuple[str, str], ...] = ()  # (data URI, caption)
    problem: str = ""


def network_path(out_root: Path) -> Path:
    return out_root / "report" / "network.json"


def read_network(out_root: Path) -> NetworkFacts | None:
    """What is known of a network trained on these scenes; None when nobody wrote any."""
    path = network_path(out_root)
    if not path.exists():
        return None
    try:
        refuse_links(out_root, [path])
        stored = read_json(path, "the network's summary")
        if stored.get("schema") != SCHEMA:
            raise InputError(f"{path} has schema {stored.get('schema')!r}, needs {SCHEMA}")
        table = stored.get("table", {})
        rows = tuple(tuple(map(str, row)) for row in table.get("rows", ()))
        return NetworkFacts(
            title=str(stored["title"]),
            note=str(stored.get("note", "")),
            facts=tuple((str(label), str(text)) for label, text in stored.get("facts", ())),
            chart=loss_chart(stored.get("curves", ())),
            columns=tuple(map(str, table.get("columns", ()))),
            rows=rows,
            strong=int(table.get("strong", -1)),
            best=best_cells(rows, table.get("better", ())),
            pictures=tuple(_picture(out_root, path.parent, picture) for picture in stored.get("pictures", ())),
        )
    except Exception as error:  # whatever it holds, it must not cost the operator the page
        return NetworkFacts(problem=f"{path} cannot be shown: {error}")


def best_cells(rows: Sequence[Sequence[str]], better: Sequence[str]) -> frozenset[tuple[int, int]]:
    """(row, column) of the best figure of each column, of all that share it; none where fewer than two can be compared.

    Args:
        rows: cells as text; what is no finite number is not compared.
        better: "higher", "lower", or anything else where no figure is better, by column.
    """
    best: set[tuple[int, int]] = set()
    for column, direction in enumerate(better):
        found = {row: value for row, cells in enumerate(rows) if (value := _figure(cells, column)) is not None}
        if direction in ("higher", "lower") and len(found) > 1:
            top = (max if direction == "higher" else min)(found.values())
            best |= {(row, column) for row, value in found.items() if value == top}
    return frozenset(best)


def _figure(cells: Sequence[str], column: int) -> float | None:
    try:
        value = float(cells[column])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def loss_chart(stored: list[tuple[str, Any]]) -> LossChart | None:
    """Lay curves out; None when there is nothing that a logarithmic axis can show.

    Args:
        stored: (name, [(step, value)]) in the order of their colours; values that are not positive and finite are left out.
    """
    curves = {
        str(name): [
            (float(step), float(value)) for step, value in points if float(value) > 0 and math.isfinite(float(value))
        ]
        for name, points in stored
    }
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    last_step = max(steps) or 1.0
    low, high = math.log10(min(values)), math.log10(max(values))
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05

    def x_of(step: float) -> float:
        return round(_LEFT + step / last_step * (WIDTH - _RIGHT - _LEFT), 1)

    def y_of(value: float) -> float:
        return round(_FLOOR - (math.log10(value) - low) / (high - low) * (_FLOOR - _TOP), 1)

    return LossChart(
        curves=tuple(
            Curve(
                name=name,
                points=" ".join(f"{x_of(step)},{y_of(value)}" for step, value in points),
                last=f"{points[-1][1]:.3g}",
            )
            for name, points in curves.items()
        ),
        x_ticks=tuple(Tick(position=x_of(step), text=f"{step:g}") for step in _even_ticks(last_step)),
        y_ticks=tuple(
            Tick(position=y_of(value), text=f"{value:g}")
            for value in _log_ticks(low, high)
            if low <= math.log10(value) <= high
        ),
    )


def _even_ticks(last: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(last / 4)) if last >= 4 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if last / (power * factor) <= 6)
    return [step * number for number in range(int(last / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    return [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]


def _picture(out_root: Path, folder: Path, stored: dict[str, str]) -> tuple[str, str]:
    name = stored["file"]
    path = folder / name
    if Path(name).name != name or path.suffix not in _TYPES:
        raise InputError(f"picture {name!r} must be a .jpg or .png beside it")
    refuse_links(out_root, [path])
    return data_uri(_TYPES[path.suffix], read_bounded(path, _MAX_PICTURE_BYTES)), stored["caption"]
