"""All phases in one go: `python -m pipeline run`.

python -m pipeline run --raw_root mine --out_root made             asks before it renders
python -m pipeline run --raw_root mine --yes                       takes the recommended max_coc unseen
python -m pipeline run --depth_args "--engine vda" --render_args "--num_sets 2"
python -m pipeline run --dry_run                                   the commands it would run, one by one

Each phase skips what is done, so the same command goes on after whatever stopped it. Between measuring and rendering it
shows how much will be blurred and asks. Lenses are drawn to show depth of field (--lens_prior visible): unlike phase 4 by
itself, this is for people with clips of their own. --calibrate_args "--lens_prior published" draws them as published.
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import cli
from pipeline.cluster.preflight import check_flags
from pipeline.cluster.request import add_phase_args, phase_args
from pipeline.commands import run_phase
from pipeline.errors import ExitCode, NotConfirmedError, PipelineError, UsageError
from pipeline.hints import going_on, operator_command, phase_command
from pipeline.phases.calibrate import length_m
from pipeline.phases.calibration import confirm, read_calibration, statistics
from pipeline.phases.registry import GROUPS, Phase, phases
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import calibration_path, histogram_path, page_path

PRIOR = "visible"


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What was asked for.

    Args:
        settings: the shared flags.
        args: phase -> flags of its own.
        yes: confirm the recommended max_coc without a question.
        words: the command's own words, to repeat in a hint.
    """

    settings: RunSettings
    args: Mapping[str, tuple[str, ...]]
    yes: bool
    words: tuple[str, ...]


def in_order() -> tuple[Phase, ...]:
    """The phases of a whole run."""
    return tuple(phase for phase in phases() if set(phase.groups) & set(GROUPS))


def main(argv: list[str]) -> int:
    """Run `python -m pipeline run`; returns the exit code of the first phase that fails."""
    parser = cli.parser(__doc__)
    parser.prog = "python -m pipeline run"
    parser.add_argument("--yes", action="store_true", help="confirm the recommended max_coc without a question")
    add_phase_args(parser, in_order())
    args = parser.parse_args(argv)
    given = phase_args(parser, args, [phase.name for phase in in_order()])
    return cli.main(lambda: run(Whole(settings=cli.run_settings(args), args=given, yes=args.yes, words=tuple(argv))))


def run(whole: Whole) -> ExitCode:
    """Every phase after the other.

    Raises:
        UsageError: flags that a phase would refuse; nothing has begun.
        NotConfirmedError: the calibration needs a person, and there is none.
    """
    for phase in in_order():
        check_flags(phase, whole.args[phase.name])
    if whole.settings.dry_run:
        for phase in in_order():
            print(f"phase {phase.number}: {phase_command(phase.name, *_flags(phase, whole))}")
        print("Nothing was run. Each of them can be given --dry_run by itself")
        return ExitCode.DONE
    for phase in in_order():
        if phase.calibrated:
            _settle_calibration(whole)
        print(f"\nphase {phase.number} of {len(in_order())}, {phase.name}: {phase.help}", flush=True)
        with going_on(whole.words):
            code = run_phase(phase.name, [*_roots(whole.settings), *_flags(phase, whole)])
        if code:
            print(f"run: phase {phase.number} ended with exit code {code}; to go on: {_again(whole)}", file=sys.stderr)
            return ExitCode(code)
    print(f"\nrun: all is done; look at {page_path(whole.settings.out_root)}\n  {operator_command('status')}")
    return ExitCode.DONE


def _roots(settings: RunSettings) -> list[str]:
    return [f"--{name}={getattr(settings, name)}" for name in ("raw_root", "out_root", "logs")]


def _flags(phase: Phase, whole: Whole) -> list[str]:
    """What a phase gets besides the roots. Its own flags come last: of a flag given twice the last counts."""
    settings = whole.settings
    flags = [word for scene in settings.scenes for word in ("--scene", scene)]
    flags += ["--on_stale", settings.on_stale] if settings.on_stale != "stop" else []
    flags += ["--redo"] if settings.redo else []
    if phase.name == "calibrate":
        flags += ["--lens_prior", _prior(settings)]
    if phase.name == "validate":
        flags += ["--if_changed"]
    return [*flags, *whole.args[phase.name]]


def _prior(settings: RunSettings) -> str:
    """That of a calibration that somebody confirmed, so that a dataset goes on as it began; else `PRIOR`."""
    path = calibration_path(settings.out_root)
    try:
        stats = read_calibration(path) if path.exists() else None
    except PipelineError:
        return PRIOR  # phase 4 says what is wrong with it
    if stats is None or not stats["confirmed_max_coc"]:
        return PRIOR
    return str(stats["fields"]["settings"].get("lens_prior", "published"))


def _again(whole: Whole, *more: str) -> str:
    return shlex.join(["python", "-m", "pipeline", "run", *whole.words, *more])


def _settle_calibration(whole: Whole) -> None:
    """Have max_coc confirmed, by the flag or by whoever sits at the terminal.

    Raises:
        NotConfirmedError: neither; the message holds the numbers and both ways on.
        StoppedError, PipelineError: as confirming does.
    """
    path, picture = calibration_path(whole.settings.out_root), histogram_path(whole.settings.out_root)
    stats = read_calibration(path)
    if stats["confirmed_max_coc"]:
        return
    told = f"{statistics(stats)}. The histogram is {picture}"
    if whole.yes:
        return _confirm(whole, None)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NotConfirmedError(
            f"max_coc is not confirmed, and there is no terminal to ask at. {told}\n"
            f"  take the recommendation and go on: {_again(whole, '--yes')}\n"
            f"  or another value, and then the same: {phase_command('calibrate', '--confirm', '350um')}"
        )
    print(f"\n{told}\nmax_coc is where focus maps end: what is blurred more counts as blurred as much.")
    while True:
        answer = _ask(
            f"Confirm {stats['recommended_max_coc'] * 1e6:.0f} um and render? [y, n, or a value such as 350um] "
        )
        if answer in ("", "n", "no"):
            raise NotConfirmedError(
                f"max_coc is not confirmed; nothing was rendered. To be asked again: {_again(whole)}"
            )
        try:
            return _confirm(whole, None if answer in ("y", "yes") else length_m(answer))
        except UsageError as error:
            print(error)


def _ask(question: str) -> str:
    try:
        return input(question).strip().lower()
    except EOFError:
        return ""


def _confirm(whole: Whole, value_m: float | None) -> None:
    with going_on(whole.words):
        confirm(value_m, whole.settings)
