"""Where the traceback of an error that nobody expected goes: a log, so that the terminal shows one line."""

import os
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

_logs = Path("logs")


def use_logs(folder: Path) -> None:
    """The folder that this command's --logs names."""
    global _logs
    _logs = folder


def note_crash(error: BaseException) -> str:
    """Append the traceback to `<logs>/crash.log`, or to a file of its own in the system's temporary folder where that
    cannot be written. Returns a phrase that says where it is."""
    stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} {os.getpid()} {' '.join(sys.argv)}"
    text = f"{stamp}\n{''.join(traceback.format_exception(error))}\n"
    try:
        _logs.mkdir(parents=True, exist_ok=True)
        with (_logs / "crash.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return f"and its traceback is in {_logs / 'crash.log'}"
    except OSError:
        pass
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="bokehflow_crash_", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as spare:
            spare.write(text)
        return f"and its traceback is in {spare.name}"
    except OSError:
        return "and its traceback could be written nowhere"
