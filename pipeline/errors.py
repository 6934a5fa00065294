"""Users' mistakes and the world's failures, as types, and the exit codes they become.

Messages say what was given, what is allowed and what to do.
"""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """What scripts return; schedulers decide by it."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_SCENES_FAILED = 3
    STOPPED = 75  # EX_TEMPFAIL: work is left, run me again


class PipelineError(Exception):
    """The command cannot go on. `exit_code` is what the script returns."""

    exit_code = 1


class UsageError(PipelineError):
    """A flag, a name or a path that was asked for does not exist or does not fit."""

    exit_code = 2


class NotConfirmedError(PipelineError):
    """Phase 5 was started before the operator confirmed max_coc, or after the depth it came from changed."""


class SceneError(PipelineError):
    """One scene cannot go on; the others can."""


class InputError(SceneError):
    """Raw data, delivered depth or a stored file that cannot be used."""


class TooEarlyError(SceneError):
    """An earlier phase of the scene is not finished; `waits_for` is its name."""

    def __init__(self, message: str, waits_for: str) -> None:
        super().__init__(message)
        self.waits_for = waits_for


class StaleError(SceneError):
    """Outputs exist that were made with other settings or inputs, or whose origin is unknown."""


class LeaseHeldError(SceneError):
    """Another worker is at this scene and phase."""


class LeaseLostError(SceneError):
    """Another worker took this scene over; what it writes must not be mixed with what we write."""


class StoppedError(BaseException):
    """A signal asked for a stop, and a safe point was reached.

    Not an Exception, so that no handler for failures takes a stop for one.
    """


def explain_os_error(error: OSError) -> str:
    """What the operating system said, with what to do about it, in one line."""
    where = f"{error.filename}: " if error.filename else ""
    said = f"{where}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({said}); free some space and run the same command, finished frames are kept"
    if error.errno == errno.EROFS:
        return f"the disk is read-only ({said}); have it mounted for writing, or give other --out_root and --logs"
    if isinstance(error, PermissionError):
        return f"no permission: {said}"
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENXIO):
        return f"the disk is in trouble ({said}); run the same command when it is well again"
    return said
