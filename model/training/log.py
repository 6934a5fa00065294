"""What a run leaves to look at: `train.jsonl` (one object per logged step), TensorBoard events, validation sheets.

Written by the main process only. After a resume, lines of steps that will be taken again are dropped first, so that a file
holds every step once.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.storage.appending import OwnAppender, read_records
from pipeline.storage.files import Fence, no_fence, write_bytes

LOG_NAME, PICTURES_NAME = "train.jsonl", "pictures"


class TrainLog:
    """Used as a context manager.

    Args:
        out_dir: of the run; exists.
        first_step: the step that comes next: what was logged from there on is dropped.
        fence: raises when this process may not write there any more.
    """

    def __init__(self, out_dir: Path, first_step: int, fence: Fence = no_fence) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self._path = out_dir / LOG_NAME
        self._images = out_dir / PICTURES_NAME
        self._images.mkdir(exist_ok=True)
        self._fence = fence
        self._file = OwnAppender(self._path, self._lines_before(first_step), fence)
        self._board = SummaryWriter(str(out_dir / "tensorboard"), purge_step=first_step)

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._board.close()
        self._file.close()

    def _lines_before(self, first_step: int) -> list[str]:
        """Of earlier attempts; lines that a kill tore are left behind."""
        whole = read_records(self._path)
        return [json.dumps(line) for line in whole if isinstance(line.get("step"), int) and line["step"] < first_step]

    def add(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line, and one point per number for TensorBoard.

        Args:
            kind: "train" or "validation".
            step: optimiser steps taken before this one.
            values: numbers, or None for what was not measured.
        """
        self._file.append(json.dumps({"kind": kind, "step": step, **values}, allow_nan=False))
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sheet(self, step: int, png: bytes) -> Path:
        """A validation sheet; returns its path."""
        path = self._images / f"step_{step:06d}.png"
        write_bytes(path, png, self._fence)
        return path
