"""How a stored image becomes an upright one with square pixels, and which sizes can be worked with at all.

Special: the whole display matrix is read, so a mirror is a mirror and not half a turn. What this is not: a lens model;
matrices that turn by other than quarter turns are refused.
"""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.media.arrays import AnyPicture

# Optical flow (OpenCV DIS) needs three pyramid levels of 8x8 patches: a strip of 16 rows kills the process. Phase 2 rounds
# sides to multiples of 16, so 24 is the least that becomes 32.
MIN_SIDE_PX = 24
# cv2.remap refuses sides from 32,767 on, H.264 and VP9 from 16,385 on.
MAX_SIDE_PX = 16384
# What Pillow takes for a decompression bomb; also 8 GiB of float32 depth of 24 frames.
MAX_PIXELS = 89_478_485
_SKEW = 0.01  # share of a row that may point beside its axis
_ASPECTS = (Fraction(1, 8), Fraction(8))


def check_frame_size(width: int, height: int, where: object) -> None:
    """Whether every later step can work with frames of this size.

    Raises:
        InputError: too small, too large or too many pixels; the message names `where` and the limits.
    """
    if min(width, height) < MIN_SIDE_PX or max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: frames are {width}x{height} px; allowed are sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} px and at most "
            f"{MAX_PIXELS // 1_000_000} megapixels; scale or crop them first"
        )


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """From stored to shown: pixels are made square, then rows and columns swapped, then each axis mirrored.

    Args:
        transpose: rows become columns.
        mirror_x, mirror_y: the shown image is mirrored left to right, top to bottom.
        pixel_aspect: width of a stored pixel over its height.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    pixel_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if not _ASPECTS[0] <= self.pixel_aspect <= _ASPECTS[1]:
            raise InputError(
                f"its pixels are said to be {self.pixel_aspect} times as wide as high, which no camera makes"
            )

    def square_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) with square pixels, before turning; one side grows, so that nothing stored is lost."""
        if self.pixel_aspect >= 1:
            return math.floor(width * self.pixel_aspect + Fraction(1, 2)), height
        return width, math.floor(height / self.pixel_aspect + Fraction(1, 2))

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the upright image."""
        square = self.square_size(width, height)
        return square[::-1] if self.transpose else square

    def upright(self, picture: AnyPicture) -> AnyPicture:
        """(H, W, 3) as stored -> as shown; the array itself when there is nothing to do."""
        if self == _AS_STORED:
            return picture
        shown: Any = picture
        size = self.square_size(picture.shape[1], picture.shape[0])
        if size != (picture.shape[1], picture.shape[0]):
            shown = cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4)
        if self.transpose:
            shown = shown.transpose(1, 0, 2)
        if self.mirror_x:
            shown = shown[:, ::-1]
        if self.mirror_y:
            shown = shown[::-1]
        return np.ascontiguousarray(shown)

    def notes(self) -> list[str]:
        """What is done, in words for the scene index."""
        said = []
        # A turn keeps handedness; a transposition and each mirror flips it.
        if (self.transpose + self.mirror_x + self.mirror_y) % 2:
            said.append("mirrored as the video says")
        elif self.transpose or self.mirror_x:
            said.append("rotated as the video says")
        if self.pixel_aspect != 1:
            said.append(f"pixels of aspect {self.pixel_aspect.numerator}:{self.pixel_aspect.denominator} made square")
        return said


_AS_STORED = Geometry()


def geometry_of(display_matrix: bytes | None, pixel_aspect: Fraction | None) -> Geometry:
    """What a video stream says.

    Args:
        display_matrix: nine int32 (a, b, u, c, d, v, x, y, w) by which a stored point (p, q) is shown at
            (a p + c q + x, b p + d q + y), as ISO/IEC 14496-12 has it and FFmpeg hands it over; None without one.
        pixel_aspect: None, or 0, when unknown: square.

    Raises:
        InputError: the matrix turns by other than quarter turns, or the aspect is absurd.
    """
    aspect = pixel_aspect if pixel_aspect else Fraction(1)
    if display_matrix is None:
        return Geometry(pixel_aspect=aspect)
    a, b, _, c, d, *_ = struct.unpack("=9i", display_matrix[:36])
    columns = []
    for along_x, along_y in ((a, b), (c, d)):
        length = math.hypot(along_x, along_y)
        if length < 1 or min(abs(along_x), abs(along_y)) > _SKEW * length:
            angle = math.degrees(math.atan2(along_y, along_x))
            raise InputError(
                f"its display matrix turns by {angle:.0f} degrees; only quarter turns and mirrors are read"
            )
        columns.append((round(along_x / length), round(along_y / length)))
    (a, b), (c, d) = columns
    if bool(a) == bool(c):
        raise InputError(f"its display matrix ({a}, {b}, {c}, {d}) maps the picture onto a line")
    if a:
        return Geometry(mirror_x=a < 0, mirror_y=d < 0, pixel_aspect=aspect)
    return Geometry(transpose=True, mirror_x=c < 0, mirror_y=b < 0, pixel_aspect=aspect)
