"""Reading files that somebody else may have written: regular files only, sizes looked at before memory is asked for.

Special: a FIFO, a device or a folder never blocks or floods a reader, a header is believed only after it was checked against
what the caller expects, and whatever goes wrong comes out as one `InputError` that names the file.
"""

import io
import math
import os
import stat
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, PipelineError

MIB = 1024 * 1024
JSON_LIMIT = 256 * MIB  # an index of 20,000 scenes of 300 frames has about 200 MiB
_HEADER_LOCK = threading.Lock()
_NPY_HEADER_LIMIT = 10_000  # NumPy's own bound for headers that are parsed without trust
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@contextmanager
def parsing(what: str, path: Path | str) -> Iterator[None]:
    """Turn whatever a parser raises into an InputError that names the file; a missing file stays FileNotFoundError.

    Parsers of hostile bytes raise far more than they document (RecursionError, OverflowError, tokenize's and OpenCV's own
    errors, MemoryError for a size that a header invents), so this catches by default and lets through by name.
    """
    try:
        yield
    except (PipelineError, FileNotFoundError):
        raise
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise InputError(f"{what} {path} is damaged or of another form: {one_line(error)}") from None


def one_line(error: BaseException, length: int = 200) -> str:
    """An error as one short line: parsers quote the bytes they choke on, which may be many and unprintable."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)[: 4 * length]).split())
    shown = text if len(text) <= length else f"{text[:length]} ..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never waits for the other end of a pipe.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is a folder, a pipe, a device, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"{path} is {kind}, needed is a regular file")
    return os.fdopen(descriptor, "rb")


def refuse_link(path: Path) -> None:
    """InputError when `path` is a symbolic link; it names where that leads."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):  # no link, or nothing there
        return
    raise InputError(
        f"{path} is a link to {target}; nothing was touched, since below the output root no link is followed. Put what it "
        f"leads to in its place, or remove it; the output root itself may be a link"
    )


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file of at most `limit_bytes`.

    Raises:
        FileNotFoundError: there is none.
        InputError: no regular file, unreadable, or larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > limit_bytes else _read(file, limit_bytes + 1, path)
    if max(size, len(data)) > limit_bytes:
        raise InputError(f"{path} has {max(size, len(data))} bytes, at most {limit_bytes} are allowed")
    return data


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def npy_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that an npy stream declares; nothing is allocated. Raises whatever the parser raises."""
    shape, _, dtype = _header(file)
    return shape, dtype


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The same with whether the array lies in Fortran's order between them."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version} is not supported, allowed are 1.0 and 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    # One at a time: NumPy parses a header with `ast`, which in Python 3.11 counts its depth for all threads together and
    # now and then raises a SystemError for a file without fault.
    with _HEADER_LOCK:
        shape, in_fortran_order, dtype = read(file, max_header_size=_NPY_HEADER_LIMIT)
    return tuple(int(side) for side in shape), in_fortran_order, dtype


def _check_array(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any], limit_bytes: int) -> None:
    if dtype.hasobject or dtype.kind not in "biuf":
        raise InputError(f"{origin} must hold numbers, got dtype {dtype}")
    if any(side < 0 for side in shape):
        raise InputError(f"{origin} declares the shape {shape}")
    size = dtype.itemsize
    for side in shape:  # Python integers: no product overflows
        size *= side
    if size > limit_bytes:
        raise InputError(f"{origin} declares {shape} {dtype}, {size} bytes; at most {limit_bytes} are allowed")


def load_npy(file: BinaryIO, origin: str, limit_bytes: int) -> npt.NDArray[Any]:
    """An array of an npy stream, whose declared size was checked first; see `load_npz`."""
    with parsing("the array", origin):
        return _array((file,), origin, limit_bytes)


def _array(sources: Sequence[IO[bytes]], origin: str, limit_bytes: int) -> npt.NDArray[Any]:
    """An array from streams that follow each other; the first one has all of the header."""
    shape, in_fortran_order, dtype = _header(sources[0])
    _check_array(origin, shape, dtype, limit_bytes)
    data = bytearray(math.prod(shape) * dtype.itemsize)
    filled = 0
    for source in sources:
        while got := source.readinto(memoryview(data)[filled:]):  # type: ignore[attr-defined]  # of every binary stream
            filled += got
    if filled < len(data):
        raise ValueError(f"it ends after {filled} of {len(data)} bytes")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if in_fortran_order else array.reshape(shape)


def open_member(archive: zipfile.ZipFile, name: str, origin: str) -> IO[bytes]:
    """A member of a zip archive, read in pieces of the size that is asked for.

    Only as NumPy writes: bzip2 and LZMA hand out whatever a piece of the file expands to, and 242 bytes of bzip2 hold 300 MB.

    Raises:
        InputError: it is packed in another way.
    """
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{origin} is packed in another way than NumPy's; save it with numpy.savez_compressed")
    return archive.open(name)


def load_npz(file: BinaryIO, key: str, origin: str, limit_bytes: int) -> npt.NDArray[Any]:
    """The array under `key` of an npz stream, without unpickling and without trusting its sizes.

    Args:
        file: can seek.
        key: the member's name without ".npy".
        origin: how errors name the file.
        limit_bytes: of the array, uncompressed; follows from the frame's size.

    Raises:
        InputError: damaged, without that key, not numbers, or declaring more than `limit_bytes`.
    """
    with parsing("the npz file", origin), zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if f"{key}.npy" not in names:
            keys = sorted(name.removesuffix(".npy") for name in names[:20])
            raise InputError(f"{origin} has keys {keys}, needs {key!r}")
        with open_member(archive, f"{key}.npy", origin) as stream:
            # A header may say that it is gigabytes long: NumPy is handed its beginning alone.
            head = io.BytesIO(stream.read(2 * _NPY_HEADER_LIMIT))
            return _array((head, stream), origin, limit_bytes)
