"""What the code points of ITU-T H.273 say of colour, and the way from there to 8-bit sRGB.

Special: standard-dynamic-range video with BT.709-like primaries keeps its code values, as players show it; only what would
look wrong is converted. HDR is brought to SDR with diffuse white (203 cd/m2, ITU-R BT.2408) just below white. What this is
not: a grading tool; there is one rendering, and it is the same for every frame.

Formulas: ITU-R BT.709-6 and BT.2020-2 (camera curve), BT.2100-2 (HLG and PQ), BT.2087-0 (BT.2020 to BT.709), SMPTE RP 177
(matrices from chromaticities); the tone curve is the Moebius curve of FFmpeg's filter `tonemap`.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.arrays import AnyPicture

FloatArray = npt.NDArray[np.float64]

UNKNOWN = 2
HLG, PQ = 18, 16
BT709, BT2020 = 1, 9
_RGB = 0
_PRIMARIES_NAMES = {4: "BT.470 M", 8: "film", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_TRANSFER_NAMES = {8: "linear", 16: "PQ", 18: "HLG"}
# x, y of red, green, blue and white (H.273, table 2). Those of 601 are so near 709 that players do not convert, nor do we.
_CHROMATICITIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290),
    4: (0.670, 0.330, 0.210, 0.710, 0.140, 0.080, 0.3100, 0.3160),
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.3100, 0.3160),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3140, 0.3510),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290),
}
_LIKE_709 = (1, 5, 6, 7, 22)
_CAMERA_CURVES = (1, 5, 6, 7, 11, 12, 14, 15)  # shown as they are, whatever their exact camera curve
_KNOWN_TRANSFERS = (*_CAMERA_CURVES, 4, 8, 13, HLG, PQ)
_KNOWN_MATRICES = (1, 4, 5, 6, 7, 9)
_UNREADABLE = {
    "transfer": {9: "log", 10: "log with square root", 17: "SMPTE ST 428-1 (cinema X'Y'Z')"},
    "primaries": {10: "CIE XYZ"},
    "matrix": {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "Y'D'zD'x", 12: "chromaticity-derived",
               13: "chromaticity-derived constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"},
}  # fmt: skip
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
WHITE_NITS = 203.0  # diffuse white of HDR, BT.2408
PEAK_NITS = 1000.0  # of the HLG display BT.2100 describes; PQ above it is clipped
_KNEE = 0.75  # share of diffuse white up to which light is kept in proportion; white itself becomes sRGB 241


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """Code points of H.273; 2 is unknown.

    Args:
        primaries, transfer, matrix: as named there.
        is_rgb: the pixels are stored as RGB, so the matrix says nothing.
    """

    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    matrix: int = UNKNOWN
    is_rgb: bool = False

    def resolved(self, width: int, height: int) -> "ColorTags":
        """With unknown code points as players take them: BT.601 up to 576 lines and below 1280 columns, BT.709 above.

        Raises:
            InputError: a code point that cannot be converted; the message names it.
        """
        for kind, names in _UNREADABLE.items():
            value = getattr(self, kind)
            if value in names and not (kind == "matrix" and self.is_rgb):
                raise InputError(
                    f"its colour has the {kind} {names[value]}, which is not read; convert it to BT.709 first"
                )
        is_hd = width >= 1280 or height > 576
        return ColorTags(
            primaries=self.primaries if self.primaries in (*_CHROMATICITIES, *_LIKE_709) else BT709,
            transfer=self.transfer if self.transfer in _KNOWN_TRANSFERS else BT709,
            matrix=self.matrix if self.matrix in _KNOWN_MATRICES else BT709 if is_hd else 6,
            is_rgb=self.is_rgb,
        )

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (HLG, PQ)

    @property
    def is_plain(self) -> bool:
        """Whether the RGB code values are shown as they are."""
        return not self.is_hdr and self.transfer != 8 and self.primaries in _LIKE_709

    def note(self) -> str | None:
        """What is converted, in words; None for nothing. Of resolved tags."""
        if self.is_plain:
            return None
        what = [
            names[key]
            for names, key in ((_TRANSFER_NAMES, self.transfer), (_PRIMARIES_NAMES, self.primaries))
            if key in names
        ]
        return f"{', '.join(what)} {'tone-mapped from HDR' if self.is_hdr else 'converted'} to sRGB"


@lru_cache(maxsize=8)
def _to_xyz(primaries: int) -> FloatArray:
    """Linear RGB -> XYZ with white at Y = 1 (SMPTE RP 177), adapted to D65 by Bradford's matrix."""
    x_y = np.array(_CHROMATICITIES.get(primaries, _CHROMATICITIES[BT709])).reshape(4, 2)
    xyz = np.column_stack([x_y[:, 0] / x_y[:, 1], np.ones(4), (1 - x_y.sum(1)) / x_y[:, 1]])
    matrix: FloatArray = xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])
    x, y = _CHROMATICITIES[BT709][6:]
    d65 = np.array([x / y, 1, (1 - x - y) / y])
    gain = (_BRADFORD @ d65) / (_BRADFORD @ xyz[3])
    return np.asarray(np.linalg.inv(_BRADFORD) @ (gain[:, None] * (_BRADFORD @ matrix)), np.float64)


