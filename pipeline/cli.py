"""What all commands share: the flags, spelled the same everywhere, and errors that become one line and an exit code."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline.arguments import ArgumentParser
from pipeline.crash import note_crash, use_logs
from pipeline.device import fix_threads
from pipeline.errors import ExitCode, PipelineError, StoppedError, explain_os_error
from pipeline.extras import missing_extra
from pipeline.hints import use_roots
from pipeline.reporter import stdout_is_closed_quietly
from pipeline.run_settings import RunSettings
from pipeline.storage.bounded import one_line


def parser(description: str | None) -> ArgumentParser:
    """A parser with the flags that every phase has."""
    made = ArgumentParser(description=description)
    add_roots(made)
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


def add_roots(made: argparse.ArgumentParser) -> None:
    """--raw_root, --out_root and --logs."""
    default = RunSettings()
    made.add_argument("--raw_root", type=Path, default=default.raw_root, help="folder of raw scenes")
    made.add_argument("--out_root", type=Path, default=default.out_root, help="folder of generated scenes")
    made.add_argument("--logs", type=Path, default=default.logs, help="folder of log files")


def run_settings(args: argparse.Namespace) -> RunSettings:
    """The shared flags as settings. Commands that messages name from here on repeat the roots that were given."""
    settings = RunSettings(
        raw_root=args.raw_root,
        out_root=args.out_root,
        logs=args.logs,
        scenes=tuple(getattr(args, "scene", ())),
        dry_run=getattr(args, "dry_run", False),
        on_stale=getattr(args, "on_stale", "stop"),
        redo=getattr(args, "redo", False),
    )
    use_logs(settings.logs)
    default = RunSettings()
    given = [name for name in ("raw_root", "out_root", "logs") if getattr(settings, name) != getattr(default, name)]
    use_roots(*(word for name in given for word in (f"--{name}", str(getattr(settings, name)))))
    return settings


def main(body: Callable[[], ExitCode], *, computes: bool = False) -> int:
    """Run a command's body; users' mistakes become one line on stderr and the exit code of pipeline.md's table.

    Args:
        body: what to do.
        computes: whether it computes with PyTorch or OpenCV at once; phases say so themselves when they come to it.
    """
    if computes:
        fix_threads()
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        return int(body())
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            return _crashed(error)
        print(f"error: {missing}", file=sys.stderr)
        return missing.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            stdout_is_closed_quietly()
            return int(ExitCode.FAILED)
        print(f"error: {explain_os_error(error)}", file=sys.stderr)
        return int(ExitCode.FAILED)
    except (KeyboardInterrupt, StoppedError):
        print("stopped; run the same command to go on", file=sys.stderr)
        return int(ExitCode.STOPPED)
    except Exception as error:
        return _crashed(error)


def _crashed(error: Exception) -> int:
    """The last resort: a person gets one line, whoever mends the program gets the traceback."""
    print(f"error: {one_line(error)}; this is a fault of the program, {note_crash(error)}", file=sys.stderr)
    return int(ExitCode.FAILED)
