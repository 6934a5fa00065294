"""Phases as commands: a phase's flags on one parser, and what scripts and `python -m pipeline PHASE` run.

The only place that knows both the phases and what they show to people (`pipeline.report`).
"""

import argparse
from collections.abc import Callable
from typing import Any

from pipeline import cli
from pipeline.engines.flags import add_engine_flags
from pipeline.errors import ExitCode
from pipeline.phases.registry import Phase, phase_named
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import histogram_path, page_path


class Page:
    """The report, drawn when it is asked for; importing what draws it takes a second."""

    def draw_histogram(self, run: RunSettings, stats: dict[str, Any]) -> None:
        from pipeline.report.histogram import draw_histogram

        path = histogram_path(run.out_root)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_histogram(path, stats)

    def write_page(self, run: RunSettings) -> None:
        from pipeline.report.page import write_page

        write_page(run.out_root, page_path(run.out_root))


def add_phase_flags(parser: argparse.ArgumentParser, phase: Phase) -> None:
    """The engine's flags and the phase's own, on a parser that has the shared ones."""
    if phase.role is not None:
        add_engine_flags(parser, phase.role, phase.default_engine)
    phase.add_flags(parser)


def phase_parser(phase: Phase, description: str | None = None) -> cli.ArgumentParser:
    """Everything that a phase's command takes."""
    parser = cli.parser(description or f"Phase {phase.number}: {phase.help}.")
    parser.prog = " ".join(phase.command).replace("-m pipeline", "python -m pipeline")
    add_phase_flags(parser, phase)
    return parser


def run_phase(name: str, argv: list[str] | None = None, description: str | None = None) -> int:
    """Parse a phase's flags and run it; returns the exit code."""
    phase = phase_named(name)
    args = phase_parser(phase, description).parse_args(argv)
    return cli.main(lambda: _run(phase, args))


def _run(phase: Phase, args: argparse.Namespace) -> ExitCode:
    return phase.run(args, cli.run_settings(args), Page())


def script(name: str, description: str | None) -> Callable[[list[str] | None], int]:
    """The `main` of a phase's script."""

    def main(argv: list[str] | None = None) -> int:
        return run_phase(name, argv, description)

    return main