@lru_cache(maxsize=8)
def matrix_to_709(primaries: int) -> FloatArray:
    """(3, 3): linear RGB of these primaries -> linear RGB of BT.709 and sRGB; outside [0, 1] where the gamut is wider."""
    if primaries in _LIKE_709:
        return np.eye(3)
    return np.asarray(np.linalg.solve(_to_xyz(BT709), _to_xyz(primaries)), np.float64)


def decode_curve(transfer: int, signal: FloatArray) -> FloatArray:
    """Code values in [0, 1] -> linear light in [0, 1]: scene light for HLG and camera curves, cd/m2 / 10,000 for PQ."""
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = signal ** (1 / m2)
        return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    if transfer == 8:
        return signal
    if transfer == 4:
        return signal**2.2
    if transfer == 13:
        return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return np.where(
        signal < 0.08124285829863151, signal / 4.5, ((signal + 0.09929682680944) / 1.09929682680944) ** (1 / 0.45)
    )


def encode_curve(transfer: int, light: FloatArray) -> FloatArray:
    """The inverse of `decode_curve` for what 8-bit pictures are stored in: camera curves, 2.2, and sRGB for all others."""
    if transfer == 4:
        return light ** (1 / 2.2)
    if transfer in _CAMERA_CURVES:
        return np.where(light < 0.018053968510807, light * 4.5, 1.09929682680944 * light**0.45 - 0.09929682680944)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def tone_curve(light: FloatArray) -> FloatArray:
    """Light over diffuse white in [0, peak] -> [0, 1]: in proportion up to the knee, then the Moebius curve."""
    j, peak = _KNEE, PEAK_NITS / WHITE_NITS
    a = -(j**2) * (peak - 1) / (j**2 - 2 * j + peak)
    b = (j**2 - 2 * j * peak + peak) / (peak - 1)
    bent = (b + j) ** 2 / (b - a) * (light + a) / (light + b)
    return np.where(light <= j, light, np.minimum(bent, 1))


@lru_cache(maxsize=8)
def _tables(transfer: int, bits: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.unsignedinteger]]:
    """16-bit code value -> linear light, and 16-bit linear light -> code value of so many bits."""
    steps = np.linspace(0, 1, 65536)
    encoded = np.rint(np.clip(encode_curve(transfer, steps), 0, 1) * (2**bits - 1))
    return decode_curve(transfer, steps).astype(np.float32), encoded.astype(np.uint8 if bits == 8 else np.uint16)


def to_srgb(code_values: npt.NDArray[np.uint16], tags: ColorTags, *, deep: bool = False) -> AnyPicture:
    """(H, W, 3) 16-bit RGB code values of resolved tags -> (H, W, 3) uint8 sRGB; uint16 where `deep` is asked for.

    Colours outside sRGB are clipped channel by channel; HDR light is bent by its brightest channel, which keeps its hue.
    """
    decode, encode = _tables(tags.transfer, 16 if deep else 8)
    light: Any = decode[code_values]
    matrix = matrix_to_709(tags.primaries)
    if tags.transfer == HLG:
        # BT.2100: display light is scene light times its luminance to the power of 0.2, at 1,000 cd/m2.
        luminance = cv2.transform(light, _to_xyz(tags.primaries)[1:2])
        light *= (np.maximum(luminance, 1e-9).reshape(light.shape[:2]) ** np.float32(0.2))[..., None]
        matrix = matrix * (PEAK_NITS / WHITE_NITS)
    elif tags.transfer == PQ:
        matrix = matrix * (10000 / WHITE_NITS)
    light = np.maximum(cv2.transform(light, matrix), 0)
    if tags.is_hdr:
        brightest = np.minimum(light.max(axis=2), PEAK_NITS / WHITE_NITS)
        steps = np.linspace(0, PEAK_NITS / WHITE_NITS, 4097)
        gain = np.divide(tone_curve(steps), steps, out=np.ones_like(steps), where=steps > 0)
        light *= np.interp(brightest, steps, gain).astype(np.float32)[..., None]
    picture: Any = encode[(np.minimum(light, 1) * 65535 + 0.5).astype(np.uint16)]
    return picture
