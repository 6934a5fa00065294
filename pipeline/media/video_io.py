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
from pipeline.media.images import AnyPicture
from pipeline.media.prefetch import prefetch
from pipeline.media.sources import VIDEO_SUFFIXES, FolderSource, VideoSource

UNSPECIFIED = 2  # code point for colours that nothing is known of


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A picture, when it is shown (seconds), and what to call its file; uint16 where more than 8 bits were asked for."""

    time_s: Fraction
    name: str
    picture: AnyPicture


class TimedVideo(VideoSource):
    """A video file; frames come upright, with the container's times.

    `bits` are those of its pixels, 8 or 10 (for 10 and more); `primaries` and `transfer` the code points of its colours.
    """

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
                context = stream.codec_context
                deepest = max((part.bits for part in context.format.components), default=8) if context.format else 8
                self.bits = 10 if deepest > 8 else 8
                self.primaries, self.transfer = int(context.color_primaries), int(context.color_trc)
                length_s = (container.duration or 0) / av.time_base
                self.count = stream.frames or round(length_s * self.rate)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{path} does not decode: {error}") from None

    def frames(self, *, deep: bool = False) -> Iterator[TimedFrame]:
        """All frames in order; with `deep` as uint16 over the whole range of 16 bits."""
        return prefetch(self._timed("rgb48le" if deep else "rgb24"))

    def _timed(self, form: str) -> Iterator[TimedFrame]:
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for index, frame in enumerate(container.decode(stream)):
                    if frame.is_corrupt:
                        raise InputError(f"{self.path}: frame {index} is damaged")
                    time_s = index / self.rate if frame.pts is None else frame.pts * self.time_base
                    picture = self._upright(index, frame, form)[1]
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
        self.bits, self.primaries, self.transfer = 8, UNSPECIFIED, UNSPECIFIED
        twice = sorted(stem for stem, count in Counter(file.stem for file in self.files()).items() if count > 1)
        if twice:
            raise UsageError(f"{path} holds several pictures called {twice[0]}; one of them belongs elsewhere")

    def frames(self, *, deep: bool = False) -> Iterator[TimedFrame]:
        """All frames in order, 8 bits a channel whatever is asked for."""
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
