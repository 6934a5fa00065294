"""Raw sources: the frames of one scene as delivered, a folder of images or a video file, decoded ahead of the reader."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from pipeline.media.arrays import Picture
from pipeline.media.frame_folder import VIDEO_SUFFIXES, look_at
from pipeline.media.images import read_picture
from pipeline.media.prefetch import map_ahead, prefetch


class RawSource(ABC):
    """The frames of one scene as delivered."""

    path: Path
    notes: tuple[str, ...] = ()  # on the source as a whole

    @abstractmethod
    def files(self) -> list[Path]:
        """Every file the frames come from, in order."""

    @abstractmethod
    def decode(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Picture, list[str]]]:
        """Yield (index, frame, notes) for the wanted indices (all by default), ascending, decoding ahead.

        Raises:
            InputError: a frame does not decode; the message names it.
        """


class FolderSource(RawSource):
    """A folder of pictures with any names, in natural order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = look_at(path)
        self._files = list(found.files)
        self.notes = found.notes

    def files(self) -> list[Path]:
        return self._files

    def decode(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Picture, list[str]]]:
        def read(index: int) -> tuple[int, Picture, list[str]]:
            return (index, *read_picture(self._files[index]))

        return map_ahead(read, range(len(self._files)) if wanted is None else sorted(wanted))


class VideoSource(RawSource):
    """One video file. Frames are numbered as decoded, so a variable frame rate needs no care.

    Args:
        path: the file.
        accept_truncated: take a file that was cut off up to its last whole frame; `notes` say so afterwards.
    """

    def __init__(self, path: Path, *, accept_truncated: bool = False) -> None:
        self.path = path
        self._accept_truncated = accept_truncated

    def files(self) -> list[Path]:
        return [self.path]

    def decode(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Picture, list[str]]]:
        from pipeline.media.video_decoder import decode_video  # PyAV is of an extra, and folders of pictures do without

        def note_cut(reason: str) -> None:
            self.notes = (f"taken up to its last whole frame: {reason}",)

        frames = decode_video(
            self.path,
            None if wanted is None else frozenset(wanted),
            on_cut=note_cut if self._accept_truncated else None,
        )
        # 8 bits, since nothing deeper was asked for
        return prefetch((frame.index, cast(Picture, frame.picture), list(frame.notes)) for frame in frames)


def open_source(path: Path, *, accept_truncated: bool = False) -> RawSource:
    """The raw source at a path: a folder of pictures or a video file."""
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return VideoSource(path, accept_truncated=accept_truncated)
    return FolderSource(path)
