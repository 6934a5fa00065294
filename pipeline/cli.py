"""What all scripts share: the flags, spelled the same everywhere, and errors that become one line and an exit code."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from pipeline.crash import note_crash, use_logs
from pipeline.errors import ExitCode, PipelineError, StoppedError, UsageError, explain_os_error
from pipeline.phases.run_settings import RunSettings
from pipeline.reporter import stdout_is_closed_quietly
from pipeline.storage.bounded import one_line

# Sums depend on how they are cut into threads, and so would the last bit of a picture; a fixed number keeps outputs equal
# on machines with any number of cores. DIS flow cuts the picture by threads too (pipeline/temporal.py).
TORCH_THREADS = 2
OPENCV_THREADS = 1


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that every script has."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help)
    made.add_argument("--raw_root", type=Path, default=Path("data"), help="folder of raw scenes")
    made.add_argument("--out_root", type=Path, default=Path("output"), help="folder of generated scenes")
    made.add_argument("--logs", type=Path, default=Path("logs"), help="folder of log files")
    made.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated")
    made.add_argument("--dry_run", action="store_true", help="say what would be done and write nothing")
    made.add_argument(
        "--on_stale",
        choices=("stop", "redo", "keep"),
        default="stop",
        help="what to do with outputs made with other settings or inputs",
    )
    made.add_argument("--redo", action="store_true", help="make the scenes named with --scene again, finished or not")
    return made


def add_engine_flags(made: argparse.ArgumentParser, default: str, names: str) -> None:
    """--engine, --engine_opt and --device."""
    made.add_argument("--engine", default=default, metavar="NAME", help=names)
    made.add_argument(
        "--engine_opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine; may be repeated; a wrong name lists the right ones",
    )
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run_settings(args: argparse.Namespace) -> RunSettings:
    """The shared flags as settings."""
    use_logs(args.logs)
    return RunSettings(
        raw_root=args.raw_root,
        out_root=args.out_root,
        logs=args.logs,
        scenes=tuple(args.scene),
        dry_run=args.dry_run,
        on_stale=args.on_stale,
        redo=args.redo,
    )


def engine_options(args: argparse.Namespace) -> dict[str, str]:
    """--engine_opt NAME=VALUE pairs.

    Raises:
        UsageError: one has no "=".
    """
    pairs = {}
    for text in args.engine_opt:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--engine_opt takes NAME=VALUE, got {text!r}")
        pairs[name] = value
    return pairs


def main(body: Callable[[], ExitCode]) -> int:
    """Run a script's body; users' mistakes become one line on stderr and the exit code of pipeline.md's table."""
    torch.set_num_threads(TORCH_THREADS)
    cv2.setNumThreads(OPENCV_THREADS)
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        return int(body())
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            stdout_is_closed_quietly()
            return int(ExitCode.FAILED)
        print(f"error: {explain_os_error(error)}", file=sys.stderr)
        return int(ExitCode.FAILED)
    except (KeyboardInterrupt, StoppedError):
        print("stopped; run the same command to go on", file=sys.stderr)
        return int(ExitCode.STOPPED)
    except Exception as error:  # the last resort: a person gets one line, whoever mends the program gets the traceback
        print(f"error: {one_line(error)}; this is a fault of the program, {note_crash(error)}", file=sys.stderr)
        return int(ExitCode.FAILED)
