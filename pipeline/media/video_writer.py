"""Videos and folders of pictures out, at the times they came with, with the sound carried over untouched.

Special: what is finished lies in a work folder beside the output until all of it is: blocks of packets, or pictures. A run that
was stopped goes on from there. The output appears under its name only when it is complete.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av

from pipeline.errors import InputError, LeaseLostError, PipelineError, UsageError
from pipeline.media.containers import url_of
from pipeline.media.encoding import BLOCK_FRAMES, Block, Encoding, decoding_times
from pipeline.media.images import encode_png
from pipeline.media.muxing import readable_sounds, refused_sounds, write_failure
from pipeline.media.prefetch import WriteBehind
from pipeline.media.video_decoder import open_video
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo
from pipeline.storage.files import Fence, names_in, no_fence, remove_leftovers, write_bytes

WRITTEN_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
_FAST_START = {"movflags": "faststart"}  # the index in front, so that a browser plays before all of it is there


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


class VideoSink(Sink):
    """A video; sound is copied packet by packet, interleaved with the pictures by time.

    Args:
        path: its suffix chooses container and codec.
        source: gives rate, time base and colours; its sound is copied when it is a video that has any.
        size: (width, height) of the frames that will be written.
        bits: 8 or 10 a channel.
        sound: false leaves it out.
        end_s: the film ends here, and the sound with it; None for the source's own end.

    Raises:
        PipelineError: on entering, when there is no such encoder or the container cannot hold the source's sound.
    """

    def __init__(
        self,
        path: Path,
        source: TimedVideo | TimedFolder,
        size: tuple[int, int],
        *,
        bits: int = 8,
        sound: bool = True,
        end_s: Fraction | None = None,
        keep_work: bool = False,
        fence: Fence = no_fence,
    ) -> None:
        super().__init__(path, keep_work=keep_work, fence=fence)
        self._source, self._sound, self._end_s = source, sound and source.has_audio, end_s
        self.encoding = Encoding(
            suffix=path.suffix,
            bits=bits,
            size=size,
            rate=source.rate,
            time_base=source.time_base,
            primaries=source.primaries,
            transfer=source.transfer,
        )
        self._encoder: Any = None
        self._packets: list[Any] = []
        self._in_block = self._number = 0

    def _block(self, number: int) -> Path:
        return self.work / f"block_{number:06d}.npz"

    def resume(self) -> int:
        frames = number = 0
        while self._block(number).is_file():
            try:
                frames += len(Block.read(self._block(number)).pts)
            except InputError:  # a disk that lost it: made again
                break
            number += 1
        return frames

    def go_back(self, frames: int) -> None:
        for path in self.work.glob("block_*.npz"):
            if path >= self._block(-(-frames // BLOCK_FRAMES)):  # the last block of a film may be a short one
                path.unlink()

    def write(self, frame: TimedFrame) -> None:
        height, width = frame.picture.shape[:2]
        assert (width, height) == self.encoding.size, "the caller checks that all frames have one size"
        if self._encoder is None:
            self._encoder = self.encoding.encoder()
        self._packets += self._encoder.encode(self.encoding.convert(frame.picture, frame.time_s))
        self._in_block += 1
        if self._in_block == BLOCK_FRAMES:
            self._end_block()

    def __enter__(self) -> "VideoSink":
        super().__enter__()
        self._number = self.resume() // BLOCK_FRAMES
        probe = self.work / f"probe{self.path.suffix}"
        try:  # what a container cannot hold is better known before the work than after it
            with self._container(probe):
                pass
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        probe.unlink()
        return self

    def _end_block(self) -> None:
        packets = self._packets + self._encoder.encode(None)
        assert len(packets) == self._in_block, "one packet a frame"
        Block.of(packets).write(self._block(self._number), self._fence)
        self._encoder, self._packets, self._in_block, self._number = None, [], 0, self._number + 1

    @contextlib.contextmanager
    def _container(self, path: Path) -> Iterator[tuple[Any, Any, "_Sound | None"]]:
        """An output with its header written: (container, video stream, sound to copy)."""
        name, options = self.encoding.codec
        self.encoding.encoder()  # a missing one has a message of its own
        fast = path.suffix.lower() in (".mp4", ".mov")
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(av.open(url_of(path), "w", options=_FAST_START if fast else {}))
            try:
                video = out.add_stream(name, rate=self.encoding.rate, options=options)
                self.encoding.configure(video.codec_context)
                sound = None
                if self._sound:
                    sound = _Sound(stack.enter_context(open_video(self._source.path)), out)
                out.start_encoding()
            except (av.FFmpegError, OSError, ValueError) as error:
                raise self._refused(error) from None
            yield out, video, sound

    def _refused(self, error: Exception) -> PipelineError:
        refused = None
        if self._sound:
            with open_video(self._source.path) as source:
                refused = refused_sounds(self.work / f"sound{self.path.suffix}", readable_sounds(source)[0])
        return write_failure(error, self.path, refused, self._source.path)

    def _finish(self) -> None:
        if self._encoder is not None:
            self._end_block()
        partial, base = self.work / f"whole{self.path.suffix}", self.encoding.time_base
        blocks = sorted(self.work.glob("block_*.npz"))
        dts = iter(decoding_times([pts for path in blocks for pts in Block.read(path).pts]))
        with self._container(partial) as (out, video, sound):
            try:
                for path in blocks:
                    block = Block.read(path)
                    for data, pts, key in zip(block.data, block.pts, block.key, strict=True):
                        packet = av.Packet(data)
                        packet.pts, packet.dts, packet.is_keyframe = pts, next(dts), key
                        packet.time_base, packet.stream = base, video
                        if sound is not None:
                            sound.copy_until(packet.dts * base)
                        out.mux(packet)
                if sound is not None:
                    sound.copy_until(self._end_s)
            except (av.FFmpegError, OSError) as error:
                raise self._refused(error) from None
        self._fence()
        os.replace(partial, self.path)


class _Sound:
    """The sound of one open container, copied into another; only one packet waits."""

    def __init__(self, source: Any, out: Any) -> None:
        streams, _ = readable_sounds(source)
        self._out, self._copies = out, {stream.index: out.add_stream_from_template(stream) for stream in streams}
        self._packets = (packet for packet in source.demux(streams) if packet.dts is not None)
        self._waiting = next(self._packets, None)

    def copy_until(self, time_s: Fraction | None) -> None:
        """Mux the sound up to a time; all the rest for None."""
        while self._waiting is not None:
            packet = self._waiting
            if time_s is not None and packet.dts * packet.time_base > time_s:
                return
            packet.stream = self._copies[packet.stream.index]
            self._out.mux(packet)
            self._waiting = next(self._packets, None)


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
