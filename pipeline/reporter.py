"""What a person sees: a progress bar with ETA on a terminal, plain lines elsewhere, and everything in a log file too."""

import logging
import os
import re
import socket
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.storage.holder import current_job_id

_PLAIN_EVERY_S = 15.0  # in a log file, one progress line now and then
_LOGGERS = (logging.getLogger("pipeline"), logging.getLogger("model"))


class _Forward(logging.Handler):
    """Hands what modules say through `logging` to a reporter: warnings are shown, the rest is for the log file."""

    def __init__(self, reporter: "Reporter") -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        say = self._reporter.warning if record.levelno >= logging.WARNING else self._reporter.log_only
        say(record.getMessage())


class Reporter:
    """Lines to the terminal and to `<logs>/<name>.log`; used as a context manager.

    While it is open, records of the loggers "pipeline" and "model" come here too, so that engines and networks can speak
    without knowing it.
    A log folder that cannot be written costs the log, with one warning, and not the work.
    """

    def __init__(self, name: str, logs: Path | None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._name = name
        self._log = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._handler = _Forward(self)
        self._levels: list[int] = []
        self._total = self._done = 0
        self._started = self._printed = time.monotonic()
        if logs is None:
            return
        # Whoever sets SLURM's variables by hand may put anything there; a log stays in its folder.
        job = re.sub(r"[^A-Za-z0-9._-]", "_", current_job_id() or "")
        path = logs / (f"{name}_{job}.log" if job else f"{name}.log")
        try:
            logs.mkdir(parents=True, exist_ok=True)
            self._log = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            self.warning(f"no log file {path} ({error.strerror}); going on without")

    def __enter__(self) -> "Reporter":
        self._levels = [logger.level for logger in _LOGGERS]
        for logger in _LOGGERS:
            logger.setLevel(logging.INFO)
            logger.addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for logger, level in zip(_LOGGERS, self._levels, strict=True):
            logger.removeHandler(self._handler)
            logger.setLevel(level)
        self.end_progress()
        if self._log:
            self._log.close()

    def info(self, text: str) -> None:
        self._say(text, "")

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}", "yellow")

    def error(self, text: str) -> None:
        self._say(f"error: {text}", "red")

    def log_only(self, text: str) -> None:
        """For tracebacks and figures that a terminal does not need."""
        if self._log:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            prefix = f"{stamp} {socket.gethostname()} {os.getpid()} "
            try:
                self._log.write("".join(f"{prefix}{line}\n" for line in text.splitlines()))
            except OSError:  # the log's disk is full: the work may well be on another
                self._log = None

    def _say(self, text: str, style: str) -> None:
        self._console.print(text, style=style or None, markup=False)
        self.log_only(text)

    def begin_progress(self, label: str, total: int, done: int = 0) -> None:
        """Start counting `total` steps, of which `done` were there before."""
        self.end_progress()
        self._total, self._done = total, done
        self._started = self._printed = time.monotonic()
        self._first = done
        self._label = label
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, completed=done)

    def advance(self) -> None:
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)
        elif time.monotonic() - self._printed > _PLAIN_EVERY_S:
            self._printed = time.monotonic()
            rate = (self._done - self._first) / (self._printed - self._started)
            left_s = (self._total - self._done) / rate
            self.info(f"{self._label}: {self._done}/{self._total}, {rate:.2f} per second, {left_s:.0f} s left")

    def end_progress(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def stdout_is_closed_quietly() -> None:
    """After a broken pipe (`| head`), keep Python from complaining while it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
