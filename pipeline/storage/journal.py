"""What is known of a scene's finished frames while it is in work: the head with the fingerprint, then a line a frame."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.appending import OwnAppender, whole_records
from pipeline.storage.bounded import JSON_LIMIT, open_regular, read_bounded
from pipeline.storage.files import Fence, no_fence

Fields = dict[str, Any]
_clock = time.monotonic


class Journal:
    """`<scene>/.pipeline/<phase>.jsonl`: a head with the fingerprint, then one line per finished frame (key -> facts).

    A frame's line is on disk before the frame's file is renamed into place, so every finished frame has its line. It stays
    after the phase is done: outputs lost later are made again without losing what was measured on the others.

    Writing begins with `begin` or `go_on`, which put a new file in the old one's place and append to that very file from
    then on. A worker whose lease was taken over meanwhile appends to a file that has no name any more.

    Each line also says how long its run had taken when it was written, and the head how long all runs before it had:
    `spent_s` is what earlier runs took until their last finished frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: Fields | None = None
        self.facts: dict[str, dict[str, Any]] = {}
        self.spent_s = 0.0
        self._started_s = 0.0
        self._file: OwnAppender | None = None
        self._fence: Fence = no_fence
        self._lock = threading.Lock()
        self._read()

    def _read(self) -> None:
        try:
            data = read_bounded(self.path, JSON_LIMIT)
        except (FileNotFoundError, NotADirectoryError, InputError):
            return
        run_s = 0.0
        for record in whole_records(data):
            run_s = max(run_s, _seconds(record.get("run_s")))
            if self.fields is None:
                if not isinstance(record.get("fields"), dict):
                    return  # the head is torn or foreign: nothing after it says what it belongs to
                self.fields = record["fields"]
                self.spent_s = _seconds(record.get("spent_s"))
            elif isinstance(record.get("key"), str) and isinstance(record.get("facts"), dict):
                self.facts[record["key"]] = record["facts"]
        self.spent_s += run_s

    @staticmethod
    def head(path: Path) -> Fields | None:
        """The fields alone, without reading what was noted of every frame; None without a readable journal."""
        try:
            with open_regular(path) as file:
                fields = json.loads(file.readline(JSON_LIMIT))["fields"]
        except (OSError, InputError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return fields if isinstance(fields, dict) else None

    def begin(self, fields: Fields, fence: Fence = no_fence) -> None:
        """Start afresh for work with these fields."""
        self.fields, self.facts, self.spent_s = fields, {}, 0.0
        self.go_on(fence)

    def go_on(self, fence: Fence = no_fence) -> None:
        """Write further: whole lines are carried over into a file of our own, torn ones are left behind."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._started_s = _clock()
        lines = [json.dumps({"fields": self.fields, "spent_s": round(self.spent_s, 3)}, sort_keys=True)]
        lines += [_line(key, facts) for key, facts in self.facts.items()]
        self.close()
        self._file, self._fence = OwnAppender(self.path, lines, fence), fence

    def add(self, key: str, facts: dict[str, Any]) -> None:
        """Record what is known of one finished output; the last line of a key counts.

        Raises:
            LeaseLostError: the lease it was begun under was lost.
        """
        with self._lock:
            if self._file is None:
                self.go_on(self._fence)
            assert self._file is not None, "go_on opens it"
            self._file.append(_line(key, facts, run_s=round(_clock() - self._started_s, 3)))
            self.facts[key] = facts

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(key: str, facts: dict[str, Any], **more: float) -> str:
    return json.dumps({"key": key, "facts": facts, **more}, sort_keys=True, allow_nan=False)


def _seconds(value: Any) -> float:
    """A time as it was written; 0 for anything else, since a time is no reason not to go on."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) and value > 0 else 0.0
