"""One decoder for every video: upright frames with square pixels, progressive, in sRGB, with the container's times.

Special: what the file says of its picture is honoured frame by frame, and noted. A file that ends before its header says is
refused, or read up to its last whole frame.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace

from pipeline.errors import InputError
from pipeline.media.color import BT709, UNKNOWN, ColorTags, to_srgb
from pipeline.media.containers import missing_bytes, url_of
from pipeline.media.geometry import Geometry, check_frame_size, geometry_of
from pipeline.media.images import AnyPicture
from pipeline.media.muxing import readable_sounds
from pipeline.storage.bounded import one_line, open_regular

_DOLBY_ONLY = ("dvh1", "dvhe", "dva1", "dvav")  # Dolby Vision sample entries
_LATE_FRAMES = 2  # by how many frame periods a header may promise more than there is; rounding makes one of them


@dataclass(frozen=True, kw_only=True)
class DecodedFrame:
    """A frame as shown.

    Args:
        index: as decoded, from 0.
        time_s: when it is shown; rises from frame to frame.
        picture: (H, W, 3) uint8 sRGB, upright; uint16 where `deep` was asked for.
        notes: what was converted.
    """

    index: int
    time_s: Fraction
    picture: AnyPicture
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What the header says.

    Args:
        rate: frames a second on average.
        time_base: tick of the frames' times, seconds.
        count: frames, as far as the header tells; for progress bars.
        size: (width, height) of the frames as shown.
        notes: what decoding will convert, as far as the first frame tells, and sound tracks that are not readable.
        has_audio: there is a sound track that can be copied.
        bits: a channel of the pixels has, 8 or 10 (for 10 and more).
        primaries, transfer: code points of H.273 of what `decode_video` gives.
        end_s: when the picture ends by the header; None where it does not say.
        timed: the file says when its frames are shown; otherwise the times are a guess.
    """

    rate: Fraction
    time_base: Fraction
    count: int
    size: tuple[int, int]
    notes: tuple[str, ...]
    has_audio: bool
    bits: int
    primaries: int
    transfer: int
    end_s: Fraction | None
    timed: bool


def open_video(path: Path) -> Any:
    """The file as a PyAV container.

    Raises:
        InputError: it cannot be opened or has no video stream; a file that was cut off is told as such.
    """
    try:
        open_regular(path).close()  # opening a pipe would wait for its other end
        container = av.open(url_of(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} does not decode: {_explained(path, error)}") from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no video stream")
    return container


def _explained(path: Path, error: Exception) -> str:
    try:
        lacking = missing_bytes(path)
    except OSError:
        lacking = 0
    return f"{_cut_off(lacking)} ({one_line(error)})" if lacking else one_line(error)


def _cut_off(lacking: int) -> str:
    return f"{lacking:,} bytes that its header promises are missing: it was cut off"


def read_facts(path: Path) -> VideoFacts:
    """Look at the header and the first frame.

    Raises:
        InputError: nothing can be decoded, the file was cut off, the frames' size is impossible, or their colour cannot be
            converted.
    """
    lacking = missing_bytes(path)
    if lacking:
        raise InputError(f"{path} does not decode to its end: {_cut_off(lacking)}; get it again")
    with open_video(path) as container:
        stream = container.streams.video[0]
        rate = _rate(stream)
        length_s = (container.duration or 0) / av.time_base
        first = next(_whole_frames(path, container, stream), None)
        if first is None:
            raise InputError(f"{path} holds no frames")
        convert = _Converter(path, stream, first)
        tags = convert.tags(first)
        sounds, dropped = readable_sounds(container)
        deepest = max((part.bits for part in first.format.components), default=8)
        return VideoFacts(
            rate=rate,
            time_base=Fraction(stream.time_base or 1 / rate),
            count=stream.frames or round(length_s * rate),
            size=convert.geometry.shown_size(first.width, first.height),
            notes=(*(("deinterlaced",) if first.interlaced_frame else ()), *convert.notes(first), *dropped),
            has_audio=bool(sounds),
            bits=10 if deepest > 8 else 8,
            primaries=tags.primaries if tags.is_plain else BT709,
            transfer=tags.transfer if tags.is_plain else BT709,
            end_s=_promised_end_s(container, stream),
            timed=first.pts is not None,
        )


