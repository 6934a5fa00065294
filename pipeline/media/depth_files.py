"""Depth and focus maps on disk, and delivered depth in its various forms.

Stored arrays are npz with one float16 member, compressed at a fast level and with a fixed date, so that equal arrays are
equal bytes. Nothing here unpickles.
"""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.images import natural_key

Depth = npt.NDArray[np.float32]  # (H, W), metres, NaN where unknown
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
# Ray-traced depth at 640x384: 4.2 ms and 89 KiB; level 6 took 8.0 ms for 76 KiB, and 5 times as long on noisy depth.
_LEVEL = 1
DELIVERED_KINDS = ("depth", "disparity")


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


def decode_npz(data: bytes, key: str, origin: str) -> npt.NDArray[np.generic]:
    """The array under `key`.

    Raises:
        InputError: damaged, or without that key; the message names `origin`.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if key not in archive:
                raise InputError(f"{origin} has keys {sorted(archive.files)}, needs {key!r}")
            array: npt.NDArray[np.generic] = archive[key]
            return array
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise InputError(f"{origin} is not a readable npz file: {error}") from None


def read_npz(path: Path, key: str) -> npt.NDArray[np.generic]:
    """Read one array of an npz file; InputError as in `decode_npz`."""
    try:
        return decode_npz(path.read_bytes(), key, str(path))
    except OSError as error:
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
        depth_m: (H, W) metres, NaN where unknown.
        size: (width, height) wanted.

    Returns:
        (height, width) metres; NaN where more than half of the weight was unknown.
    """
    if depth_m.shape[::-1] == size:
        return depth_m
    known = np.isfinite(depth_m)
    inverse = np.where(known, 1 / np.where(known, depth_m, 1), 0).astype(np.float32)
    weight: Any = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    total: Any = cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)
    return np.where(weight > 0.5, weight / np.maximum(total, 1e-12), np.nan).astype(np.float32)


class DeliveredDepth:
    """Depth that came with a scene: `depth/` (npz, npy, 16-bit png in mm) or `disparity/` (png) read as depth.json says."""

    def __init__(self, kind: str, files: list[Path], near_m: float = 0.0, far_m: float = 0.0) -> None:
        self.kind, self.near_m, self.far_m = kind, near_m, far_m
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def files(self) -> list[Path]:
        return self._files

    def read(self, index: int) -> Depth:
        """(H, W) float32 metres as delivered; NaN, Inf, <= 0 and png 0 all come back as NaN.

        Raises:
            InputError: the file is damaged or has another form; the message names it.
        """
        path = self._files[index]
        if path.suffix == ".png":
            values: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if values is None or values.ndim != 2:
                raise InputError(f"{path} must be a readable one-channel png")
            if self.kind == "disparity":
                share = values.astype(np.float32) / np.iinfo(values.dtype).max
                return (1 / (share * (1 / self.near_m - 1 / self.far_m) + 1 / self.far_m)).astype(np.float32)
            if values.dtype != np.uint16:
                raise InputError(f"{path} must be a 16-bit png in millimetres, got {values.dtype}")
            depth = values.astype(np.float32) / 1000
        else:
            if path.suffix == ".npy":
                try:
                    array = np.load(path, allow_pickle=False)
                except (OSError, ValueError, EOFError) as error:
                    raise InputError(f"{path} is not a readable npy file: {error}") from None
            else:
                array = read_npz(path, "depth")
            if array.ndim != 2 or array.dtype.kind not in "fiu":
                raise InputError(f"{path} must hold a (H, W) array of numbers, got {array.shape} {array.dtype}")
            depth = array.astype(np.float32)
        depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
        return depth


def find_delivered_depth(folder: Path, num_frames: int) -> DeliveredDepth | None:
    """The depth beside a scene's frames, or None.

    Raises:
        InputError: both kinds, a wrong number of files, or a depth.json that is missing or does not say how to read it.
    """
    kinds = [kind for kind in DELIVERED_KINDS if (folder / kind).is_dir()]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise InputError(f"{folder} has both depth/ and disparity/; keep the one that should be used")
    kind = kinds[0]
    suffixes = (".png",) if kind == "disparity" else (".npz", ".npy", ".png")
    files = [path for path in (folder / kind).iterdir() if path.suffix in suffixes and not path.name.startswith(".")]
    files.sort(key=lambda path: natural_key(path.name))
    if len(files) != num_frames:
        raise InputError(f"{folder / kind} has {len(files)} files ({', '.join(suffixes)}) for {num_frames} frames")
    if kind == "depth":
        return DeliveredDepth(kind, files)
    near_m, far_m = _disparity_range(folder)
    return DeliveredDepth(kind, files, near_m, far_m)


def _disparity_range(folder: Path) -> tuple[float, float]:
    path = folder / "depth.json"
    example = '{"kind": "disparity", "near_m": 1.2, "far_m": 25}'
    try:
        described = json.loads(path.read_text())
        kind, near_m, far_m = described["kind"], float(described["near_m"]), float(described["far_m"])
    except FileNotFoundError:
        raise InputError(f"{folder / 'disparity'} needs {path} to say how to read it, e.g. {example}") from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); it should look like {example}") from None
    if kind != "disparity" or not 0 < near_m < far_m < float("inf"):
        raise InputError(f"{path} must have kind 'disparity' and 0 < near_m < far_m, got {described}")
    return near_m, far_m
