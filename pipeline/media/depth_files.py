"""Depth and focus maps as the pipeline stores them, and how depth is resized.

Stored arrays are npz with one float16 member, compressed at a fast level and with a fixed date, so that equal arrays are
equal bytes. Nothing here unpickles.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.geometry import MAX_PIXELS
from pipeline.storage.bounded import MIB, load_npz, read_bounded

Depth = npt.NDArray[np.float32]  # (H, W), metres, NaN where unknown, +inf where infinitely far
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
# Ray-traced depth at 640x384: 4.2 ms and 89 KiB; level 6 took 8.0 ms for 76 KiB, and 5 times as long on noisy depth.
_LEVEL = 1
STORED_BYTES = 2 * MAX_PIXELS  # of a float16 map of the largest frame


def encode_npz(key: str, array: npt.NDArray[np.float16]) -> bytes:
    """One array as npz bytes; `numpy.load` reads it."""
    header = io.BytesIO()
    np.lib.format.write_array(header, np.ascontiguousarray(array), allow_pickle=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        member = zipfile.ZipInfo(f"{key}.npy", _FIXED_DATE)
        member.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(member, header.getvalue(), compresslevel=_LEVEL)
    return buffer.getvalue()


def decode_npz(data: bytes, key: str, origin: str, limit_bytes: int = STORED_BYTES) -> npt.NDArray[np.generic]:
    """The array under `key`.

    Args:
        data: of the npz file.
        key: the array's name.
        origin: how errors name the file.
        limit_bytes: of the array; what declares more is refused before memory is asked for.

    Raises:
        InputError: damaged, without that key, or larger; the message names `origin`.
    """
    try:
        return load_npz(io.BytesIO(data), key, origin, limit_bytes)
    except InputError as error:
        raise InputError(f"{origin} is not a readable npz file: {str(error).removeprefix(f'{origin} ')}") from None


def read_npz(path: Path, key: str, limit_bytes: int = STORED_BYTES) -> npt.NDArray[np.generic]:
    """Read one array of an npz file; InputError as in `decode_npz`, and where there is no regular file."""
    try:
        return decode_npz(read_bounded(path, 2 * limit_bytes + MIB), key, str(path), limit_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_depth(path: Path) -> npt.NDArray[np.float16]:
    """A stored depth map, as stored: (H, W) float16 metres.

    Raises:
        InputError: it cannot be read, or is not that.
    """
    array = read_npz(path, "depth")
    if array.dtype != np.float16 or array.ndim != 2:
        raise InputError(f"{path} must hold a (H, W) float16 array, got {array.shape} {array.dtype}")
    return array.astype(np.float16, copy=False)


def resize_depth(depth_m: Depth, size: tuple[int, int]) -> Depth:
    """Bilinear in inverse depth, which keeps planes plane under perspective; unknown pixels spread nowhere.

    Args:
        depth_m: (H, W) metres, NaN where unknown, +inf where infinitely far.
        size: (width, height) wanted.

    Returns:
        (height, width) metres; NaN where more than half of the weight was unknown.
    """
    if depth_m.shape[::-1] == size:
        return depth_m
    known = ~np.isnan(depth_m)
    inverse = np.where(known, 1 / np.where(known, depth_m, 1), 0).astype(np.float32)  # of infinity, zero
    weight: Any = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    total: Any = cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)
    return np.where(weight > 0.5, weight / np.maximum(total, 1e-12), np.nan).astype(np.float32)
