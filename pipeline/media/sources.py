"""Raw sources: the frames of one scene as delivered, a folder of images or a video file, decoded ahead of the reader."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.media.images import PICTURE_SUFFIXES, Picture, natural_key, read_picture
from pipeline.media.prefetch import map_ahead, prefetch

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


class RawSource(ABC):
    """The frames of one scene as delivered."""

    path: Path

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
        try:
            names = [entry.name for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES]
            names = [name for name in names if not name.startswith(".") and (path / name).is_file()]
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        self._files = [path / name for name in sorted(names, key=natural_key)]
        if not self._files:
            raise InputError(f"{path} holds no frames; allowed are {', '.join(PICTURE_SUFFIXES)}")

    def files(self) -> list[Path]:
        return self._files

    def decode(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Picture, list[str]]]:
        def read(index: int) -> tuple[int, Picture, list[str]]:
            return (index, *read_picture(self._files[index]))

        return map_ahead(read, range(len(self._files)) if wanted is None else sorted(wanted))


class VideoSource(RawSource):
    """One video file. Frames are numbered as decoded, so a variable frame rate needs no care; rotation is honoured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        return [self.path]

    def decode(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Picture, list[str]]]:
        return prefetch(self._decode(None if wanted is None else set(wanted)))

    def _decode(self, wanted: set[int] | None) -> Iterator[tuple[int, Picture, list[str]]]:
        import av  # of an extra, and folders of pictures do without

        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise InputError(f"{self.path} holds no video stream")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                last = None if wanted is None else max(wanted, default=-1)
                for index, frame in enumerate(container.decode(stream)):
                    if last is not None and index > last:
                        return
                    if frame.is_corrupt:
                        raise InputError(f"{self.path}: frame {index} is damaged")
                    if wanted is None or index in wanted:
                        yield self._upright(index, frame)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.path} does not decode: {error}") from None

    @staticmethod
    def _upright(index: int, frame: Any) -> tuple[int, Picture, list[str]]:
        picture = frame.to_ndarray(format="rgb24")
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns:
            return index, np.ascontiguousarray(np.rot90(picture, quarter_turns)), ["rotated as the video says"]
        return index, picture, []


def open_source(path: Path) -> RawSource:
    """The raw source at a path: a folder of pictures or a video file."""
    return VideoSource(path) if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() else FolderSource(path)
