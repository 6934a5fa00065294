"""How a video is encoded so that it plays everywhere: 4:2:0, even sizes, tagged colours; 8 bits or 10.

Special: frames are encoded in blocks that stand for themselves. A block is a list of packets on disk, so a long work that was
stopped goes on behind the last whole block, and an interrupted file equals an uninterrupted one.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from pipeline.errors import InputError, PipelineError
from pipeline.media.images import AnyPicture
from pipeline.storage.bounded import load_npz, open_regular, parsing
from pipeline.storage.files import Fence, no_fence, write_bytes

BLOCK_FRAMES = 24  # every block begins with a key frame: about one a second, which players like for seeking
_BT709 = 1  # code point of the standard's matrix, primaries and transfer in every container
_UNKNOWN = (0, 2)  # reserved, and "unspecified"
# HEVC Main 10 is the 10-bit form that phones, televisions and browsers decode in hardware; hardly anything plays 10-bit H.264.
_CODECS: dict[tuple[bool, int], tuple[str, dict[str, str]]] = {
    (False, 8): ("libx264", {"crf": "16", "preset": "medium"}),
    (False, 10): ("libx265", {"crf": "16", "preset": "medium", "x265-params": "log-level=error"}),
    (True, 8): ("libvpx-vp9", {"crf": "24", "b:v": "0"}),
    (True, 10): ("libsvtav1", {"crf": "20", "preset": "7"}),
}

# x265's tree of coding units writes past its rows in frames a few units wide (seen at 48 px, x265 4.2): memory is damaged.
_CUTREE_PX = 256

_TITLES = {"libx264": "H.264", "libx265": "HEVC", "libvpx-vp9": "VP9", "libsvtav1": "AV1"}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to encode a film.

    Args:
        suffix: of the file; ".webm" takes VP9 or AV1, everything else H.264 or HEVC.
        bits: 8 or 10.
        size: (width, height) of the frames; an odd last row or column is cut off, since half the colour resolution needs
            even sides and players need half the colour resolution.
        rate, time_base: of the film.
        primaries, transfer: code points of the colours the pictures hold; 2 (unspecified) becomes BT.709.
    """

    suffix: str
    bits: int
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    primaries: int = _BT709
    transfer: int = _BT709

    def __post_init__(self) -> None:
        if min(self.size) < 2:
            raise PipelineError(f"a video needs at least 2x2 pixels, got {self.size[0]}x{self.size[1]}")
        if self.bits not in (8, 10):
            raise PipelineError(f"bits must be 8 or 10, got {self.bits}")

    @property
    def even_size(self) -> tuple[int, int]:
        return self.size[0] // 2 * 2, self.size[1] // 2 * 2

    @property
    def pixel_format(self) -> str:
        return "yuv420p" if self.bits == 8 else "yuv420p10le"

    @property
    def codec(self) -> tuple[str, dict[str, str]]:
        name, options = _CODECS[self.suffix.lower() == ".webm", self.bits]
        if name == "libx265" and min(self.even_size) < _CUTREE_PX:
            options = {**options, "x265-params": f"{options['x265-params']}:cutree=0"}
        return name, options

    def described(self) -> str:
        """For people: size, bits and codec."""
        width, height = self.even_size
        cut = (
            ""
            if self.even_size == self.size
            else f", cut from {self.size[0]}x{self.size[1]} since players need even sides"
        )
        return f"{width}x{height}, {_TITLES[self.codec[0]]} with {self.bits} bits{cut}"

    def configure(self, context: Any) -> None:
        """Set up a codec context, alone or of a stream; both write the same headers."""
        context.width, context.height = self.even_size
        context.pix_fmt, context.time_base, context.framerate = self.pixel_format, self.time_base, self.rate
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries = _BT709 if self.primaries in _UNKNOWN else self.primaries
        context.color_trc = _BT709 if self.transfer in _UNKNOWN else self.transfer
        if self.codec[0] == "libx265":
            context.codec_tag = "hvc1"  # the name under which Apple's players take HEVC

    def convert(self, picture: AnyPicture, time_s: Fraction) -> Any:
        """RGB of 8 or 16 bits -> a frame in the pixel format, at its time."""
        width, height = self.even_size
        even: Any = np.ascontiguousarray(picture[:height, :width])
        frame = av.VideoFrame.from_ndarray(even, format="rgb48le" if even.dtype == np.uint16 else "rgb24")
        frame = frame.reformat(
            format=self.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        frame.time_base, frame.pts = self.time_base, round(time_s / self.time_base)
        return frame

    def encoder(self) -> Any:
        """A fresh encoder for one block.

        Raises:
            PipelineError: this build of FFmpeg has no such encoder.
        """
        name, options = self.codec
        try:
            context = av.CodecContext.create(name, "w")
        except (av.codec.codec.UnknownCodecError, ValueError):
            raise PipelineError(f"PyAV has no encoder {name} here; write a folder of pictures instead") from None
        context.options = options
        self.configure(context)
        context.flags |= av.codec.context.Flags.global_header
        return context


@dataclass(frozen=True, kw_only=True)
class Block:
    """The packets of consecutive frames in decoding order, with the time stamps of the frames they show."""

    data: tuple[bytes, ...]
    pts: tuple[int, ...]
    key: tuple[bool, ...]

    @classmethod
    def of(cls, packets: Sequence[Any]) -> "Block":
        return cls(
            data=tuple(bytes(packet) for packet in packets),
            pts=tuple(packet.pts for packet in packets),
            key=tuple(packet.is_keyframe for packet in packets),
        )

    def write(self, path: Path, fence: Fence = no_fence) -> None:
        """As an npz file, atomically."""
        buffer = io.BytesIO()
        sizes = np.array([len(piece) for piece in self.data], np.int64)
        joined = np.frombuffer(b"".join(self.data), np.uint8)
        np.savez(buffer, data=joined, sizes=sizes, pts=np.array(self.pts, np.int64), key=np.array(self.key))
        write_bytes(path, buffer.getvalue(), fence)

    @classmethod
    def read(cls, path: Path) -> "Block":
        """The packets of a file.

        Raises:
            InputError: it is damaged.
        """
        try:
            with parsing("the packets", path), open_regular(path) as file:
                whole = os.fstat(file.fileno()).st_size  # nothing in it is compressed
                stored = {name: load_npz(file, name, str(path), whole) for name in ("data", "sizes", "pts", "key")}
                data, ends = stored["data"].tobytes(), np.cumsum(stored["sizes"]).tolist()
                starts = [0, *ends[:-1]]
                pieces = tuple(data[start:end] for start, end in zip(starts, ends, strict=True))
                return cls(data=pieces, pts=tuple(stored["pts"].tolist()), key=tuple(stored["key"].tolist()))
        except FileNotFoundError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def decoding_times(pts: Sequence[int]) -> list[int]:
    """Decoding times for packets in decoding order: the frames' own times, late by as little as keeps dts <= pts.

    Encoders count them per block, with a start before the first frame; over a whole film they have to rise throughout.
    """
    shown = sorted(pts)
    rank = {time: number for number, time in enumerate(shown)}
    delay = max((position - rank[time] for position, time in enumerate(pts)), default=0)
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    early = [shown[0] - step * (delay - number) for number in range(min(delay, len(shown)))]
    return early + shown[: len(shown) - len(early)]
