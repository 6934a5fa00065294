"""Images as data URIs, read from nowhere but the output folder.

A page is passed on: whoever gets it gets every image inside. A symbolic link below the output folder that points out of it is
therefore not followed; in its place the page says so.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.media.images import Picture, encode_jpeg

QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image of the page, or in its place the reason why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    absent: bool = False  # there is no file, which before its phase is no fault

    @property
    def num_bytes(self) -> int:
        return len(self.uri)


def require_inside(path: Path, root: Path) -> None:
    """Refuse a path that symbolic links lead out of a folder; the folder itself may be one.

    Raises:
        InputError: the file lies elsewhere, or the links go round in circles.
    """
    try:
        real, real_root = os.path.realpath(path, strict=True), os.path.realpath(root)
    except FileNotFoundError:
        return  # whoever reads it says so
    except OSError as error:
        raise InputError(f"{path} cannot be reached: {error.strerror}") from None
    if not Path(real).is_relative_to(real_root):
        raise InputError(f"{path} leads out of {root} by a symbolic link; the page shows only what lies in it")


def data_uri(kind: str, data: bytes) -> str:
    """A data URI: data_uri("image/png", data)."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shrink(picture: Picture, width: int) -> Picture:
    """Area average to at most this width; a smaller picture stays as it is."""
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg_thumbnail(picture: Picture, width: int) -> Thumbnail:
    """A picture at most this wide, as JPEG."""
    small = shrink(picture, width)
    uri = data_uri("image/jpeg", encode_jpeg(small, QUALITY))
    return Thumbnail(uri=uri, width=small.shape[1], height=small.shape[0])
