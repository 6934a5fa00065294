"""Videos and folders of pictures out, at the times they came with, with the sound carried over untouched.

Special: one frame at a time, sound interleaved by time. Output appears under its name only when it is complete.
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
from av.video.reformatter import ColorRange, Colorspace

from pipeline.errors import PipelineError, UsageError
from pipeline.media.images import encode_png
from pipeline.media.prefetch import WriteBehind
from pipeline.media.sources import VIDEO_SUFFIXES
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo
from pipeline.storage.files import write_bytes

_BT709 = 1  # code point of the standard's matrix, primaries and transfer in every container
_CODECS = {".webm": ("libvpx-vp9", {"crf": "24", "b:v": "0"})}
_DEFAULT_CODEC = ("libx264", {"crf": "16", "preset": "medium"})


class FolderSink:
    """PNG files in a folder beside its final name, renamed when it is complete; what was there before goes then."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer = path.resolve(), WriteBehind()
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")

    def write(self, frame: TimedFrame) -> None:
        target, picture = self._partial / frame.name, frame.picture
        self._writer.submit(lambda: write_bytes(target, encode_png(picture)))

    def __enter__(self) -> "FolderSink":
        self._partial.mkdir(parents=True)
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._writer.__exit__(kind, value, tb)
            if kind is None:
                if self._path.exists():
                    shutil.rmtree(self._path)
                self._partial.rename(self._path)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


class VideoSink:
    """A video beside its final name, renamed when it is complete.

    Sound is copied packet by packet, interleaved with the pictures by time, so that neither waits in memory for the other.

    Args:
        path: its suffix chooses container and codec: H.264, or VP9 for webm.
        source: gives rate and time base; its sound is copied when it is a video that has any.
    """

    def __init__(self, path: Path, source: TimedVideo | TimedFolder) -> None:
        self._path, self._source = path, source
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        self._video: Any = None
        self._size = (0, 0)

    def __enter__(self) -> "VideoSink":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._out = av.open(str(self._partial), "w")
        self._audio_in = av.open(str(self._source.path)) if self._source.has_audio else None
        self._copies: dict[int, Any] = {}
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        return self

    def write(self, frame: TimedFrame) -> None:
        height, width = frame.picture.shape[:2]
        if self._video is None:
            self._begin(width, height)
        assert (width, height) == self._size, "the caller checks that all frames have one size"
        image = av.VideoFrame.from_ndarray(frame.picture, format="rgb24")
        image = image.reformat(
            format=self._video.codec_context.pix_fmt,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        image.time_base = self._source.time_base
        image.pts = round(frame.time_s / self._source.time_base)
        self._copy_audio_until(frame.time_s)
        self._mux(self._video.encode(image))

    def _begin(self, width: int, height: int) -> None:
        codec, options = _CODECS.get(self._path.suffix.lower(), _DEFAULT_CODEC)
        try:
            self._video = self._out.add_stream(codec, rate=self._source.rate, options=options)
        except av.codec.codec.UnknownCodecError:
            raise PipelineError(f"PyAV has no encoder {codec} here; write a folder of pictures instead") from None
        self._video.width, self._video.height = self._size = (width, height)
        # Half the colour resolution needs even sides.
        self._video.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = self._video.codec_context
        context.time_base = self._source.time_base
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries = context.color_trc = _BT709
        if self._audio_in is not None:
            streams = list(self._audio_in.streams.audio)
            for stream in streams:
                try:
                    self._copies[stream.index] = self._out.add_stream_from_template(stream)
                except ValueError as error:
                    raise self._refused(error) from None
            self._packets = (packet for packet in self._audio_in.demux(streams) if packet.dts is not None)
            self._waiting = next(self._packets, None)

    def _mux(self, packets: list[Any]) -> None:
        """Write packets; the first one writes the header, which is where a container refuses a codec."""
        try:
            for packet in packets:
                self._out.mux(packet)
        except av.FFmpegError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> PipelineError:
        return PipelineError(
            f"{self._path.suffix} cannot hold this video with the sound of {self._source.path} ({error}); choose an output "
            f"in .mkv, which takes every codec, or --no_audio"
        )

    def _copy_audio_until(self, time_s: Fraction | None) -> None:
        """Mux the sound up to a time; all the rest for None."""
        while self._waiting is not None:
            packet = self._waiting
            if time_s is not None and packet.dts * packet.time_base > time_s:
                return
            packet.stream = self._copies[packet.stream.index]
            self._mux([packet])
            self._waiting = next(self._packets, None)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None and self._video is not None:
                self._mux(self._video.encode(None))
                self._copy_audio_until(None)
            with contextlib.suppress(*(() if kind is None else (av.FFmpegError,))):  # half a file need not end well
                self._out.close()
            if kind is None and self._video is not None:
                os.replace(self._partial, self._path)
        finally:
            if self._audio_in is not None:
                self._audio_in.close()
            self._partial.unlink(missing_ok=True)


def open_sink(path: Path, source: TimedVideo | TimedFolder, *, overwrite: bool) -> VideoSink | FolderSink:
    """A video when the name ends like one, otherwise a folder.

    Raises:
        UsageError: it exists and overwrite is false, it is or holds the input, or it is a folder that holds other things
            than pictures.
    """
    if source.path.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"the output must neither be nor hold the input, {source.path}, got {path}")
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already; give another -o, or --overwrite")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and a video was asked for; give another -o")
        return VideoSink(path, source)
    if path.suffix or path.is_file():
        raise UsageError(f"-o must be a folder or end in one of {', '.join(VIDEO_SUFFIXES)}, got {path}")
    others = [entry.name for entry in path.iterdir() if entry.suffix.lower() != ".png"] if path.is_dir() else []
    if others:
        raise UsageError(f"{path} holds {sorted(others)[0]}, which no run wrote; it is not replaced, give another -o")
    return FolderSink(path)
