"""What is known of a scene's finished frames while it is in work: the head with the fingerprint, then a line a frame."""

import json
import threading
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.appending import OwnAppender, whole_records
from pipeline.storage.bounded import JSON_LIMIT, open_regular, read_bounded
from pipeline.storage.files import Fence, no_fence

Fields = dict[str, Any]


class Journal:
    """`<scene>/.pipeline/<phase>.jsonl`: a head with the fingerprint, then one line per finished frame (key -> facts).

    A frame's line is on disk before the frame's file is renamed into place, so every finished frame has its line. It stays
    after the phase is done: outputs lost later are made again without losing what was measured on the others.

    Writing begins with `begin` or `go_on`, which put a new file in the old one's place and append to that very file from
    then on. A worker whose lease was taken over meanwhile appends to a file that has no name any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: Fields | None = None
        self.facts: dict[str, dict[str, Any]] = {}
        self._file: OwnAppender | None = None
        self._fence: Fence = no_fence
        self._lock = threading.Lock()
        self._read()

    def _read(self) -> None:
        try:
            data = read_bounded(self.path, JSON_LIMIT)
        except (FileNotFoundError, NotADirectoryError, InputError):
            return
        for record in whole_records(data):
            if self.fields is None:
                if not isinstance(record.get("fields"), dict):
                    return  # the head is torn or foreign: nothing after it says what it belongs to
                self.fields = record["fields"]
            elif isinstance(record.get("key"), str) and isinstance(record.get("facts"), dict):
                self.facts[record["key"]] = record["facts"]

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
        self.fields, self.facts = fields, {}
        self.go_on(fence)

    def go_on(self, fence: Fence = no_fence) -> None:
        """Write further: whole lines are carried over into a file of our own, torn ones are left behind."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"fields": self.fields}, sort_keys=True)]
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
            self._file.append(_line(key, facts))
            self.facts[key] = facts

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(key: str, facts: dict[str, Any]) -> str:
    return json.dumps({"key": key, "facts": facts}, sort_keys=True, allow_nan=False)
