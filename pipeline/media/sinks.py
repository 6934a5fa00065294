"""Where frames go: what videos and folders of pictures share as outputs, and the folders.

Special: what is finished lies in a work folder beside the output until all of it is. A run that was stopped goes on from there.
The output appears under its name only when it is complete.
"""

import shutil
from pathlib import Path
from types import TracebackType

from pipeline.errors import LeaseLostError, UsageError
from pipeline.media.images import encode_png
from pipeline.media.prefetch import WriteBehind
from pipeline.media.video_io import TimedFrame
from pipeline.storage.files import Fence, names_in, no_fence, remove_leftovers, write_bytes

WRITTEN_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


def work_folder(path: Path) -> Path:
    """Where an unfinished output lies."""
    path = path.resolve()
    return path.with_name(f".{path.name}.work")


def lease_path(path: Path) -> Path:
    """Of an output: two commands that write it at once would mix in its work folder."""
    path = path.resolve()
    return path.with_name(f".{path.name}.lease")


class Sink:
    """What both kinds of output share; used as a context manager around `write`. After the fence, which says that somebody
    else has the output now, nothing is written, renamed or removed.

    Leaving without an exception finishes the output and removes the work folder. After an exception what is done stays, if
    `keep_work` says so; an empty work folder never does.
    """

    def __init__(self, path: Path, *, keep_work: bool = False, fence: Fence = no_fence) -> None:
        self.path, self.work = path.resolve(), work_folder(path)
        self._keep_work, self._fence = keep_work, fence

    def resume(self) -> int:
        """How many frames from the first on are there already; writing goes on behind them."""
        raise NotImplementedError

    def go_back(self, frames: int) -> None:
        """Forget what is done from this frame on, a whole number of blocks: another output of the same run has no more."""
        raise NotImplementedError

    def write(self, frame: TimedFrame) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "Sink":
        if not self._keep_work:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.go_back(self.resume())
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        finished = False
        try:
            if kind is None:
                self._finish()
                finished = True
        finally:
            if self._is_ours() and (finished or not self._keep_work or self.resume() == 0):
                shutil.rmtree(self.work, ignore_errors=True)

    def _is_ours(self) -> bool:
        try:
            self._fence()
        except LeaseLostError:
            return False
        return True


class FolderSink(Sink):
    """PNG files, moved to their final folder together; what was there before goes then. 16 bits a channel for 10-bit films."""

    def __init__(self, path: Path, names: list[str], *, keep_work: bool = False, fence: Fence = no_fence) -> None:
        super().__init__(path, keep_work=keep_work, fence=fence)
        self._pictures, self._names = self.work / "pictures", names
        self._writer = WriteBehind()

    def resume(self) -> int:
        there = names_in(self._pictures)
        return next((number for number, name in enumerate(self._names) if name not in there), len(self._names))

    def go_back(self, frames: int) -> None:
        for name in self._names[frames:]:
            (self._pictures / name).unlink(missing_ok=True)

    def write(self, frame: TimedFrame) -> None:
        target, picture = self._pictures / frame.name, frame.picture
        self._writer.submit(lambda: write_bytes(target, encode_png(picture), self._fence))

    def __enter__(self) -> "FolderSink":
        super().__enter__()
        self._pictures.mkdir(exist_ok=True)
        remove_leftovers(self._pictures)
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._writer.__exit__(kind, value, tb)
        except BaseException as error:
            super().__exit__(type(error), error, tb)
            raise
        super().__exit__(kind, value, tb)

    def _finish(self) -> None:
        self._fence()
        if self.path.exists():
            shutil.rmtree(self.path)
        self._pictures.rename(self.path)


def check_output(path: Path, source_path: Path, *, overwrite: bool) -> None:
    """Refuse an output that would hurt something.

    Raises:
        UsageError: it exists and overwrite is false, it is or holds the input, or it is a folder that holds other things
            than pictures.
    """
    if source_path.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"the output must neither be nor hold the input, {source_path}, got {path}")
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already; give another -o, or --overwrite")
    if is_video(path):
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and a video was asked for; give another -o")
        return
    if path.suffix or path.is_file():
        raise UsageError(f"-o must be a folder or end in one of {', '.join(WRITTEN_SUFFIXES)}, got {path}")
    others = [entry.name for entry in path.iterdir() if entry.suffix.lower() != ".png"] if path.is_dir() else []
    if others:
        raise UsageError(f"{path} holds {sorted(others)[0]}, which no run wrote; it is not replaced, give another -o")


def is_video(path: Path) -> bool:
    """Whether an output of this name is a video; otherwise it is a folder of pictures."""
    return path.suffix.lower() in WRITTEN_SUFFIXES
