"""Videos and folders of pictures as streams of frames with times (writing them is video_writer.py).

Special: one frame at a time. Times are the container's own, so a variable frame rate stays what it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.media.arrays import AnyPicture
from pipeline.media.frame_folder import VIDEO_SUFFIXES, TwinFramesError
from pipeline.media.geometry import check_frame_size
from pipeline.media.images import picture_size
from pipeline.media.prefetch import prefetch
from pipeline.media.sources import FolderSource, VideoSource

UNSPECIFIED = 2  # code point for colours that nothing is known of


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A picture, when it is shown (seconds), and what to call its file; uint16 where more than 8 bits were asked for."""

    time_s: Fraction
    name: str
    picture: AnyPicture


class TimedVideo(VideoSource):
    """A video file; frames come upright, in sRGB, with the container's times.

    `notes` say what is converted; `bits` are those of its pixels, 8 or 10 (for 10 and more); `primaries` and `transfer` the
    code points of what the frames hold; `end_s` is when the last frame ends, None where the header does not say, and `timed`
    whether the file has times at all.
    """

    def __init__(self, path: Path) -> None:
        from pipeline.media.video_decoder import read_facts  # PyAV is of an extra, and folders of pictures do without

        super().__init__(path)
        facts = read_facts(path)
        self.rate, self.time_base, self.count = facts.rate, facts.time_base, facts.count
        self.size, self.notes, self.has_audio = facts.size, facts.notes, facts.has_audio
        self.bits, self.primaries, self.transfer = facts.bits, facts.primaries, facts.transfer
        self.end_s, self.timed = facts.end_s, facts.timed

    def frames(self, *, deep: bool = False) -> Iterator[TimedFrame]:
        """All frames in order; with `deep` as uint16 over the whole range of 16 bits."""
        from pipeline.media.video_decoder import decode_video

        return prefetch(
            TimedFrame(time_s=frame.time_s, name=f"frame_{frame.index:04d}.png", picture=frame.picture)
            for frame in decode_video(self.path, deep=deep)
        )


class TimedFolder(FolderSource):
    """A folder of pictures in natural order, at a rate that somebody has to say."""

    def __init__(self, path: Path, fps: float) -> None:
        try:
            super().__init__(path)
        except TwinFramesError as error:
            raise UsageError(str(error)) from None
        if not 0.01 <= fps <= 1000:
            raise UsageError(f"--fps must be in [0.01, 1000], got {fps}")
        self.rate = Fraction(fps).limit_denominator(1001)
        self.time_base, self.has_audio, self.count = 1 / self.rate, False, len(self.files())
        self.end_s: Fraction | None = self.count / self.rate
        self.timed = True
        self.bits, self.primaries, self.transfer = 8, UNSPECIFIED, UNSPECIFIED
        self.size = picture_size(self.files()[0])
        check_frame_size(*self.size, path)

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
