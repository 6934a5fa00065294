"""What below the output root is ours: only names that the pipeline writes are ever removed, and no link is followed.

The output root itself may be a symbolic link, and the folder of logs. Below the output root nothing may be one: a linked
folder would put what is written, and what `--redo` removes, somewhere else.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.storage.bounded import refuse_link
from pipeline.storage.files import Fence, leftovers, no_fence, target_of

DONE_NAME = ".done"


def refuse_links(root: Path, paths: Iterable[Path]) -> None:
    """Look at every step from `root`, which may be a link, down to each path.

    Raises:
        InputError: one of them is a symbolic link; the message names it and where it leads.
    """
    seen: set[Path] = set()
    for path in paths:
        step = root
        for name in path.relative_to(root).parts:
            step = step / name
            if step not in seen:
                seen.add(step)
                refuse_link(step)


class OwnFiles:
    """The files of one phase in one scene, known by their names.

    Args:
        scene_dir: the scene's folder.
        folders: the phase's modality folders.
        examples: what it writes for frame 0 and set 0; the numbers in them stand for any.
    """

    def __init__(self, scene_dir: Path, folders: Iterable[Path], examples: Iterable[Path]) -> None:
        self._dir, self._folders = scene_dir, tuple(folders)
        names = [path.relative_to(scene_dir) for path in examples]
        self._files = re.compile("|".join(_form(name.as_posix()) for name in names))
        parents = {name.parent.as_posix() for name in names} - {"."}
        self._subfolders = re.compile("|".join(_form(name) for name in parents) or "(?!)")

    def _is_ours(self, path: Path) -> bool:
        name = path.relative_to(self._dir).as_posix()
        return path.name == DONE_NAME or bool(self._files.fullmatch(name))

    def walk(self) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
        """(folder, entries) of the modality folders and of the folders in them that are ours, as far as they exist."""
        waiting = list(self._folders)
        while waiting:
            folder = waiting.pop(0)
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield folder, entries
            inner = [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [path for path in inner if self._subfolders.fullmatch(path.relative_to(self._dir).as_posix())]

    def refuse_links(self) -> None:
        """InputError when anything in the folders is a symbolic link; the folders themselves were looked at before."""
        for folder, entries in self.walk():
            for entry in entries:
                if entry.is_symlink():
                    refuse_link(folder / entry.name)

    def leftovers(self) -> list[Path]:
        """Temporary files of earlier writers, or of one who is at work."""
        folders = [*(folder for folder, _ in self.walk()), self._dir]
        return [
            path
            for folder in folders
            for path in leftovers(folder, lambda name, folder=folder: self._is_ours(folder / name))  # type: ignore[misc]
        ]

    def sweep(self) -> None:
        """Remove the temporary files of earlier writers: after this none of them can finish a write (`files`)."""
        for path in self.leftovers():
            path.unlink(missing_ok=True)

    def remove(self, fence: Fence = no_fence) -> list[Path]:
        """Remove what is ours, first every `.done`, so that no reader takes the rest for whole; folders that became empty
        too. Returns what was left alone because the phase does not write such names."""
        for folder in self._folders:
            fence()
            (folder / DONE_NAME).unlink(missing_ok=True)
        left: list[Path] = []
        folders: list[Path] = []
        for folder, entries in self.walk():
            folders.append(folder)
            for path in (folder / entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)):
                if self._is_ours(path):
                    fence()
                    path.unlink(missing_ok=True)
                elif target_of(path.name) is None:
                    left.append(path)
        for folder in reversed(folders):
            try:
                folder.rmdir()
            except OSError:  # not empty: something in it is not ours
                left += [path for path in folder.iterdir() if path.is_dir() and path not in folders]
        return sorted(left)


def _form(name: str) -> str:
    """frames_sharp/frame_0000.png -> the expression for that name with any number."""
    return re.sub(r"(?<=_)0+(?=[./\\]|$)", r"\\d{2,}", re.escape(name))
