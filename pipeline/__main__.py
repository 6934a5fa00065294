"""The operator's commands.

python -m pipeline status            a table of scenes by phase
python -m pipeline status --json     the same for programs
python -m pipeline explain SCENE PHASE
python -m pipeline resume            submit again what is missing, failed or stale; --dry_run, --local
python -m pipeline report            write output/report/index.html from what is there
python -m pipeline check             device, architecture, versions
python -m pipeline weights           which published weights are here; --download fetches what is missing
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import cli
from pipeline.cluster import overview, request
from pipeline.environment import check
from pipeline.errors import ExitCode
from pipeline.phases.run_settings import RunSettings
from pipeline.phases.validate import page_path
from pipeline.report.page import write_page
from pipeline.status import PHASES, dataset_status, explain
from pipeline.weights import command as weights_command

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "partial": "yellow",
    "stale": "magenta",
    "failed": "red",
}
_FULL_TABLE = 100  # scenes


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
    report = commands.add_parser("report", help="write the report page from what is there")
    resumed = commands.add_parser("resume", help="submit again what is missing, failed or stale")
    resumed.add_argument(
        "--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated"
    )
    resumed.add_argument("--dry_run", action="store_true", help="the plan and the sbatch files; submits nothing")
    request.add_flags(resumed)
    for command in (status, resumed):
        command.add_argument("--logs", type=Path, default=Path("logs"), help="folder of log files (default: logs)")
    for command in (status, explained, report, resumed):
        command.add_argument("--raw_root", type=Path, default=Path("data"), help="folder of raw scenes (default: data)")
        command.add_argument("--out_root", type=Path, default=Path("output"), help="generated scenes (default: output)")
    return parser.parse_args(argv)


def show(found: dict[str, Any], console: Console) -> None:
    """The status table; of many scenes only those with something left, and the counts of all."""
    shown = found["scenes"]
    if len(shown) > _FULL_TABLE:
        shown = {name: row for name, row in shown.items() if any(row[phase]["state"] != "done" for phase in PHASES)}
    table = Table(box=None, pad_edge=False)
    for heading in ("scene", "split", "frames", *PHASES):
        table.add_column(heading)
    notes = []
    for name, row in islice(shown.items(), _FULL_TABLE):
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
    if len(found["scenes"]) > len(table.rows):
        console.print(
            f"{len(table.rows)} of {len(found['scenes'])} scenes shown, those with work left first; --json has all"
        )
    for phase in PHASES:
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
        if args.command == "report":
            write_page(args.out_root, page_path(args.out_root))
            print(f"wrote {page_path(args.out_root)}")
            return ExitCode.DONE
        settings = RunSettings(raw_root=args.raw_root, out_root=args.out_root, logs=args.logs, scenes=tuple(args.scene))
        if args.command == "resume":
            from pipeline.cluster.resume import resume  # needs submitit, which is of an extra

            return resume(replace(settings, dry_run=args.dry_run), request.cluster_flags(args))
        found = dataset_status(settings)
        overview.add_cluster(found, settings)
        if args.json:
            print(json.dumps(found, indent=2, sort_keys=True))
        else:
            show(found, Console(highlight=False))
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
