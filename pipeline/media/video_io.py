"""Videos and folders of pictures as streams of frames with times (writing them is video_writer.py).

Special: one frame at a time. Times are the container's own, so a variable frame rate stays what it was.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from pipeline.errors import InputError, UsageError
from pipeline.media.images import Picture
from pipeline.media.prefetch import prefetch
from pipeline.media.sources import VIDEO_SUFFIXES, FolderSource, VideoSource


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A picture, when it is shown (seconds), and what to call its file."""

    time_s: Fraction
    name: str
    picture: Picture


class TimedVideo(VideoSource):
    """A video file; frames come upright, with the container's times."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise InputError(f"{path} holds no video stream")
                stream = container.streams.video[0]
                self.rate = Fraction(stream.average_rate or stream.guessed_rate or 24)
                self.time_base = Fraction(stream.time_base or 1 / self.rate)
                self.has_audio = bool(container.streams.audio)
                length_s = (container.duration or 0) / av.time_base
                self.count = stream.frames or round(length_s * self.rate)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{path} does not decode: {error}") from None

    def frames(self) -> Iterator[TimedFrame]:
        return prefetch(self._timed())

    def _timed(self) -> Iterator[TimedFrame]:
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for index, frame in enumerate(container.decode(stream)):
                    if frame.is_corrupt:
                        raise InputError(f"{self.path}: frame {index} is damaged")
                    time_s = index / self.rate if frame.pts is None else frame.pts * self.time_base
                    picture = self._upright(index, frame)[1]
                    yield TimedFrame(time_s=time_s, name=f"frame_{index:04d}.png", picture=picture)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.path} does not decode: {error}") from None


class TimedFolder(FolderSource):
    """A folder of pictures in natural order, at a rate that somebody has to say."""

    def __init__(self, path: Path, fps: float) -> None:
        super().__init__(path)
        if not 0.01 <= fps <= 1000:
            raise UsageError(f"--fps must be in [0.01, 1000], got {fps}")
        self.rate = Fraction(fps).limit_denominator(1001)
        self.time_base, self.has_audio, self.count = 1 / self.rate, False, len(self.files())
        twice = sorted(stem for stem, count in Counter(file.stem for file in self.files()).items() if count > 1)
        if twice:
            raise UsageError(f"{path} holds several pictures called {twice[0]}; one of them belongs elsewhere")

    def frames(self) -> Iterator[TimedFrame]:
        for index, picture, _ in self.decode():
            yield TimedFrame(time_s=index / self.rate, name=f"{self.files()[index].stem}.png", picture=picture)


def open_timed(path: Path, fps: float) -> TimedVideo | TimedFolder:
    """A video file or a folder of pictures.

    Raises:
        UsageError: there is nothing there, or a file that is no video.
        InputError: it cannot be read.
    """
    if path.is_dir():
        return TimedFolder(path, fps)
    if not path.is_file():
        raise UsageError(f"there is no video or folder {path}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(f"{path} must be a folder of pictures or a video ({', '.join(VIDEO_SUFFIXES)})")
    return TimedVideo(path)
