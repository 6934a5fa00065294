"""Commands that messages tell a person to run, with the roots that this process was given, so that they can be pasted.

A command ends its line: what follows it there would be pasted with it (`tests/test_hints.py`).

Lower rooms know phases by name alone. How a phase is called is registered by `pipeline.phases.registry`; without it the
operator's command serves, which takes every phase too.
"""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence


def _by_name(phase: str) -> str:
    return f"python -m pipeline {phase}"


_spelled: Callable[[str], str] = _by_name
_roots: tuple[str, ...] = ()
_run: tuple[str, ...] | None = None  # the words of a run of all phases that this process is at


def spell_phases(spelled: Callable[[str], str]) -> None:
    """Say how a phase is called: name -> "python scripts/03_depth.py"."""
    global _spelled
    _spelled = spelled


def use_roots(*flags: str) -> None:
    """Flags such as --raw_root mine that every command of this process repeats; none where the defaults are used."""
    global _roots
    _roots = flags


def roots_in_use() -> tuple[str, ...]:
    """What `use_roots` was told, for processes that are started to help this one."""
    return _roots


def phase_command(phase: str, *flags: str) -> str:
    """The command that runs a phase: phase_command("depth", "--scene", "bear")."""
    more = shlex.join([*flags, *_roots])
    return f"{_spelled(phase)} {more}".rstrip()


def operator_command(*words: str) -> str:
    """A command of `python -m pipeline`: operator_command("resume")."""
    return shlex.join(["python", "-m", "pipeline", *words, *_roots])


def command(module: str, *words: str) -> str:
    """A command that takes none of the roots: command("model.evaluate", "runs/demo")."""
    return shlex.join(["python", "-m", module, *words])


def next_step(phase: str, *flags: str) -> str:
    """ " Next: COMMAND" to end a message with; empty while `going_on`."""
    return "" if _run is not None else f" Next: {phase_command(phase, *flags)}"


def command_with(phase: str, *flags: str) -> str:
    """`phase_command`; while `going_on` the run's own command, which hands the flags to the phase."""
    if _run is None:
        return phase_command(phase, *flags)
    return shlex.join(["python", "-m", "pipeline", "run", *_run, f"--{phase}_args", shlex.join(flags)])


@contextlib.contextmanager
def going_on(words: Sequence[str]) -> Iterator[None]:
    """While phases run one after the other by themselves, none tells a person to start the next.

    Args:
        words: what `python -m pipeline run` was given.
    """
    global _run
    _run = tuple(words)
    try:
        yield
    finally:
        _run = None
