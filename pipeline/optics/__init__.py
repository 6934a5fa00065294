"""The one physical model: circle of confusion, focus maps, lens draws, apertures and the lens renderer.

Of the rest of the project only the seeds are imported here, so calibration, labels, renderers, ray tracer and networks can all
share it. Names are looked up when they are first used: whoever needs a `Lens` alone does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.optics.aperture import Aperture
    from pipeline.optics.coc import coc_diameter, defocus_px, focus_map, focus_map_to_defocus_px
    from pipeline.optics.color import linear_to_srgb, srgb_to_linear
    from pipeline.optics.fixed import FixedShapes
    from pipeline.optics.lens import (
        SENSOR_WIDTH_MM,
        AnyLens,
        CocModel,
        Lens,
        OpticsError,
        coc_to_radius_px,
        disparity_gain_px,
        infinity_coc,
        px_per_mm,
    )
    from pipeline.optics.render import render_lens_blur
    from pipeline.optics.sampling import draw_lens
    from pipeline.optics.visible import draw_visible_lens

_HOMES = {
    "aperture": ("Aperture",),
    "coc": ("coc_diameter", "defocus_px", "focus_map", "focus_map_to_defocus_px"),
    "color": ("linear_to_srgb", "srgb_to_linear"),
    "fixed": ("FixedShapes",),
    "lens": (
        "SENSOR_WIDTH_MM",
        "AnyLens",
        "CocModel",
        "Lens",
        "OpticsError",
        "coc_to_radius_px",
        "disparity_gain_px",
        "infinity_coc",
        "px_per_mm",
    ),
    "render": ("render_lens_blur",),
    "sampling": ("draw_lens",),
    "visible": ("draw_visible_lens",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "SENSOR_WIDTH_MM",
    "AnyLens",
    "Aperture",
    "CocModel",
    "FixedShapes",
    "Lens",
    "OpticsError",
    "coc_diameter",
    "coc_to_radius_px",
    "defocus_px",
    "disparity_gain_px",
    "draw_lens",
    "draw_visible_lens",
    "focus_map",
    "focus_map_to_defocus_px",
    "infinity_coc",
    "linear_to_srgb",
    "px_per_mm",
    "render_lens_blur",
    "srgb_to_linear",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
