"""One training sample, and a batch of them: a sharp picture, its photograph, and what the lens did in the network's terms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.engines.bokehdiff.pisa import Defocus


@dataclass(frozen=True, kw_only=True)
class PairSample:
    """A pair.

    Args:
        name: for people who look for a bad sample.
        sharp, bokeh: (3, H, W) sRGB in [0, 1].
        disparity: (H, W) in [0, 1], 1 at the plane of the camera.
        focus: the disparity in focus.
        gain_px: K as the network is told, radius in pixels per disparity.
        max_radius_px: where the photograph's blur saturates.
    """

    name: str
    sharp: Tensor
    bokeh: Tensor
    disparity: Tensor
    focus: float
    gain_px: float
    max_radius_px: float = float("inf")

    def defocus(self) -> Defocus:
        """What PISA is given, for one picture."""
        return Defocus(
            disparity=self.disparity[None],
            focus=self.focus,
            gain_px=self.gain_px,
            max_radius_px=self.max_radius_px,
        )


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs of one size."""

    names: tuple[str, ...]
    sharp: Tensor  # (B, 3, H, W)
    bokeh: Tensor  # (B, 3, H, W)
    defocus: tuple[Defocus, ...]

    def to(self, device: torch.device | str) -> "PairBatch":
        return replace(
            self,
            sharp=self.sharp.to(device),
            bokeh=self.bokeh.to(device),
            defocus=tuple(replace(one, disparity=one.disparity.to(device)) for one in self.defocus),
        )


def collate(samples: Sequence[PairSample]) -> PairBatch:
    """Stack pairs; the sources of a run cut all of theirs to one size."""
    return PairBatch(
        names=tuple(sample.name for sample in samples),
        sharp=torch.stack([sample.sharp for sample in samples]),
        bokeh=torch.stack([sample.bokeh for sample in samples]),
        defocus=tuple(sample.defocus() for sample in samples),
    )
