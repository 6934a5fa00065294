"""Images as data URIs.

A page is passed on, with every image inside: who reads a file for it refuses links first (`refuse_links`), so that none brings
in an image that is none of the data set's.
"""

import base64
from dataclasses import dataclass

import cv2
import numpy as np

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
