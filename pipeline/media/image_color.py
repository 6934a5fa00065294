"""What an image file says of its colour (ICC profile, PNG and AVIF code points, PNG gamma), and the way to sRGB.

Special: a profile that *is* sRGB, by what it does and not by its name, changes no byte.
"""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from pipeline.errors import InputError
from pipeline.media.color import ColorTags, to_srgb

_SAME = 2  # of 255: what rounding and profiles of different makers make of sRGB
_SRGB_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.02
_HEAD_BYTES = 1 << 16


@lru_cache(maxsize=16)
def _profile(data: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (OSError, ImageCms.PyCMSError) as error:
        raise InputError(f"its ICC profile cannot be read ({error}); save it as sRGB") from None


@lru_cache(maxsize=16)
def _transform(data: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """To sRGB, relative colorimetric with black point compensation, as browsers do; None where nothing would change."""
    profile = _profile(data)
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        made = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except ImageCms.PyCMSError as error:
        raise InputError(f"its ICC profile does not fit its {mode} pixels ({error}); save it as sRGB") from None
    if mode == "CMYK":
        return made
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None], 2, 0), "L")
    else:
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
        probe = Image.fromarray(np.ascontiguousarray(grid))
    converted = ImageCms.applyTransform(probe, made)
    assert converted is not None, "a new picture is made"
    change = np.abs(np.asarray(converted, np.int16) - np.asarray(probe.convert("RGB"), np.int16)).max()
    return made if change > _SAME else None


def _profile_name(data: bytes) -> str:
    return ImageCms.getProfileDescription(_profile(data)).strip() or "an ICC profile without a name"


def code_points(path: Path, image: Image.Image) -> ColorTags | None:
    """The H.273 code points of a PNG (chunk cICP) or AVIF (box colr); None where the file has none."""
    if image.format not in ("PNG", "AVIF"):
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if image.format == "PNG":
        at = head.find(b"\0\0\0\4cICP")
        values = head[at + 8 : at + 10] if at >= 0 else b""
        return ColorTags(primaries=values[0], transfer=values[1], is_rgb=True) if len(values) == 2 else None
    at = head.find(b"colrnclx")
    if at < 0 or len(head) < at + 14:
        return None
    primaries, transfer = (int.from_bytes(head[at + start : at + start + 2], "big") for start in (8, 10))
    return ColorTags(primaries=primaries, transfer=transfer, is_rgb=True)


def convert_color(path: Path, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A loaded 8-bit picture -> RGB in sRGB, and notes on what was converted.

    The newer statement wins: code points over an ICC profile over PNG's gamma, as the PNG specification (third edition) has it.

    Raises:
        InputError: a colour that cannot be converted, by name.
    """
    tags = code_points(path, image)
    if tags is not None:
        tags = tags.resolved(*image.size)
        note = tags.note()
        if tags.is_hdr:
            raise InputError(
                f"it is HDR ({note.split(' tone')[0] if note else ''}); tone-map it to an SDR picture first"
            )
        if note is None:
            return _plain(image)
        wide = np.asarray(image.convert("RGB")).astype(np.uint16) * 257
        return Image.fromarray(np.asarray(to_srgb(wide, tags), np.uint8)), [note]
    data = image.info.get("icc_profile")
    if data:
        mode = image.mode if image.mode in ("L", "CMYK") else "L" if image.mode in ("LA", "1") else "RGB"
        if _profile(data).profile.xcolor_space.strip() == "RGB" and mode == "L":
            mode = "RGB"  # a grey picture with a colour profile: its neutral axis
        transform = _transform(data, mode)
        if transform is None:
            return _plain(image)
        converted = ImageCms.applyTransform(image.convert(mode), transform)
        assert converted is not None, "a new picture is made"
        return converted, [f"{_profile_name(data)} converted to sRGB"]
    gamma = image.info.get("gamma") if image.format == "PNG" and "srgb" not in image.info else None
    if gamma and abs(gamma - _SRGB_GAMMA) > _GAMMA_TOLERANCE:
        light = np.linspace(0, 1, 256) ** (1 / gamma)
        table = np.rint(np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255)
        return image.convert("RGB").point([int(value) for value in table] * 3), [f"gamma {gamma:g} converted to sRGB"]
    return _plain(image)


def _plain(image: Image.Image) -> tuple[Image.Image, list[str]]:
    return image.convert("RGB"), ["CMYK converted without a profile"] if image.mode == "CMYK" else []
