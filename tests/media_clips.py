"""Small clips with the statements real cameras make, and FFmpeg's own filters to compare with."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

ONE = 0x10000


def moving(count: int, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """RGB frames that move 2 px a frame, without symmetry."""
    width, height = size
    y, x = np.mgrid[:height, : width + 2 * count]
    wide = np.stack([x * 3 % 256, y * 4 % 256, (x * 5 + y * 7) // 4 % 256], -1).astype(np.uint8)
    return [wide[:, 2 * t : 2 * t + width].copy() for t in range(count)]


def flat(pix_fmt: str, size: tuple[int, int], values: Sequence[int], count: int = 2) -> list[Any]:
    """YUV frames with exact code values."""
    made = []
    for _ in range(count):
        frame = av.VideoFrame(*size, pix_fmt)
        for plane, value in zip(frame.planes, values, strict=True):
            kind = np.uint16 if "10" in pix_fmt else np.uint8
            plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind).tobytes())
        made.append(frame)
    return made


def write_clip(
    path: Path,
    frames: Sequence[Any],
    *,
    codec: str = "ffv1",
    pix_fmt: str = "yuv420p",
    rate: int = 20,
    times: Sequence[int] | None = None,
    tags: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    sounds: int = 0,
    container: dict[str, str] | None = None,
) -> Path:
    """Frames are RGB arrays or av frames; times in ms; tags are range, matrix, primaries, transfer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        first = frames[0]
        stream.width, stream.height = (
            (first.width, first.height) if isinstance(first, av.VideoFrame) else first.shape[1::-1]
        )
        context = stream.codec_context
        stream.pix_fmt, context.time_base = pix_fmt, Fraction(1, 1000)
        if tags:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        if aspect:
            context.sample_aspect_ratio = aspect
        tracks = [out.add_stream("aac", rate=16000) for _ in range(sounds)]
        for number, frame in enumerate(frames):
            image = frame if isinstance(frame, av.VideoFrame) else av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.time_base, image.pts = Fraction(1, 1000), times[number] if times else number * 1000 // rate
            out.mux(stream.encode(image))
        out.mux(stream.encode(None))
        for track in tracks:
            for block in range(len(frames) * 16 // rate):
                tone = np.sin(np.arange(1000) * 0.1 + block).astype(np.float32)[None]
                piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16000, block * 1000, Fraction(1, 16000)
                out.mux(track.encode(piece))
            out.mux(track.encode(None))
    return path


def display_matrix(a: int, b: int, c: int, d: int) -> bytes:
    return b"".join(value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0, 0, 0, 0x40000000))


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix (in 16.16) into the first track of an mp4 or mov."""
    data = path.read_bytes()
    at = data.index(display_matrix(ONE, 0, 0, ONE), data.index(b"tkhd"))
    path.write_bytes(data[:at] + display_matrix(a, b, c, d) + data[at + 36 :])
    return path


def unknown_second_sound(path: Path) -> Path:
    """Rename the codec of the last sound track to one that nothing here knows, as a phone's spatial sound is."""
    data = path.read_bytes()
    start = data.rindex(b"stsd")
    size = int.from_bytes(data[start - 4 : start], "big")
    part = data[start : start + size].replace(b"mp4a", b"apac").replace(b"esds", b"xxxx").replace(b"wave", b"free")
    path.write_bytes(data[:start] + part + data[start + size :])
    return path


def frames_of(path: Path) -> list[Any]:
    """As the decoder gives them."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def filtered(frames: Sequence[Any], *steps: tuple[str, str], form: str = "rgb24") -> list[np.ndarray]:
    """Frames through FFmpeg's filters, as arrays."""
    graph = av.filter.Graph()
    first = frames[0]
    last = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base or Fraction(1, 1000)
    )
    for name, arguments in (*steps, ("buffersink", "")):
        node = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(node)
        last = node
    graph.configure()
    made = []

    def pull() -> None:
        while True:
            try:
                made.append(graph.pull().to_ndarray(format=form))
            except (av.BlockingIOError, av.EOFError):
                return

    for frame in frames:
        graph.push(frame)
        pull()
    graph.push(None)
    pull()
    return made


def interlaced(count: int, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Woven frames of two moments each, upper field first, the picture moving 4 px a field."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.random((size[1] // 8, size[0] // 8 + count + 1, 1)), np.ones((8, 8, 3))) * 200 + 20
    fields = [wide[:, 4 * t : 4 * t + size[0]].astype(np.uint8) for t in range(2 * count)]
    frames = []
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        woven = first.copy()
        woven[1::2] = second[1::2]
        frames.append(woven)
    return frames


INTERLACED = {"crf": "4", "x264-params": "tff=1", "flags": "+ildct+ilme"}
Show = Callable[[np.ndarray], np.ndarray]
