"""Videos out, at the times their frames came with, with the sound carried over untouched.

Special: frames become blocks of packets in the work folder, and the file is put together of them at the end.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from pipeline.errors import InputError, PipelineError
from pipeline.media.containers import url_of
from pipeline.media.encoding import BLOCK_FRAMES, Block, Encoding, decoding_times
from pipeline.media.muxing import readable_sounds, refused_sounds, write_failure
from pipeline.media.sinks import Sink
from pipeline.media.video_decoder import open_video
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo
from pipeline.storage.files import Fence, no_fence

_FAST_START = {"movflags": "faststart"}  # the index in front, so that a browser plays before all of it is there


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of a film whose frames are not the source's own.

    Args:
        rate: frames a second.
        time_base: tick that every frame's time is a multiple of, seconds.
        end_s: when the last frame ends.
    """

    rate: Fraction
    time_base: Fraction
    end_s: Fraction


class VideoSink(Sink):
    """A video; sound is copied packet by packet, interleaved with the pictures by time.

    Args:
        path: its suffix chooses container and codec.
        source: gives rate, time base and colours; its sound is copied when it is a video that has any.
        size: (width, height) of the frames that will be written.
        bits: 8 or 10 a channel.
        sound: false leaves it out.
        end_s: the film ends here, and the sound with it; None for the source's own end.
        timing: of the frames that will be written; None for the source's own.

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
        timing: Timing | None = None,
        keep_work: bool = False,
        fence: Fence = no_fence,
    ) -> None:
        super().__init__(path, keep_work=keep_work, fence=fence)
        self._source, self._sound, self._end_s = source, sound and source.has_audio, end_s
        self._film_end_s = timing.end_s if timing else None
        self.encoding = Encoding(
            suffix=path.suffix,
            bits=bits,
            size=size,
            rate=timing.rate if timing else source.rate,
            time_base=timing.time_base if timing else source.time_base,
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
        stamps = [pts for path in blocks for pts in Block.read(path).pts]
        dts, last = iter(decoding_times(stamps)), max(stamps, default=0)
        with self._container(partial) as (out, video, sound):
            try:
                for path in blocks:
                    block = Block.read(path)
                    for data, pts, key in zip(block.data, block.pts, block.key, strict=True):
                        packet = av.Packet(data)
                        packet.pts, packet.dts, packet.is_keyframe = pts, next(dts), key
                        packet.time_base, packet.stream = base, video
                        if pts == last and self._film_end_s is not None:
                            packet.duration = round(self._film_end_s / base) - pts
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
