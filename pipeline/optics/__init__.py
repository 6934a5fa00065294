"""The one physical model: circle of confusion, focus maps, lens draws, apertures and the lens renderer.

Nothing here imports the rest of the project, so calibration, labels, renderers, ray tracer and network can all share
it.
"""

from pipeline.optics.aperture import Aperture
from pipeline.optics.coc import (
    SENSOR_WIDTH_MM,
    AnyLens,
    CocModel,
    Lens,
    OpticsError,
    coc_diameter,
    coc_to_radius_px,
    defocus_px,
    disparity_gain_px,
    focus_map,
    focus_map_to_defocus_px,
    infinity_coc,
    px_per_mm,
)
from pipeline.optics.color import linear_to_srgb, srgb_to_linear
from pipeline.optics.render import render_lens_blur
from pipeline.optics.sampling import draw_lens, stable_seed

__all__ = [
    "SENSOR_WIDTH_MM",
    "AnyLens",
    "Aperture",
    "CocModel",
    "Lens",
    "OpticsError",
    "coc_diameter",
    "coc_to_radius_px",
    "defocus_px",
    "disparity_gain_px",
    "draw_lens",
    "focus_map",
    "focus_map_to_defocus_px",
    "infinity_coc",
    "linear_to_srgb",
    "px_per_mm",
    "render_lens_blur",
    "srgb_to_linear",
    "stable_seed",
]
