"""Front to back when the caller says so: an order that contradicts the signed defocus rearranges the stack.

Special: for one lens the defocus grows with depth, clamped or not, and then nothing here has any effect. Layers of
equal defocus blur alike, so their order does not show. What remains are edited maps (a near object given the defocus
of a far one, or radii without a sign), for which whole units of layers are sorted by their mean order. Not a sort per
pixel.

Shape letters: H, W = picture.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.optics.layers import Knot


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Layers that are stacked together.

    Args:
        sign: +1 behind the focus plane, -1 in front.
        sharp: the pixels in focus.
        full: layers on the full grid.
        half: groups of layers on the half grid.
        hidden: only hidden surfaces; no visible pixel belongs to it.
    """

    sign: int
    sharp: bool = False
    full: list[Knot] = field(default_factory=list)
    half: list[list[Knot]] = field(default_factory=list)
    hidden: bool = False

    def members(self, position: Tensor) -> Tensor:
        """(1, H, W) which pixels mainly belong to these layers, from their positions on the ladder."""
        if self.hidden:
            return torch.zeros_like(position, dtype=torch.bool)
        if self.sharp:
            return position.abs() < 0.5
        knots = self.full or [knot for group in self.half for knot in group]
        position = self.sign * position
        return (position >= knots[0].step - 0.5) & (position < knots[-1].step + 0.5)


def sort_by_order(units: list[Unit], position: Tensor, order: Tensor) -> tuple[list[Unit], bool]:
    """Sort units by the mean order of their pixels; units without pixels stay behind the one before them.

    Args:
        units: front to back along the signed defocus.
        position: (1, H, W) signed position on the ladder of visible pixels.
        order: (1, H, W) grows with depth.

    Returns:
        The units from front to back, and whether order and defocus agree, which leaves them as they were.
    """
    ranks = order.detach().to(torch.float64)
    finite = torch.where(torch.isfinite(ranks), ranks, torch.zeros_like(ranks))
    ranks = ranks.clamp(float(finite.min()) - 1, float(finite.max()) + 1)
    keys: list[float] = []
    for unit in units:
        inside = unit.members(position)
        count = int(inside.sum())
        keys.append(float((ranks * inside).sum()) / count if count else keys[-1] if keys else float("-inf"))
    agrees = all(first <= second for first, second in pairwise(keys))
    if agrees:
        return units, True
    return [units[i] for i in sorted(range(len(units)), key=keys.__getitem__)], False


def order_as_defocus(order: Tensor, defocus: Tensor) -> Tensor:
    """Order stretched to the range of the defocus, (1, H, W), to measure how far apart two surfaces lie."""
    low, high = torch.aminmax(order.detach().clamp(-1e6, 1e6))
    span = (defocus.detach().amax() - defocus.detach().amin()).clamp(min=1)
    return ((order.detach().clamp(-1e6, 1e6) - low) / (high - low).clamp(min=1e-12) * span).to(defocus.dtype)
