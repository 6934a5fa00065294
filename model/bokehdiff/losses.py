"""The losses after decoding, on [-1, 1]: squared error, edges, ST-LPIPS, and a discriminator's opinion from some step on."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model.bokehdiff.discriminator import TRUNKS, FeatureTrunk, LpipsTrunk, load_trunk, opinion
from model.evaluation.st_lpips import TRUNKS as LPIPS_TRUNKS
from model.evaluation.st_lpips import StLpips, load_st_lpips
from model.training.task import ramp
from pipeline.errors import UsageError

DEFAULT_LPIPS = 5.0
_EDGE_SCALES = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class BokehDiffLossWeights:
    """The factor of each term, >= 0; 0 turns it off.

    Args:
        mse: of the picture, unclamped.
        edge: of gradients at three sizes, heavier where the photograph or the sharp picture has an edge.
        lpips: ST-LPIPS. None means 5 where its weights are found and off otherwise; a number > 0 insists.
        lpips_trunk: "alex" or "vgg".
        gan: of the generator; the discriminator trains from step 0.
        gan_step: first step at which the generator listens; gan_ramp steps later it does fully.
        trunk: what the discriminator sees features of: "st_lpips", "convnext" (folder in trunk_folder), or "random", a
            frozen random one, for trying.
        trunk_folder: of a ConvNeXt in transformers' layout.
        weights: folder to look for ST-LPIPS's weights in.
    """

    mse: float = 1.0
    edge: float = 1.0
    lpips: float | None = None
    lpips_trunk: str = "alex"
    gan: float = 0.1
    gan_step: int = 30_000
    gan_ramp: int = 0
    trunk: str = "st_lpips"
    trunk_folder: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"loss.{item.name} must be finite and >= 0, got {value}")
        if not self.mse:
            raise UsageError("loss.mse must be > 0: it asks for the picture")
        for name, allowed in (("lpips_trunk", LPIPS_TRUNKS), ("trunk", TRUNKS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"loss.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if (self.trunk == "convnext") != bool(self.trunk_folder):
            raise UsageError("loss.trunk_folder is the folder of loss.trunk = convnext; give both or neither")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the losses say of a micro-batch: terms before weighting, their sum, and what the discriminator is to see."""

    terms: dict[str, Tensor]
    total: Tensor
    real: Tensor | None = None
    fake: Tensor | None = None


class BokehDiffLoss(nn.Module):
    """The generator's terms and their weighted sum; frozen networks in it, and none that trains.

    Attributes:
        notice: a sentence for the log, that ST-LPIPS is off; empty otherwise.
        lpips: the weight that ST-LPIPS really has.
        trunk: of the discriminator; None without one.
    """

    def __init__(self, weights: BokehDiffLossWeights) -> None:
        super().__init__()
        self.weights, self.notice, self.lpips = weights, "", 0.0
        self.distance: StLpips | None = None
        needed = bool(weights.gan) and weights.trunk == "st_lpips"
        if weights.lpips != 0 or needed:
            loaded = load_st_lpips(weights.lpips_trunk, weights.weights)
            if isinstance(loaded, StLpips):
                self.distance = loaded
                self.lpips = DEFAULT_LPIPS if weights.lpips is None else weights.lpips
            elif needed:
                raise UsageError(f"loss.trunk = st_lpips needs weights (or another trunk, or loss.gan = 0). {loaded}")
            elif weights.lpips is None:
                self.notice = loaded
            else:
                raise UsageError(f"loss.lpips is {weights.lpips} and its weights are missing. {loaded}")
        self.trunk: FeatureTrunk | None = None
        if weights.gan:
            self.trunk = load_trunk(weights.trunk, self.distance, weights.trunk_folder)

    def forward(
        self, made: Tensor, bokeh: Tensor, sharp: Tensor, step: int, discriminator: nn.Module | None = None
    ) -> Judged:
        """In float32.

        Args:
            made, bokeh, sharp: (B, 3, H, W) in [-1, 1].
            step: of the optimisers.
            discriminator: on features of the trunk; asked from gan_step on.
        """
        weights = self.weights
        terms = {"mse": (made - bokeh).square().mean()}
        total = weights.mse * terms["mse"]
        if weights.edge:
            terms["edge"] = edge_loss(made, bokeh, sharp)
            total = total + weights.edge * terms["edge"]
        fake = real = None
        if self.distance is not None:
            ours = self.distance.features(made)
            with torch.no_grad():
                true = self.distance.features(bokeh)
            fake, real = ours[-1], true[-1]
            if self.lpips:
                terms["st_lpips"] = self.distance.between(ours, true).mean()
                total = total + self.lpips * terms["st_lpips"]
        if self.trunk is None or discriminator is None:
            return Judged(terms=terms, total=total)
        if not isinstance(self.trunk, LpipsTrunk):  # the same features otherwise
            fake = self.trunk(made)
            with torch.no_grad():
                real = self.trunk(bokeh)
        assert fake is not None and real is not None
        share = ramp(step, weights.gan_step, weights.gan_ramp) * weights.gan
        if share:
            terms["gan"] = opinion(discriminator(fake), real=True)
            total = total + share * terms["gan"]
        return Judged(terms=terms, total=total, real=real, fake=fake.detach())


def edge_loss(made: Tensor, bokeh: Tensor, sharp: Tensor) -> Tensor:
    """sum over s = 1, 2, 3 of 1/s mean(|grad made - grad bokeh| (1 + max(|grad bokeh|, |grad sharp|))), at 1/s of the size."""
    total = made.new_zeros(())
    for scale in _EDGE_SCALES:
        size = [side // scale for side in made.shape[-2:]]
        small = [functional.interpolate(x, size=size, mode="area") for x in (made, bokeh, sharp)]
        for axis in (-1, -2):
            ours, true, before = (x.diff(dim=axis) for x in small)
            heavier = 1 + torch.maximum(true.abs(), before.abs())
            total = total + ((ours - true).abs() * heavier).mean() / (2 * scale)
    return total
