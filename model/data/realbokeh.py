"""RealBokeh: photographs of one scene at f/22 and at wide apertures, with a focus distance that is known inexactly.

    ROOT/{split}/in/{id}_f22.JPG            nearly all in focus
    ROOT/{split}/gt/{id}/{id}_f{fstop}.JPG  the same scene, wider open
    ROOT/{split}/metadata/{id}.json         focal_length (mm), focus_plane_distance (m), target_avs (f-numbers)

A real lens moves its image plane to focus, so the lens model is "thin_lens". There is no depth. The sensor is full frame
unless EXIF knows both the focal length and its 35 mm equivalent.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from model.data.samples import Clip
from model.data.sampling import ClipSettings, draw_window, item_of, sample_rng
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.images import natural_key, read_picture
from pipeline.optics import SENSOR_WIDTH_MM, Lens, OpticsError, px_per_mm
from pipeline.storage.files import read_json

_INPUT_SUFFIX = "_f22.JPG"
_UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_EXIF_IFD, _EXIF_FOCAL, _EXIF_FOCAL_35 = 0x8769, 0x920A, 0xA405


@dataclass(frozen=True, kw_only=True)
class RealPair:
    """One wide-open photograph and its f/22 companion."""

    name: str
    sharp_path: Path
    bokeh_path: Path
    lens: Lens


@dataclass(frozen=True, kw_only=True)
class RealPairs:
    """The usable pairs of a split, and the reasons why others cannot be used."""

    pairs: tuple[RealPair, ...]
    skipped: dict[str, str]

    def describe(self) -> str:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:5])
        return f"{len(self.pairs)} RealBokeh pairs" + (f"; {len(self.skipped)} skipped ({shown})" if shown else "")


def find_pairs(root: Path, split: str) -> RealPairs:
    """All pairs of a split, in natural order of ids and then of apertures.

    Raises:
        UsageError: the folder has no such split, or no pair in it can be used; the message has the reasons.
    """
    folder = root / split
    if not (folder / "in").is_dir():
        found = sorted(path.parent.name for path in root.glob("*/in"))
        raise UsageError(f"{root} has no {split}/in; splits there are: {', '.join(found) or 'none'}")
    pairs: list[RealPair] = []
    skipped: dict[str, str] = {}
    for sharp in sorted((folder / "in").glob(f"*{_INPUT_SUFFIX}"), key=lambda path: natural_key(path.name)):
        scene_id = sharp.name.removesuffix(_INPUT_SUFFIX)
        try:
            f_m, focus_m, wanted = _read_metadata(folder / "metadata" / f"{scene_id}.json")
        except InputError as error:
            skipped[scene_id] = str(error)
            continue
        photographs = _photographs(folder / "gt" / scene_id, scene_id)
        for f_number in wanted:
            name = f"{scene_id} f/{f_number:g}"
            path = photographs.get(f_number)
            if path is None:
                skipped[name] = f"no photograph in {folder / 'gt' / scene_id}"
                continue
            try:
                lens = Lens(f_m=f_m, f_number=f_number, focus_m=focus_m, coc_model="thin_lens")
            except OpticsError as error:
                skipped[name] = str(error)
                continue
            pairs.append(RealPair(name=name, sharp_path=sharp, bokeh_path=path, lens=lens))
    if not pairs:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise UsageError(f"{folder} has no pair that can be used{f': {why}' if why else ''}")
    return RealPairs(pairs=tuple(pairs), skipped=skipped)


def _photographs(folder: Path, scene_id: str) -> dict[float, Path]:
    """f-number -> file. Numbers are compared as numbers: f2.JPG and f2.0.JPG are the same aperture."""
    found = {}
    pattern = re.compile(rf"{re.escape(scene_id)}_f(\d+(?:\.\d+)?)\.jpe?g", re.IGNORECASE)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match:
            found[float(match[1])] = path
    return found


def _read_metadata(path: Path) -> tuple[float, float, list[float]]:
    """Focal length in metres, focus distance in metres, f-numbers."""
    try:
        metadata = read_json(path, "the pair's metadata")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        f_mm = float(metadata["focal_length"])
        focus_m = _metres(metadata["focus_plane_distance"], metadata.get("focus_plane_distance_unit", "m"))
        f_numbers = [float(value) for value in metadata["target_avs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {error!r}; needs focal_length in mm, focus_plane_distance (m, or with a unit out of "
            f"{', '.join(_UNITS_M)}), and target_avs as a list of f-numbers"
        ) from None
    return f_mm / 1000, focus_m, f_numbers


def _metres(value: Any, unit: str) -> float:
    """2.4, or "240 cm" where the file says otherwise."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", value)
        if not match:
            raise ValueError(f"focus_plane_distance {value!r}")
        value, unit = match[1], match[2] or unit
    if unit not in _UNITS_M:
        raise ValueError(f"unit {unit!r} of focus_plane_distance")
    metres = float(value) * _UNITS_M[unit]
    if not (math.isfinite(metres) and metres > 0):
        raise ValueError(f"focus_plane_distance {value!r}")
    return metres


