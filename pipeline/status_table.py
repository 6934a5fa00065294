"""The table of `python -m pipeline status`."""

from collections import Counter
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.cluster import overview
from pipeline.phases.registry import scene_phases
from pipeline.storage.completion import State

_COLOURS = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.QUEUED: "blue",
    State.PARTIAL: "yellow",
    State.STALE: "magenta",
    State.FAILED: "red",
}
_FULL_TABLE = 100  # scenes


def show(found: dict[str, Any], console: Console) -> None:
    """The status table; of many scenes only those with something left, and the counts of all."""
    shown = found["scenes"]
    names = [phase.name for phase in scene_phases()]
    if len(shown) > _FULL_TABLE:
        shown = {name: row for name, row in shown.items() if any(row[phase]["state"] != State.DONE for phase in names)}
    table = Table(box=None, pad_edge=False)
    for heading in ("scene", "split", "frames", *names):
        table.add_column(heading)
    notes = []
    for name, row in islice(shown.items(), _FULL_TABLE):
        cells = []
        for phase in names:
            state, detail = row[phase]["state"], row[phase]["detail"]
            unfinished = state in (State.RUNNING, State.PARTIAL, State.INCOMPLETE) and row[phase]["total"]
            count = f" {row[phase]['finished']}/{row[phase]['total']}" if unfinished else ""
            cells.append(f"[{_COLOURS.get(state, 'default')}]{state}{count}[/]")
            if detail and state != State.DONE:
                notes.append(f"{name} {phase}: {detail}")
        table.add_row(name, row["split"], str(row["frames"]), *cells)
    console.print(table)
    if len(found["scenes"]) > len(table.rows):
        console.print(
            f"{len(table.rows)} of {len(found['scenes'])} scenes shown, those with work left first; --json has all"
        )
    for phase in names:
        counts = Counter(row[phase]["state"] for row in found["scenes"].values())
        console.print(f"{phase}: " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
    calibration = found["calibration"]
    value = f", max_coc {calibration['max_coc'] * 1e6:.1f} um" if "max_coc" in calibration else ""
    console.print(f"\ncalibration: {calibration['state']}{value}")
    for line in overview.lines(found["cluster"]) if "cluster" in found else []:
        console.print(line, markup=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for name, reasons in found["rejected"].items():
        console.print(f"rejected {name}: {'; '.join(reasons)}", markup=False, soft_wrap=True)