def _rate(stream: Any) -> Fraction:
    rate = Fraction(stream.average_rate or stream.guessed_rate or 24)
    return rate if rate > 0 else Fraction(24)


OnCut = Callable[[str], None]


def decode_video(
    path: Path, wanted: Collection[int] | None = None, *, on_cut: OnCut | None = None, deep: bool = False
) -> Iterator[DecodedFrame]:
    """The frames, or the wanted ones, in order.

    Args:
        path: a video file.
        wanted: indices; decoding stops behind the last.
        on_cut: takes the reason where a file was cut off or damaged, and frames end with the last whole one. Without it that
            is an error, and a cut-off file is refused before its first frame.
        deep: uint16 over the whole range of 16 bits instead of uint8.

    Raises:
        InputError: it does not decode, is damaged, or ends before its header says.
    """
    last = None if wanted is None else max(wanted, default=-1)
    refuse = on_cut or partial(_refuse, path)
    lacking = missing_bytes(path) if wanted is None else 0
    if lacking:
        refuse(_cut_off(lacking))
    if last == -1:
        return
    with open_video(path) as container:
        stream = container.streams.video[0]
        clock, convert = _Clock(stream), None
        frames = _progressive(_whole_frames(path, container, stream, on_cut), stream)
        for index, (frame, woven) in enumerate(frames):
            clock.advance(index, frame)
            if wanted is None or index in wanted:
                convert = convert or _Converter(path, stream, frame, deep)
                notes = (*(("deinterlaced",) if woven else ()), *convert.notes(frame))
                yield DecodedFrame(index=index, time_s=clock.time_s, picture=convert(frame), notes=notes)
            if index == last:
                return
        reason = clock.shortfall(container, stream) if wanted is None and not lacking else None
        if reason:
            refuse(reason)


def _refuse(path: Path, reason: str) -> None:
    raise InputError(
        f"{path} does not decode to its end: {reason}; get it again, or take it up to its last whole frame: --accept_truncated"
    )


def _whole_frames(path: Path, container: Any, stream: Any, on_cut: OnCut | None = None) -> Iterator[Any]:
    stream.thread_type = "AUTO"
    count = 0
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise InputError(f"{path}: frame {count} is damaged")
            yield frame
            count += 1
        return
    except InputError as error:
        reason = str(error)
    except Exception as error:  # FFmpeg's errors, and PyAV's own for streams that are not what they say
        reason = f"{path} does not decode: {_explained(path, error)}"
    if on_cut is None or not count:
        raise InputError(reason)
    on_cut(reason)


class _Clock:
    """Times that rise: a stamp that is missing, or not behind the one before, is moved behind it by a tick."""

    def __init__(self, stream: Any) -> None:
        self._rate = _rate(stream)
        self._tick = Fraction(stream.time_base or 1 / self._rate)
        self.time_s = Fraction(-1)
        self._end_s = Fraction(0)
        self._longest_s = 1 / self._rate
        self._count = 0

    def advance(self, index: int, frame: Any) -> None:
        self._count = index + 1
        if frame.pts is None:
            time_s = index / self._rate if index == 0 else self.time_s + 1 / self._rate
        else:
            time_s = frame.pts * Fraction(frame.time_base or self._tick)
        if index and time_s <= self.time_s:
            time_s = self.time_s + self._tick
        if index:
            self._longest_s = max(self._longest_s, time_s - self.time_s)
        self.time_s = time_s
        known = frame.duration and frame.pts is not None
        self._end_s = time_s + (frame.duration * Fraction(frame.time_base or self._tick) if known else 1 / self._rate)

    def shortfall(self, container: Any, stream: Any) -> str | None:
        """What to say where the header promises more than came; None where it does not.

        An edit list changes both, so it is no shortfall.
        """
        promised_s = _promised_end_s(container, stream)
        tolerance_s = max(_LATE_FRAMES / self._rate, self._longest_s)
        whole = 0 < stream.frames <= self._count  # as many as the index lists: the rest is how long the last one stands
        if whole or promised_s is None or promised_s - self._end_s <= tolerance_s:
            return None
        return f"it ends at {float(self._end_s):.2f} s, and its header says {float(promised_s):.2f} s: it was cut off"