def photograph_px_per_mm(path: Path) -> float:
    """Pixels per millimetre of sensor: the long side is the sensor's width, however the camera was held.

    The sensor is 36 mm wide, or less where EXIF has both the focal length and its 35 mm equivalent.

    Raises:
        InputError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            exif, long_side = image.getexif().get_ifd(_EXIF_IFD), max(image.size)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} does not decode: {error}") from None
    try:
        focal, equivalent = float(exif.get(_EXIF_FOCAL, 0)), float(exif.get(_EXIF_FOCAL_35, 0))
    except (ValueError, TypeError, ZeroDivisionError):  # EXIF holds what its writer put there
        focal = equivalent = 0.0
    known = math.isfinite(focal) and focal > 0 and equivalent > 0
    return px_per_mm(long_side, SENSOR_WIDTH_MM * focal / equivalent if known else SENSOR_WIDTH_MM)


class RealBokehDataset(Dataset[Clip]):
    """Sample n of an endless, seeded stream of one-frame clips without depth; `len` is one epoch.

    Args:
        pairs: as `find_pairs` gives them.
        settings: crop, flip and seed; clip_frames must be 1, since these are single photographs.

    Raises:
        UsageError: settings ask for more than one frame.
    """

    def __init__(self, pairs: RealPairs, settings: ClipSettings) -> None:
        if settings.clip_frames != 1:
            raise UsageError(f"RealBokeh holds single photographs: clip_frames must be 1, got {settings.clip_frames}")
        self.settings, self._pairs = settings, pairs.pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Clip:
        """Read sample `number`.

        Raises:
            InputError: a file is damaged, the two photographs differ in size, or both are smaller than the crop.
        """
        pair = self._pairs[item_of(self.settings.seed, number, len(self._pairs))]
        sharp, bokeh = read_picture(pair.sharp_path)[0], read_picture(pair.bokeh_path)[0]
        height, width = sharp.shape[:2]
        if bokeh.shape != sharp.shape:
            raise InputError(
                f"{pair.bokeh_path} is {bokeh.shape[1]}x{bokeh.shape[0]}, {pair.sharp_path} {width}x{height}"
            )
        needed_width, needed_height = self.settings.min_size
        if width < needed_width or height < needed_height:
            raise InputError(
                f"{pair.sharp_path} is {width}x{height}, smaller than the {needed_width}x{needed_height} crop"
            )
        window = draw_window(sample_rng(self.settings.seed, number), self.settings, width, height)
        return Clip(
            name=f"{pair.name} {window}",
            frames=window.cut(image_to_tensor(sharp))[None],
            bokeh=window.cut(image_to_tensor(bokeh))[None],
            depth_m=None,
            lens=pair.lens,
            px_per_mm=photograph_px_per_mm(pair.sharp_path),
            max_radius_px=math.inf,
        )
