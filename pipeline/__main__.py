"""The operator's commands, and every phase by name. Installed, `bokehflow` is the same as `python -m pipeline`.

python -m pipeline run --raw_root mine       all phases in one go; asks before it renders
python -m pipeline status            a table of scenes by phase
python -m pipeline status --json     the same for programs
python -m pipeline explain SCENE PHASE
python -m pipeline resume            submit again what is missing, failed or stale; --dry_run, --local
python -m pipeline report            write output/report/index.html from what is there
python -m pipeline view              a local page to look at lenses and max_coc with, and to confirm it there
python -m pipeline check             device, architecture, versions
python -m pipeline weights           which published weights are here; --download fetches what is missing
python -m pipeline depth --help      a phase, as its script runs it
"""

import argparse
import json
import sys
from dataclasses import replace

from pipeline import cli
from pipeline.cluster import request
from pipeline.commands import Page, run_phase
from pipeline.errors import ExitCode
from pipeline.phases.registry import phases, scene_phases
from pipeline.storage.scene import page_path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.ArgumentParser(
        prog="python -m pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="a table of scenes by phase")
    status.add_argument("--json", action="store_true", help="machine-readable")
    explained = commands.add_parser("explain", help="why a phase of a scene is in the state it is in")
    names = [phase.name for phase in scene_phases()]
    explained.add_argument("scene", metavar="SCENE")
    explained.add_argument("phase", metavar="PHASE", choices=names, help=", ".join(names))
    commands.add_parser("check", help="what this machine computes on, and whether the environment fits")
    weights = commands.add_parser("weights", help="which published weights are here, and getting them")
    _add_weights_flags(weights)
    report = commands.add_parser("report", help="write the report page from what is there")
    viewed = commands.add_parser("view", help="a local page: look at lenses and max_coc, and confirm it there")
    _add_view_flags(viewed)
    resumed = commands.add_parser("resume", help="submit again what is missing, failed or stale")
    resumed.add_argument("--dry_run", action="store_true", help="the plan and the sbatch files; submits nothing")
    request.add_flags(resumed)
    for command in (status, resumed):
        command.add_argument(
            "--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated"
        )
    for command in (status, explained, report, viewed, resumed):
        cli.add_roots(command)
    commands.add_parser("run", help="all phases in one go", add_help=False)
    for phase in phases():
        commands.add_parser(phase.name, help=f"phase {phase.number}: {phase.help}", add_help=False)
    return parser.parse_args(argv)


def _add_weights_flags(parser: argparse.ArgumentParser) -> None:
    from pipeline.weights import command

    command.add_arguments(parser)


def _add_view_flags(parser: argparse.ArgumentParser) -> None:
    from pipeline.view import command

    command.add_arguments(parser)


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in {phase.name for phase in phases()}:
        return run_phase(words[0], words[1:])
    if words[:1] == ["run"]:
        from pipeline import run_all

        return run_all.main(words[1:])
    args = parse(words)
    return cli.main(lambda: _run(args))


def _run(args: argparse.Namespace) -> ExitCode:
    """What is slow to import is imported by the command that needs it."""
    if args.command == "check":
        from pipeline.environment import check

        print("\n".join(check()))
        return ExitCode.DONE
    if args.command == "weights":
        from pipeline.weights import command

        print(command.run(args.names, args.weights, args.download))
        return ExitCode.DONE
    settings = cli.run_settings(args)
    if args.command == "report":
        Page().write_page(settings)
        print(f"wrote {page_path(settings.out_root)}")
    elif args.command == "view":
        from pipeline.view import command as view

        return view.serve(settings, view.settings_of(args), open_page=args.open)
    elif args.command == "explain":
        from pipeline.status import explain

        print(explain(settings, args.scene, args.phase))
    elif args.command == "resume":
        from pipeline.cluster.resume import resume  # needs submitit, which is of an extra

        return resume(replace(settings, dry_run=args.dry_run), request.cluster_flags(args))
    else:
        from rich.console import Console

        from pipeline import status_table
        from pipeline.cluster import overview
        from pipeline.status import dataset_status

        found = dataset_status(settings)
        overview.add_cluster(found, settings)
        if args.json:
            print(json.dumps(found, indent=2, sort_keys=True))
        else:
            status_table.show(found, Console(highlight=False))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
