"""Depth as people have it, file by file or in one file for a whole scene: numbers as stored, not yet metres.

Special: shapes are looked at before memory is asked for, files are regular files, and nothing is unpickled or executed.
"""

import io
import threading
import zipfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from pipeline.media.geometry import MAX_PIXELS
from pipeline.storage.bounded import load_npy, load_npz, npy_header, open_member, open_regular, parsing

Stored = npt.NDArray[Any]  # (H, W), as in the file
MAP_SUFFIXES = (".npz", ".npy", ".png", ".tif", ".tiff", ".exr", ".pfm")
_ARRAY_BYTES = MAX_PIXELS * 8
_EXR_NAMES = ("Z", "Depth.Z", "ViewLayer.Depth.Z", "depth.Z", "Y", "V", "R")
_NEUTRAL = 12  # of 255: by how much channels of a grey film may differ after its codec


def read_map(path: Path, key: str = "depth") -> Stored:
    """(H, W) numbers of one file.

    Raises:
        InputError: damaged, of another form, or larger than any frame may be; the message names the file.
    """
    reader = {".npz": _read_npz, ".npy": _read_npy, ".exr": _read_exr, ".pfm": _read_pfm}.get(path.suffix.lower())
    try:
        values = reader(path, key) if reader else _read_picture(path)
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(f"{path} must hold a (H, W) array of numbers, got {values.shape} {values.dtype}")
    return values


def _read_npz(path: Path, key: str) -> Stored:
    try:
        with open_regular(path) as file:
            return load_npz(file, key, str(path), _ARRAY_BYTES)
    except InputError as error:
        if "has keys" in str(error) or "bytes" in str(error):
            raise
        raise InputError(f"{path} is not a readable npz file: {error}") from None


def _read_npy(path: Path, key: str) -> Stored:
    with open_regular(path) as file:
        return load_npy(file, str(path), _ARRAY_BYTES)


def _read_exr(path: Path, key: str) -> Stored:
    import OpenEXR  # of an extra

    with parsing("the EXR file", path):
        open_regular(path).close()
        with OpenEXR.File(str(path), header_only=True, separate_channels=True) as file:
            (left, top), (right, bottom) = file.header()["dataWindow"]
            names = [channel.name for channel in file.header()["channels"]]
        if (int(right) - int(left) + 1) * (int(bottom) - int(top) + 1) > MAX_PIXELS:
            raise InputError(
                f"{path} declares {right - left + 1}x{bottom - top + 1} pixels, more than a frame may have"
            )
        chosen = next((name for name in _EXR_NAMES if name in names), names[0] if len(names) == 1 else None)
        if chosen is None:
            raise InputError(f"{path} has channels {', '.join(names)}; none is depth ({', '.join(_EXR_NAMES)})")
        with OpenEXR.File(str(path), separate_channels=True) as file:
            values: Stored = np.array(file.channels()[chosen].pixels)
            return values


def _read_pfm(path: Path, key: str) -> Stored:
    """Portable float map: rows from the bottom up; the sign of the scale is the byte order (netpbm, Middlebury)."""
    with parsing("the PFM file", path), open_regular(path) as file:
        kind, size, scale = (file.readline(64).strip() for _ in range(3))
        if kind != b"Pf":
            raise InputError(f"{path} must be a PFM of one channel (Pf), got {kind.decode('ascii', 'replace')!r}")
        width, height = (int(side) for side in size.split())
        if not 0 < width * height <= MAX_PIXELS:
            raise InputError(f"{path} declares {width}x{height} pixels, more than a frame may have")
        data = file.read(4 * width * height)
        values = np.frombuffer(data, "<f4" if float(scale) < 0 else ">f4", width * height)
        return values.reshape(height, width)[::-1].astype(np.float32)


def _read_picture(path: Path) -> Stored:
    with parsing("the picture", path):
        open_regular(path).close()
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} is {image.width}x{image.height}, more than a frame may have")
        values: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if values is None or values.ndim != 2:
            raise InputError(f"{path} must be a readable one-channel {path.suffix[1:].lower()}")
        return np.asarray(values)


