"""The embedded renderer: the focus map back to a signed radius, then the project's own lens."""

from dataclasses import dataclass

from pipeline.device import resolve_device
from pipeline.engines.base import BokehRequest, SafePoint
from pipeline.engines.info import EngineInfo, option
from pipeline.media.images import Picture
from pipeline.optics.aperture import Aperture


class LensRenderer:
    """radius_px = (1 - focus_map) * max_coc / 2 * px_per_m, signed by depth against S; depth also orders the layers."""

    info = EngineInfo(name="lens", role="bokeh", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """The shape of the opening; see `pipeline.optics.Aperture`."""

        blades: int = option(0, "straight sides of the opening, 0 for a disc, else at least 3")
        rotation_deg: float = option(0.0, "turns the polygon counter-clockwise, degrees")
        roundness: float = option(0.0, "0 straight blades, 1 the disc again")

        def __post_init__(self) -> None:
            self.aperture()

        def aperture(self) -> Aperture:
            return Aperture(blades=self.blades, rotation_deg=self.rotation_deg, roundness=self.roundness)

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        self._device = device

    def shrink(self) -> bool:
        return False

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        import torch

        from pipeline.media.convert import image_to_tensor, tensor_to_image
        from pipeline.optics import focus_map_to_defocus_px, render_lens_blur

        safe_point()
        device = resolve_device(self._device)
        with torch.inference_mode():
            depth = torch.from_numpy(request.depth_m).to(device)[None, None]
            label = torch.from_numpy(request.focus_map).to(device)[None, None]
            image = image_to_tensor(request.sharp, device)[None]
            radius = focus_map_to_defocus_px(label, depth, request.lens.focus_m, request.max_coc_m, request.px_per_mm)
            rendered = render_lens_blur(image, radius, order=depth, aperture=self.options.aperture())
            return tensor_to_image(rendered[0])


ENGINE = LensRenderer
