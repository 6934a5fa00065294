"""Images: what a raw frame may be, and how it becomes (H, W, 3) uint8 sRGB.

Greyscale, palette, alpha, 16-bit, EXIF-turned and colour-managed pictures are accepted and converted, and the conversion is
noted in the scene index. A picture that does not decode to its last byte is refused.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from pipeline.errors import InputError
from pipeline.media.arrays import AnyPicture, Picture
from pipeline.media.geometry import MAX_PIXELS
from pipeline.media.image_color import convert_color
from pipeline.storage.bounded import one_line, open_regular

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # said as an error, with the limit
# On a photograph at 848x480, level 1 with the average filter took 22 ms and 588 KiB, level 1 with libpng's choice of filters
# 32 ms and 590 KiB, level 6 105 ms and 561 KiB.
PNG_SETTINGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which frame_2 comes before frame_10."""
    pieces = re.split(r"(\d+)", name)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece)


def _to_rgb(path: Path, image: Image.Image) -> tuple[Picture, list[str]]:
    notes = []
    raw_modes = {str(tile[3]) for tile in getattr(image, "tile", ())}
    if (
        image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    ):  # an MPO's second picture is a preview or a gain map
        notes.append("only the first of several pictures in the file is read")
    image.load()  # the whole file, not the header
    orientation = image.getexif().get(0x0112, 1)
    if orientation != 1:
        notes.append("mirrored as EXIF says" if orientation in (2, 4, 5, 7) else "rotated as EXIF says")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            raise InputError("floating point pictures are not accepted as frames; save 8- or 16-bit pictures")
        notes += ["16-bit reduced to 8-bit", "greyscale repeated to RGB"]
        narrow = np.clip(np.rint(grey / 257), 0, 255).astype(np.uint8)
        return np.repeat(narrow[..., None], 3, axis=2), notes
    if any(";16" in mode for mode in raw_modes):
        notes.append("16-bit reduced to 8-bit")
    if image.mode in ("L", "LA", "1"):
        notes.append("greyscale repeated to RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        notes.append("alpha dropped")
    shown, converted = convert_color(path, image)
    return np.array(shown), notes + converted


@contextmanager
def _decoding(path: Path) -> Iterator[Image.Image]:
    """The image behind a path, its header read and its size looked at; whatever goes wrong inside names the file."""
    try:
        with open_regular(path) as file, Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"it is {image.width}x{image.height}, {image.width * image.height / 1e6:.0f} megapixels; at most "
                    f"{MAX_PIXELS / 1e6:.0f} are decoded"
                )
            yield image
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not decode: there is no such file") from None
    except (
        Exception
    ) as error:  # Pillow's plugins raise whatever their parsers do: struct.error, KeyError, zlib.error ...
        raise InputError(f"{path} does not decode: {one_line(error)}") from None


def read_picture(path: Path) -> tuple[Picture, list[str]]:
    """Decode a picture completely.

    Returns:
        (H, W, 3) uint8 sRGB, upright, and notes on what was converted.

    Raises:
        InputError: it cannot be read, is truncated or has a colour that cannot be converted; the message names the file.
    """
    with _decoding(path) as image:
        return _to_rgb(path, image)


def read_cutout(path: Path) -> tuple[Picture, Picture]:
    """Decode a picture with transparency, as it is stored: a cut-out has no camera and no EXIF.

    Returns:
        (H, W, 3) uint8 sRGB, and (H, W) uint8 alpha.

    Raises:
        InputError: it cannot be read, has no alpha, or its alpha is the same everywhere; the message names the file.
    """
    with _decoding(path) as image:
        if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
            raise InputError(f"{path} has no alpha (its mode is {image.mode}); a cut-out must be RGBA")
        shown = np.array(image.convert("RGBA"))
    alpha = shown[..., 3]
    if alpha.min() == alpha.max():
        raise InputError(f"{path} cuts nothing out: its alpha is {alpha.min()} everywhere; it must differ")
    return np.ascontiguousarray(shown[..., :3]), np.ascontiguousarray(alpha)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) as shown, from the header alone.

    Raises:
        InputError: it has none.
    """
    with _decoding(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def encode_png(picture: AnyPicture) -> bytes:
    """Lossless, byte-reproducible PNG of 8 or 16 bits a channel."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), PNG_SETTINGS)
    assert ok, "an RGB array of 8 or 16 bits always encodes"
    return data.tobytes()


def read_sharp(path: Path) -> Picture:
    """Read a frame that this pipeline wrote."""
    return read_picture(path)[0]


def multiple_of_16(size: tuple[int, int]) -> tuple[int, int]:
    """Each side to the nearest multiple of 16 (halves up, at least 16): 854x480 -> 848x480."""
    width, height = (max(16, (side + 8) // 16 * 16) for side in size)
    return width, height


def resize_picture(picture: Picture, size: tuple[int, int]) -> Picture:
    """Lanczos to (width, height); the picture itself when it has that size."""
    if picture.shape[1::-1] == size:
        return picture
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def encode_jpeg(picture: Picture, quality: int = 85) -> bytes:
    """For thumbnails in the report; never for training data."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