def _promised_end_s(container: Any, stream: Any) -> Fraction | None:
    """When the picture ends by the header; None where it does not say, or may speak of the sound."""
    told = stream.metadata.get("DURATION", "")  # of a Matroska track, 00:00:01.500000000
    try:
        hours, minutes, seconds = told.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        pass
    if "mp4" in container.format.name and stream.duration:  # elsewhere FFmpeg puts the longest track's length here
        return ((stream.start_time or 0) + stream.duration) * Fraction(stream.time_base or 1)
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base) + Fraction(container.start_time or 0, av.time_base)
    return None


def _progressive(frames: Iterable[Any], stream: Any) -> Iterator[tuple[Any, bool]]:
    """(frame, whether it was woven of two fields). Such frames become frames of one moment, as many as before (bwdif keeps the
    earlier field and makes the lines of the other); all others pass as they are."""
    graph: Any = None
    before: Any = None
    # Of what is inside the filter, which looks one frame ahead and one back; None for a frame that is out already.
    woven: deque[bool | None] = deque()
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = _deinterlacer(frame, stream)
            if before is not None:
                graph.push(before)
                woven.append(None)
        if graph is None:
            before = frame
            yield frame, False
            continue
        graph.push(frame)
        woven.append(frame.interlaced_frame)
        yield from _pulled(graph, woven)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, woven)


def _deinterlacer(frame: Any, stream: Any) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or stream.time_base
    )
    filtered = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: Any, woven: deque[bool | None]) -> Iterator[tuple[Any, bool]]:
    while True:
        try:
            made = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        was_woven = woven.popleft()
        if was_woven is not None:
            yield made, was_woven


class _Converter:
    """From decoded frames to pictures; what the stream says is looked up once, what the frame says each time."""

    def __init__(self, path: Path, stream: Any, first: Any, deep: bool = False) -> None:
        self._path, self._deep = path, deep
        matrix = first.side_data.get(SideData.DISPLAYMATRIX)
        try:
            if stream.codec_context.codec_tag in _DOLBY_ONLY and first.color_trc in (0, UNKNOWN):
                raise InputError("it is Dolby Vision without a HLG or HDR10 base, whose colour is not read")
            self.geometry: Geometry = geometry_of(None if matrix is None else bytes(matrix), stream.sample_aspect_ratio)
            width, height = self.geometry.shown_size(first.width, first.height)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        check_frame_size(width, height, path)
        self._turned = tuple(self.geometry.notes())

    def tags(self, frame: Any) -> ColorTags:
        tags = (frame.color_primaries, frame.color_trc, frame.colorspace, frame.format.is_rgb)
        try:
            return _resolved(*tags, frame.width, frame.height)
        except InputError as error:
            raise InputError(f"{self._path}: {error}") from None

    def __call__(self, frame: Any) -> AnyPicture:
        tags = self.tags(frame)
        how: dict[str, Any] = {}
        if not tags.is_rgb and tags.matrix == BT709 and frame.colorspace != BT709:
            how["src_colorspace"] = Colorspace.ITU709
        picture: AnyPicture = frame.to_ndarray(format="rgb48le" if self._deep or not tags.is_plain else "rgb24", **how)
        if not tags.is_plain:
            picture = to_srgb(picture.astype(np.uint16, copy=False), tags, deep=self._deep)
        return self.geometry.upright(picture)

    def notes(self, frame: Any) -> tuple[str, ...]:
        color = self.tags(frame).note()
        return (*self._turned, color) if color else self._turned


@lru_cache(maxsize=16)
def _resolved(primaries: int, transfer: int, matrix: int, is_rgb: bool, width: int, height: int) -> ColorTags:
    return ColorTags(primaries=primaries, transfer=transfer, matrix=matrix, is_rgb=is_rgb).resolved(width, height)