class Stack:
    """Maps of a whole scene in one file, read in order; going back starts again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._maps: Iterator[Stored] = iter(())
        self._next, self._recent = 0, np.empty((0, 0))

    def read(self, index: int) -> Stored:
        """(H, W) numbers of frame `index`.

        Raises:
            InputError: the file is damaged or ends before.
        """
        with self._lock:
            if index != self._next - 1:
                if index < self._next:
                    self._maps, self._next = self._open(), 0
                elif self._next == 0:
                    self._maps = self._open()
                while self._next <= index:
                    found = next(self._maps, None)
                    if found is None:
                        raise InputError(f"{self.path} has {self._next} maps, needs one of index {index}")
                    self._recent, self._next = found, self._next + 1
            return self._recent

    def count(self) -> int:
        """How many maps there are."""
        raise NotImplementedError

    def _open(self) -> Iterator[Stored]:
        raise NotImplementedError


class ArrayStack(Stack):
    """An npz with one (T, H, W) array, as Video Depth Anything's own program writes it (key `depths`), or an npy of that shape.

    A (H, W) array is one map, that of a photograph.

    Raises:
        InputError: no such array; its header is read at once, its numbers one map at a time.
    """

    def __init__(self, path: Path, keys: tuple[str, ...] = ("depths", "depth")) -> None:
        super().__init__(path)
        self._keys = keys
        with closing(self._stream()) as stream:
            self.shape, self._dtype = self._header(next(stream))
        if len(self.shape) == 2:
            self.shape = (1, *self.shape)
        if len(self.shape) != 3 or self._dtype.kind not in "fiu" or not 0 < self.shape[1] * self.shape[2] <= MAX_PIXELS:
            raise InputError(f"{path} must hold (frames, H, W) numbers, got {self.shape} {self._dtype}")

    def count(self) -> int:
        return self.shape[0]

    def _stream(self) -> Generator[Any, None, None]:
        with open_regular(self.path) as file:
            if self.path.suffix.lower() == ".npy":
                yield file
                return
            with parsing("the npz file", self.path), zipfile.ZipFile(file) as archive:
                names = {name.removesuffix(".npy"): name for name in archive.namelist()}
                key = next((key for key in self._keys if key in names), None)
                if key is None:
                    raise InputError(
                        f"{self.path} has keys {sorted(names)[:20]}, needs {' or '.join(map(repr, self._keys))}"
                    )
                with open_member(archive, names[key], str(self.path)) as member:
                    yield member

    def _header(self, stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with parsing("the array", self.path):
            head = io.BytesIO(stream.read(16384))
            shape, dtype = npy_header(head)
            self._offset = head.tell()
            head.seek(0)
            if b"'fortran_order': True" in head.read(self._offset) and len(shape) > 1:
                raise InputError(f"{self.path} is stored column by column; save it with numpy.ascontiguousarray")
            return shape, dtype

    def _open(self) -> Iterator[Stored]:
        size = int(self._dtype.itemsize) * self.shape[1] * self.shape[2]
        with closing(self._stream()) as stream, parsing("the array", self.path):
            file = next(stream)
            file.read(self._offset)
            for number in range(self.shape[0]):
                data = file.read(size)
                if len(data) < size:
                    raise InputError(f"{self.path} ends inside map {number} of {self.shape[0]}")
                yield np.frombuffer(data, self._dtype).reshape(self.shape[1:])


class VideoStack(Stack):
    """A grey film of depth or disparity: 8 or 16 bits, values as players show them.

    Raises:
        InputError: it does not decode, or is coloured: a picture of depth, from which no numbers come back.
    """

    def count(self) -> int:
        from pipeline.media.video_decoder import decode_video

        if not hasattr(self, "_count"):
            self._count = sum(1 for _ in decode_video(self.path))
        return self._count

    def _open(self) -> Iterator[Stored]:
        from pipeline.media.video_decoder import decode_video, read_facts

        deep = read_facts(self.path).bits > 8
        for frame in decode_video(self.path, deep=deep):
            picture = frame.picture
            if frame.index == 0:
                spread = int((picture.max(axis=2).astype(int) - picture.min(axis=2)).max()) >> (8 if deep else 0)
                if spread > _NEUTRAL:
                    raise InputError(f"{self.path} is coloured: a picture of depth, from which no numbers come back")
            yield picture[..., 1]
