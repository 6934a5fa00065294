"""One photograph through the engines: checked as a whole, sharpened, its depth found, blurred by K, written.

Special: everything that can be missing is looked for before anything is computed, and the networks are in memory one after
the other. What this is not: consistent over time; a film goes through the phases or scripts/apply_bokeh.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.device import resolve_device
from pipeline.engines import engine_class, load_engine
from pipeline.engines.base import BokehRenderer, BokehRequest, Deblurrer, Engine, MapRenderer, SafePoint
from pipeline.engines.info import Role
from pipeline.errors import UsageError
from pipeline.media.depth_cleaning import crisp
from pipeline.media.depth_files import Depth
from pipeline.media.geometry import check_frame_size
from pipeline.media.images import (
    Picture,
    encode_jpeg,
    encode_png,
    multiple_of_16,
    read_picture,
    resize_picture,
)
from pipeline.optics.lens import px_per_mm
from pipeline.phases.base import retry_on_oom
from pipeline.refocus.defocus import defocus_map, lens_of, radius_px
from pipeline.refocus.depth import DepthSource, choose_depth
from pipeline.refocus.settings import RefocusSettings
from pipeline.reporter import Reporter
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.files import write_shared
from pipeline.weights import Condition, download_command, find, weights_folder, weights_named

_SHOWS_PX = 2.0  # a step of the radius from which on an edge of the depth is one, as for films
_JPEG_QUALITY = 95
_WRITERS: Mapping[str, Callable[[Picture], bytes]] = {
    ".png": encode_png,
    ".jpg": lambda picture: encode_jpeg(picture, _JPEG_QUALITY),
    ".jpeg": lambda picture: encode_jpeg(picture, _JPEG_QUALITY),
}
Kind = TypeVar("Kind", bound=Engine)


def refocus(photo: Path, output: Path, settings: RefocusSettings, *, overwrite: bool = False) -> None:
    """Read a photograph, refocus it, write it.

    Raises:
        UsageError: a path, a pixel or weights that are not there, or an output that is.
        InputError: the photograph or its depth cannot be used.
        StoppedError: a signal came; nothing was written.
    """
    check_output(output, photo, overwrite=overwrite)
    with StopSignals() as signals, Reporter("refocus", None) as reporter:
        picture, notes = read_picture(photo)
        for note in notes:
            reporter.info(f"{photo.name}: {note}")
        refocused = _Run(photo, picture, settings, reporter, signals.safe_point).go()
        write_shared(output, _WRITERS[output.suffix.lower()](refocused))
        reporter.info(f"refocus: {output}, {refocused.shape[1]}x{refocused.shape[0]}")


def check_output(output: Path, photo: Path, *, overwrite: bool) -> None:
    """UsageError where the output cannot be written, or would replace what nobody said may go."""
    if output.suffix.lower() not in _WRITERS:
        raise UsageError(f"-o must end in {', '.join(_WRITERS)}, got {output}")
    if output.resolve() == photo.resolve():
        raise UsageError(f"-o must not be the photograph itself, {photo}")
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"-o must be a file in a folder that exists, got {output}")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; give another -o, or --overwrite")


def working_size(size: tuple[int, int], settings: RefocusSettings) -> tuple[int, int]:
    """(width, height) that is worked on and written: the longer side as asked for, multiples of 16 where FLUX needs them."""
    width, height = size
    if settings.long_side is not None:
        scale = settings.long_side / max(size)
        width, height = (max(1, round(side * scale)) for side in size)
    return multiple_of_16((width, height)) if settings.in_tokens else (width, height)


class _Run:
    """One photograph, step by step; each step says what it does. Engines check their weights when they are made."""

    def __init__(
        self, photo: Path, picture: Picture, settings: RefocusSettings, reporter: Reporter, safe_point: SafePoint
    ) -> None:
        self._settings, self._reporter, self._safe_point = settings, reporter, safe_point
        self._device = resolve_device(settings.device)
        size = (picture.shape[1], picture.shape[0])
        self._size = working_size(size, settings)
        check_frame_size(*self._size, photo)
        self._focus = _focus_in(size, self._size, settings.focus_px)
        self._picture = resize_picture(picture, self._size)
        _check_options(settings)
        _check_weights(settings)
        blurs = settings.k > 0
        self._deblurrer = self._engine("deblur", "genfocus", Deblurrer) if settings.deblur else None
        self._depth = (
            choose_depth(settings.depth, photo, size, self._device, self._known("depth", "vda")) if blurs else None
        )
        self._renderer = self._engine("bokeh", settings.engine, BokehRenderer) if blurs else None

    def _known(self, role: Role, name: str) -> dict[str, str]:
        """What was given, of the options that this engine has."""
        names = {item.name for item in fields(engine_class(role, name).Options)}
        return {key: value for key, value in self._settings.engine_opts.items() if key in names}

    def _engine(self, role: Role, name: str, kind: type[Kind]) -> Kind:
        usual = {
            "steps": str(self._settings.steps),
            "author_seeds": str(self._settings.author_seeds),
            "dtype": "bf16" if self._device.startswith("cuda") else "fp32",  # as the published demo chooses
        }
        names = {item.name for item in fields(engine_class(role, name).Options)}
        options = {key: value for key, value in usual.items() if key in names} | self._known(role, name)
        return load_engine(role, name, options, self._device, kind)

    def go(self) -> Picture:
        sharp = self._sharpen()
        if self._depth is None or self._renderer is None:
            self._reporter.info("K is 0: nothing is blurred")
            return sharp
        depth_m = self._estimate(self._depth, sharp)
        return self._blur(self._renderer, sharp, depth_m)

    def _sharpen(self) -> Picture:
        engine, self._deblurrer = self._deblurrer, None  # its network leaves the memory when this returns
        if engine is None:
            return self._picture
        self._reporter.info(f"deblur: DeblurNet ({engine.info.licence})")
        seed = stable_seed("refocus", "deblur", self._settings.seed)
        return retry_on_oom(
            engine, lambda: engine.deblur(self._picture, seed, self._safe_point), self._reporter.warning
        )

    def _estimate(self, source: DepthSource, sharp: Picture) -> Depth:
        self._depth = None
        self._reporter.info(f"depth: {source.said}" + (f" ({source.licence})" if source.licence else ""))
        return source.read(sharp, self._safe_point)

    def _blur(self, engine: BokehRenderer, sharp: Picture, depth_m: Depth) -> Picture:
        k, column, row = self._settings.k, *self._focus
        focus_m = float(depth_m[row, column])
        radius = radius_px(depth_m, focus_m, k)
        licence = f" ({engine.info.licence})" if engine.info.weights else ""
        self._reporter.info(
            f"bokeh: {engine.info.name}{licence}, focus at {focus_m:.2f} m, K {k:g}: radius {np.median(radius):.1f} px in the "
            f"median, at most {radius.max():.1f}"
        )
        seed = stable_seed("refocus", "bokeh", self._settings.seed)
        if isinstance(engine, MapRenderer):
            guide = defocus_map(radius)
            return retry_on_oom(
                engine, lambda: engine.render_map(sharp, guide, seed, self._safe_point), self._reporter.warning
            )
        if not radius.any():
            return sharp
        request = _request(sharp, crisp(depth_m, _SHOWS_PX / k), focus_m, k, seed)
        return engine.render(request, self._safe_point)


def _focus_in(size: tuple[int, int], working: tuple[int, int], asked: tuple[int, int] | None) -> tuple[int, int]:
    """(column, row) of the working picture for a pixel of the photograph, or for its middle.

    Raises:
        UsageError: the pixel is outside.
    """
    x, y = asked or (size[0] // 2, size[1] // 2)
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise UsageError(
            f"--focus_px must lie in the photograph, 0,0 to {size[0] - 1},{size[1] - 1} as it is shown upright, got {x},{y}"
        )
    column, row = (int((at + 0.5) * new / old) for at, new, old in zip((x, y), working, size, strict=True))
    return min(column, working[0] - 1), min(row, working[1] - 1)


def _check_weights(settings: RefocusSettings) -> None:
    """UsageError in one line, with the command that brings all that is missing."""
    folder = weights_folder(settings.engine_opts.get("weights", ""))
    found = [find(weights_named(title), folder) for title in settings.flux_files()]
    missing = [item.weights.title for item in found if item.condition is Condition.MISSING]
    if missing:
        raise UsageError(
            f"weights are missing: {', '.join(missing)}; do without, with --engine lens --no_deblur, or get them: "
            f"{download_command(missing, folder)}"
        )


def _check_options(settings: RefocusSettings) -> None:
    """UsageError for an option that no engine at work has."""
    at_work = [("deblur", "genfocus"), ("depth", "vda"), ("bokeh", settings.engine)][0 if settings.deblur else 1 :]
    known = sorted({item.name for role, name in at_work for item in fields(engine_class(role, name).Options)})
    for name in settings.engine_opts:
        if name not in known:
            raise UsageError(f"--engine_opt {name}: no engine at work has it; there are {', '.join(known)}")


def _request(sharp: Picture, depth_m: Depth, focus_m: float, k: float, seed: int) -> BokehRequest:
    """The same blur for a renderer that reads a label: one that saturates where this picture's largest radius is."""
    per_mm = px_per_mm(sharp.shape[1])
    radius = radius_px(depth_m, focus_m, k)
    largest = max(float(radius.max()), 1e-3)
    return BokehRequest(
        sharp=sharp,
        focus_map=(1 - radius / largest).astype(np.float16),
        depth_m=depth_m,
        lens=lens_of(k, focus_m, sharp.shape[1]),
        max_coc_m=2 * largest / (per_mm * 1000),
        px_per_mm=per_mm,
        seed=seed,
    )
