"""Photographs of a folder, one by one: disparity, the disparity in focus, BokehDiff, a JPEG.

Special: what is missing of any photograph is said before anything is computed. Focus is a click, or the median disparity of the
subject (NAME.mask.png, or what a network finds), or of the middle 20 % of each side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pipeline.device import resolve_device
from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer, SafePoint
from pipeline.engines.bokehdiff.engine import Blur, BokehDiff
from pipeline.errors import InputError, UsageError
from pipeline.media.depth_files import Depth, resize_depth
from pipeline.media.depth_readers import read_map
from pipeline.media.geometry import check_frame_size
from pipeline.media.images import PICTURE_SUFFIXES, Picture, encode_jpeg, picture_size, read_picture, resize_picture
from pipeline.phases.base import retry_on_oom
from pipeline.refocus.depth import choose_depth
from pipeline.refocus.folder_settings import FolderSettings
from pipeline.refocus.subject import SubjectNetwork
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.files import write_bytes

SHIFT = 0.6  # of the signed defocus, of the published program's two other pictures
MASK = ".mask.png"
_TILE_PX = 512
_MIDDLE = 0.2
_QUALITY = 95

Disparity = Callable[[Picture, SafePoint], Depth]  # (H, W) float32 in [0, 1], the nearest point 1


@dataclass(frozen=True, kw_only=True)
class _Photograph:
    path: Path
    size: tuple[int, int]  # width, height
    said: str
    disparity: Disparity
    outputs: dict[str, Path]  # by shift: "near", "none", "far"


def blur_folder(folder: Path, results: Path, settings: FolderSettings) -> None:
    """Every photograph of a folder into `results`.

    Raises:
        UsageError: a folder, disparity or weights that are not there, or results that are.
        InputError: a photograph or its disparity cannot be used.
        StoppedError: a signal came; finished results stay.
    """
    device = resolve_device(settings.device)
    photographs = [_prepared(path, results, settings, device) for path in _photographs(folder, settings)]
    existing = [path for one in photographs for path in one.outputs.values() if path.exists()]
    if existing and not settings.overwrite:
        raise UsageError(f"{existing[0]} exists already; give another --data_id, or --overwrite")
    options = {"dtype": "bf16" if device.startswith("cuda") else "fp32", "variant": settings.variant}
    subject = SubjectNetwork(Path(settings.mask_network)) if settings.mask_network else None
    engine = load_engine("bokeh", "bokehdiff", options | settings.engine_opts, device, BokehRenderer)
    results.mkdir(parents=True, exist_ok=True)
    with StopSignals() as signals, Reporter("bokehdiff", None) as reporter:
        for photograph in photographs:
            signals.safe_point()
            _blur_one(engine, photograph, settings, subject, reporter, signals.safe_point)


def _photographs(folder: Path, settings: FolderSettings) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"--test_data_dir must be a folder, got {folder}")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    found = [path for path in found if not path.name.lower().endswith(MASK)]
    if settings.organization == "pngdepth":
        found = [path for path in found if path.suffix.lower() != ".png"]
    if not found:
        without = "" if settings.organization == "folder" else "; pngdepth keeps disparity in the .png"
        raise UsageError(f"{folder} holds no photograph ({', '.join(PICTURE_SUFFIXES)}){without}")
    return found


def _prepared(path: Path, results: Path, settings: FolderSettings, device: str) -> _Photograph:
    size = picture_size(path)
    if settings.focus_px is not None and not all(
        0 <= at < side for at, side in zip(settings.focus_px, size, strict=True)
    ):
        raise UsageError(f"--focus_px must lie in {path.name}, {size[0]}x{size[1]}, got {settings.focus_px}")
    if settings.organization == "pngdepth":
        source = path.with_suffix(".png")
        if not source.is_file():
            raise UsageError(f"{path} has no disparity: {source.name} is not beside it; near = large, 8 or 16 bits")
        said, disparity = f"disparity in {source.name}", _from_png(source)
    else:
        chosen = choose_depth(settings.depth, path, size, device, {})
        said = chosen.said + (f" ({chosen.licence})" if chosen.licence else "")

        def disparity(picture: Picture, safe_point: SafePoint) -> Depth:
            nearness = 1 / chosen.read(picture, safe_point).astype(np.float64)
            return (nearness / nearness.max()).astype(np.float32)

    names = ("near", "none", "far") if settings.shifts else ("none",)
    suffix = {"near": "_near", "none": "", "far": "_far"}
    outputs = {name: results / f"{path.stem}_{settings.k:g}{suffix[name]}.jpg" for name in names}
    return _Photograph(path=path, size=size, said=said, disparity=disparity, outputs=outputs)


def _from_png(source: Path) -> Disparity:
    def read(picture: Picture, safe_point: SafePoint) -> Depth:
        stored = read_map(source).astype(np.float32)
        if not stored.max() > 0:
            raise InputError(f"{source} is black: disparity must be near = large, and the nearest point above 0")
        return np.clip(resize_depth(stored / stored.max(), (picture.shape[1], picture.shape[0])), 0, 1)

    return read


def _blur_one(
    engine: BokehRenderer,
    photograph: _Photograph,
    settings: FolderSettings,
    subject: SubjectNetwork | None,
    reporter: Reporter,
    safe_point: SafePoint,
) -> None:
    picture, notes = read_picture(photograph.path)
    for note in notes:
        reporter.info(f"{photograph.path.name}: {note}")
    size = photograph.size
    scale = max(1.0, _TILE_PX / min(size)) if settings.upsample else 1.0
    working = (round(size[0] * scale), round(size[1] * scale))
    check_frame_size(*working, photograph.path)
    sharp = resize_picture(picture, working)
    disparity = photograph.disparity(sharp, safe_point)
    mask = _mask(photograph.path, working)
    if mask is None and subject is not None and settings.focus_px is None:
        found = subject.mask(sharp)
        mask = found if found.any() else None
        reporter.info(f"{photograph.path.name}: the subject is {found.mean():.0%} of the picture")
    focus = focus_disparity(disparity, mask, settings.focus_px, scale)
    reporter.info(
        f"{photograph.path.name}: {photograph.said}; in focus is disparity {focus:.3f} of the nearest point's"
    )
    for name, output in photograph.outputs.items():
        asked = Blur(disparity=disparity, focus=shifted(disparity, focus, name), gain_px=settings.k * scale)
        drawn = retry_on_oom(
            engine, partial(cast(BokehDiff, engine).render_blur, sharp, asked, safe_point), reporter.warning
        )
        write_bytes(output, encode_jpeg(resize_picture(drawn, size), _QUALITY))
        reporter.info(f"bokehdiff: {output}")


def _mask(photo: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """The subject, where somebody masked it: NAME.mask.png, more than half white."""
    path = photo.with_suffix(MASK)
    if not path.is_file():
        return None
    mask = resize_picture(read_picture(path)[0], size)[..., 0] > 127
    return mask if mask.any() else None


def focus_disparity(
    disparity: Depth, mask: npt.NDArray[np.bool_] | None, focus_px: tuple[int, int] | None, scale: float = 1.0
) -> float:
    """The disparity in focus.

    Args:
        disparity: (H, W).
        mask: (H, W) of the subject; None without any.
        focus_px: (x, y) in the photograph before it was scaled; it is asked first.
        scale: of the disparity's grid over the photograph's.
    """
    height, width = disparity.shape
    if focus_px is not None:
        column, row = (
            min(int((at + 0.5) * scale), side - 1) for at, side in zip(focus_px, (width, height), strict=True)
        )
        return float(disparity[row, column])
    if mask is None:
        rows, columns = (round(side * (1 - _MIDDLE) / 2) for side in (height, width))
        return float(np.median(disparity[rows : height - rows, columns : width - columns]))
    return float(np.median(disparity[mask]))


def shifted(disparity: Depth, focus: float, name: str) -> float:
    """The focus of one of the published program's three pictures: 0.6 of the way to the nearest point or to the farthest."""
    towards = {"near": float(disparity.max()), "none": focus, "far": float(disparity.min())}[name]
    return focus + SHIFT * (towards - focus)
