"""The operator's commands.

python -m pipeline status            a table of scenes by phase
python -m pipeline status --json     the same for programs
python -m pipeline explain SCENE PHASE
python -m pipeline check             device, architecture, versions
python -m pipeline weights           which published weights are here; --download fetches what is missing
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import cli
from pipeline.environment import check
from pipeline.runner import ExitCode, RunSettings
from pipeline.status import PHASES, dataset_status, explain
from pipeline.weights import command as weights_command

_COLOURS = {"done": "green", "running": "cyan", "partial": "yellow", "stale": "magenta", "failed": "red"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="a table of scenes by phase")
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated")
    explained = commands.add_parser("explain", help="why a phase of a scene is in the state it is in")
    explained.add_argument("scene", metavar="SCENE")
    explained.add_argument("phase", metavar="PHASE", choices=PHASES, help=", ".join(PHASES))
    commands.add_parser("check", help="what this machine computes on, and whether the environment fits")
    weights_command.add_arguments(
        commands.add_parser("weights", help="which published weights are here, and getting them")
    )
    for command in (status, explained):
        command.add_argument("--raw_root", type=Path, default=Path("data"), help="folder of raw scenes (default: data)")
        command.add_argument("--out_root", type=Path, default=Path("output"), help="generated scenes (default: output)")
    return parser.parse_args(argv)


def show(found: dict[str, Any], console: Console) -> None:
    """The status table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("scene", "split", "frames", *PHASES):
        table.add_column(heading)
    notes = []
    for name, row in found["scenes"].items():
        cells = []
        for phase in PHASES:
            state, detail = row[phase]["state"], row[phase]["detail"]
            unfinished = state in ("running", "partial", "incomplete") and row[phase]["total"]
            count = f" {row[phase]['finished']}/{row[phase]['total']}" if unfinished else ""
            cells.append(f"[{_COLOURS.get(state, 'default')}]{state}{count}[/]")
            if detail and state not in ("done", "waiting"):
                notes.append(f"{name} {phase}: {detail}")
        table.add_row(name, row["split"], str(row["frames"]), *cells)
    console.print(table)
    calibration = found["calibration"]
    value = f", max_coc {calibration['max_coc'] * 1e6:.1f} um" if "max_coc" in calibration else ""
    console.print(f"\ncalibration: {calibration['state']}{value}")
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for name, reasons in found["rejected"].items():
        console.print(f"rejected {name}: {'; '.join(reasons)}", markup=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        if args.command == "check":
            print("\n".join(check()))
            return ExitCode.DONE
        if args.command == "weights":
            print(weights_command.run(args.names, args.weights, args.download))
            return ExitCode.DONE
        if args.command == "explain":
            print(explain(RunSettings(raw_root=args.raw_root, out_root=args.out_root), args.scene, args.phase))
            return ExitCode.DONE
        found = dataset_status(RunSettings(raw_root=args.raw_root, out_root=args.out_root, scenes=tuple(args.scene)))
        if args.json:
            print(json.dumps(found, indent=2, sort_keys=True))
        else:
            show(found, Console(highlight=False))
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
