"""The shape of the lens opening, shared by the lens renderer (its kernel) and the ray tracer (its lens samples)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.optics.lens import OpticsError

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST_RIM = 0.95  # radii: its disc still holds the middle of the opening


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """A disc, or an n-blade polygon inscribed in it.

    Args:
        blades: 0 for a disc, otherwise the number of straight sides, >= 3.
        rotation_deg: turns the polygon counter-clockwise as seen in the picture, degrees.
        roundness: 0 has straight blades, 1 is the disc again; between, the outline is interpolated along its radius.
        rim: centre (right, up) of the front rim of the barrel as seen from a place in the picture, in radii; what lies outside
            that disc is shaded. (0, 0) is the middle of the picture, where the rim hides nothing (`cat_eye`).
    """

    blades: int = 0
    rotation_deg: float = 0.0
    roundness: float = 0.0
    rim: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.blades != 0 and self.blades < 3:
            raise OpticsError(f"blades must be 0 (a disc) or at least 3, got {self.blades}")
        if not 0.0 <= self.roundness <= 1.0:
            raise OpticsError(f"roundness must be in [0, 1], got {self.roundness}")
        if not math.isfinite(self.rotation_deg):
            raise OpticsError(f"rotation_deg must be finite, got {self.rotation_deg}")
        if not math.hypot(*self.rim) <= FARTHEST_RIM:
            raise OpticsError(f"rim must lie within {FARTHEST_RIM} radii of the centre, got {self.rim}")

    def outline(self, angle: "Tensor") -> "Tensor":
        """Distance of the edge from the centre, in units of the full opening's radius.

        Args:
            angle: any shape, radians, counter-clockwise from the picture's +x (with y up).

        Returns:
            The same shape, in (0, 1]; 1 everywhere for a disc, 1 at the corners of a polygon that nothing shades.
        """
        import torch

        if self.rim == (0.0, 0.0):
            return self._blades(angle)
        # Where a ray from the centre leaves the disc around the rim's centre c: c.e + sqrt((c.e)^2 + 1 - |c|^2).
        right, up = self.rim
        along = right * torch.cos(angle) + up * torch.sin(angle)
        return torch.minimum(self._blades(angle), along + torch.sqrt(along**2 + 1 - right**2 - up**2))

    def _blades(self, angle: "Tensor") -> "Tensor":
        import torch

        if self.blades == 0:
            return torch.ones_like(angle)
        sector = 2 * math.pi / self.blades
        inside = torch.remainder(angle - math.radians(self.rotation_deg), sector) - sector / 2
        polygon = math.cos(sector / 2) / torch.cos(inside)
        return (1 - self.roundness) * polygon + self.roundness
