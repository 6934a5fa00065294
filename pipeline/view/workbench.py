"""Looks in, pictures out: what the page asks for, made of the dataset by the functions of `panels`, and kept while it may be
asked for again."""

import dataclasses
from typing import Any, Protocol

from pipeline.device import resolve_device
from pipeline.errors import UsageError
from pipeline.hints import phase_command
from pipeline.media.images import Picture, encode_jpeg
from pipeline.optics.labels import FocusMap
from pipeline.optics.lens import Lens
from pipeline.phases.calibration import confirm
from pipeline.phases.render import MEAN_FOCUS_RANGE
from pipeline.report.colours import colour_focus, depth_scale
from pipeline.report.formatting import lens_words, percent
from pipeline.view.dataset import Dataset
from pipeline.view.memo import Memo
from pipeline.view.panels import Preview, count, depth_at, focus_map_of, photograph, shrink
from pipeline.view.settings import Look, ViewSettings

_QUALITY = 92
_KEPT = 64  # previews, maps and pictures; at 480x272 some 60 MB together


class Network(Protocol):
    """A trained network that photographs a single frame."""

    said: str  # which one it is, and how far to trust it

    def photograph(self, picture: Picture, lens: Lens, sensor_width_mm: float) -> Picture:
        """The frame through the lens, (H, W, 3) uint8; UsageError for a lens that it does not know."""
        ...


class Workbench:
    """Answers the page's questions; safe to ask from several threads."""

    def __init__(self, dataset: Dataset, settings: ViewSettings, network: Network | None = None) -> None:
        self._dataset, self._settings, self._network = dataset, settings, network
        self._device = resolve_device(settings.device)
        self._previews: Memo[Preview] = Memo(_KEPT)
        self._maps: Memo[FocusMap] = Memo(_KEPT)
        self._pictures: Memo[bytes] = Memo(_KEPT)
        self._network_pictures: Memo[bytes] = Memo(_KEPT)  # its own, so that a slow network holds nothing else up

    def describe(self) -> dict[str, Any]:
        """The dataset, and what this page is set to."""
        return self._dataset.describe() | {
            "network": self._network.said if self._network else "",
            "long_side_px": self._settings.long_side_px,
        }

    def describe_scene(self, scene_id: str) -> dict[str, Any]:
        return self._dataset.describe_scene(scene_id)

    def focus_at(self, scene_id: str, frame: int, across: float, down: float) -> dict[str, float]:
        """The stored depth under a place of the picture, both from 0 to 1."""
        self._dataset.entry(scene_id, frame)
        return {"focus_m": depth_at(self._dataset.depth(scene_id, frame), across, down)}

    def picture(self, kind: str, scene_id: str, frame: int) -> bytes:
        """ "sharp" or "depth", which no lens changes, as a JPEG."""
        preview, key = self._preview(scene_id, frame)
        if kind == "sharp":
            return self._pictures.get((key, kind), lambda: encode_jpeg(preview.sharp, _QUALITY))
        scale = depth_scale(preview.depth)
        return self._pictures.get((key, kind), lambda: encode_jpeg(scale.colour(preview.depth), _QUALITY))

    def looked(self, kind: str, look: Look) -> bytes:
        """ "focus", "render" or "network" as a JPEG."""
        preview, key = self._preview(look.scene, look.frame)
        lens = look.lens(self._dataset.settings().coc_model)
        if kind == "network":
            return self._through_network(preview, key, lens)
        focus = self._focus(preview, key, lens, look.max_coc_m)
        if kind == "focus":
            return self._pictures.get((key, kind, lens, look.max_coc_m), lambda: _jpeg(colour_focus(focus)))

        def make() -> bytes:
            return _jpeg(photograph(preview, focus, lens, look.max_coc_m, saturate=look.saturate, device=self._device))

        return self._pictures.get((key, kind, lens, look.max_coc_m if look.saturate else None), make)

    def counted(self, look: Look) -> dict[str, Any]:
        """What a look does to its frame in numbers, the lens in words, and what phase 5 would warn of."""
        preview, key = self._preview(look.scene, look.frame)
        lens = look.lens(self._dataset.settings().coc_model)
        counted = count(preview, self._focus(preview, key, lens, look.max_coc_m), lens, look.max_coc_m)
        return dataclasses.asdict(counted) | {
            "words": lens_words(lens.f_m, lens.f_number, lens.focus_m),
            "warning": _focus_warning(counted.mean_focus),
        }

    def confirm(self, max_coc_m: float | None) -> str:
        """Confirm as `04_calibrate_coc.py --confirm` does; None takes the recommendation.

        Returns:
            what to run next.

        Raises:
            PipelineError: it is refused; the message says why.
        """
        confirm(max_coc_m, dataclasses.replace(self._dataset.run, dry_run=False))
        return phase_command("render")

    def _preview(self, scene_id: str, frame: int) -> tuple[Preview, tuple[Any, ...]]:
        """A frame at preview size, and a key under which what is made of it may be kept."""
        self._dataset.entry(scene_id, frame)
        width_mm = self._dataset.settings().sensor_width_mm
        key = (scene_id, frame, width_mm, self._dataset.stamp(scene_id, frame))

        def make() -> Preview:
            sharp, depth = self._dataset.sharp(scene_id, frame), self._dataset.depth(scene_id, frame)
            return shrink(sharp, depth, self._settings.long_side_px, width_mm)

        return self._previews.get(key, make), key

    def _focus(self, preview: Preview, key: tuple[Any, ...], lens: Lens, max_coc_m: float) -> FocusMap:
        return self._maps.get((key, lens, max_coc_m), lambda: focus_map_of(preview, lens, max_coc_m))

    def _through_network(self, preview: Preview, key: tuple[Any, ...], lens: Lens) -> bytes:
        network = self._network
        if network is None:
            raise UsageError("no network was given; open the page with --checkpoint")
        width_mm = self._dataset.settings().sensor_width_mm
        return self._network_pictures.get((key, lens), lambda: _jpeg(network.photograph(preview.sharp, lens, width_mm)))


def _jpeg(picture: Picture) -> bytes:
    return encode_jpeg(picture, _QUALITY)


def _focus_warning(mean_focus: float) -> str:
    low, high = MEAN_FOCUS_RANGE
    if low <= mean_focus <= high:
        return ""
    what = "nearly all blur" if mean_focus < low else "nearly all sharp"
    return f"mean focus {percent(mean_focus)}: {what}; phase 5 would warn"
