"""The training loss: L1 and perceptual as published; ST-LPIPS, census, smoothness, warp, end-point error, visibility by choice.

A term that cannot be computed for a batch (no exact flow, no VGG weights) is absent rather than zero.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model.evaluation.perceptual import CACHED_NAME, VggFeatures, find_weights, load_vgg
from model.evaluation.st_lpips import TRUNKS, StLpips, load_st_lpips
from model.lift.blocks import lengths, shrink
from model.lift.network import LiftOutput, pad
from model.lift.samples import LiftBatch
from pipeline.errors import UsageError

DEFAULT_PERCEPTUAL = 0.1
_CENSUS_PX = 7


@dataclass(frozen=True, kw_only=True)
class LiftLossWeights:
    """The factor of each term, >= 0; 0 turns it off.

    Args:
        l1: of the picture. mse: squared error of it, which PSNR measures.
        perceptual: L1 of VGG-16 features. None means 0.1 where weights are found and off otherwise; a number > 0 insists.
        st_lpips: ST-LPIPS, whose weights a package carries (`python -m pipeline weights st_lpips --download`); a number > 0
            insists on them.
        st_lpips_trunk: "alex" or "vgg".
        census: soft Hamming distance of 7x7 census signatures (Meister et al. 2018).
        smoothness: of both flows at 1/4, weaker across edges of the target.
        warp: L1 of the two warped neighbours at 1/4 size against the truth at that size.
        coarse: L1 of the coarse picture against the same.
        epe: end-point error of the flows at 1/4 and 1/8, in pixels of their grid, where flow is exact.
        occlusion: cross-entropy of the visibilities, where flow is exact.
        perceptual_weights: file with VGG-16's weights; empty looks into PyTorch's cache.
        st_lpips_weights: folder to look for its weights in; empty for the environment's or the current one.
    """

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float | None = None
    st_lpips: float = 0.0
    st_lpips_trunk: str = "alex"
    census: float = 0.0
    smoothness: float = 0.0
    warp: float = 0.0
    coarse: float = 0.0
    epe: float = 0.0
    occlusion: float = 0.0
    perceptual_weights: str = ""
    st_lpips_weights: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"loss.{item.name} must be finite and >= 0, got {value}")
        if not self.l1:
            raise UsageError("loss.l1 must be > 0: it asks for the picture")
        if self.st_lpips_trunk not in TRUNKS:
            raise UsageError(f"loss.st_lpips_trunk must be one of {', '.join(TRUNKS)}, got {self.st_lpips_trunk!r}")


class LiftLoss(nn.Module):
    """The terms of a micro-batch and their weighted sum.

    Raises:
        UsageError: a perceptual term was asked for and there are no weights.

    `notice` says once, for the log, that the perceptual term is off; it is empty otherwise.
    """

    vgg: VggFeatures | None

    def __init__(self, weights: LiftLossWeights) -> None:
        super().__init__()
        self.weights = weights
        self.vgg, self.notice = None, ""
        path = find_weights(Path(weights.perceptual_weights) if weights.perceptual_weights else None)
        wanted = weights.perceptual
        if wanted != 0 and path is not None:
            self.vgg = load_vgg(path)
        elif wanted is None:
            self.notice = (
                f"the perceptual term is off: there is no {CACHED_NAME} in PyTorch's cache; --perceptual_weights FILE"
            )
        elif wanted:
            raise UsageError(
                f"loss.perceptual is {wanted} and there are no VGG-16 weights: give --perceptual_weights FILE, or set it to 0"
            )
        self._perceptual = DEFAULT_PERCEPTUAL if wanted is None else wanted
        self.distance: StLpips | None = None
        if weights.st_lpips:
            loaded = load_st_lpips(weights.st_lpips_trunk, weights.st_lpips_weights)
            if isinstance(loaded, str):
                raise UsageError(f"loss.st_lpips is {weights.st_lpips} and its weights are missing. {loaded}")
            self.distance = loaded

    @property
    def perceptual(self) -> float:
        """The weight that the perceptual term really has; 0 without weights to compute it with."""
        return 0.0 if self.vgg is None else self._perceptual

    def forward(self, out: LiftOutput, batch: LiftBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Terms by name, before weighting, and the total; in float32."""
        with torch.autocast(batch.target.device.type, enabled=False):
            terms = self._terms(out, batch)
            factors = {name: self.perceptual if name == "perceptual" else getattr(self.weights, name) for name in terms}
            return terms, torch.stack([factors[name] * value for name, value in terms.items()]).sum()

    def _terms(self, out: LiftOutput, batch: LiftBatch) -> dict[str, Tensor]:
        weights, image = self.weights, out.raw.float()
        terms = {"l1": (image - batch.target).abs().mean()}
        if weights.mse:
            terms["mse"] = (image - batch.target).square().mean()
        small = shrink(pad(batch.target), 4)
        if self.vgg is not None:
            pairs = zip(self.vgg(image), self.vgg(batch.target), strict=True)
            terms["perceptual"] = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
        if self.distance is not None:  # takes [-1, 1]
            terms["st_lpips"] = self.distance(image * 2 - 1, batch.target * 2 - 1).mean()
        if weights.census:
            terms["census"] = census(image, batch.target)
        if weights.coarse:
            terms["coarse"] = (out.coarse - small).abs().mean()
        if weights.warp:
            terms["warp"] = torch.stack([(warped - small).abs().mean() for warped in out.warped_s4]).mean()
        if weights.smoothness:
            terms["smoothness"] = smoothness(out.flows_s4, small)
        if bool(batch.known.any()):
            if weights.epe:
                terms["epe"] = end_point(out.flows_s4, batch, 4) + end_point(out.flows_s8, batch, 8)
            if weights.occlusion:
                truth = sampled(pad(batch.visible), 4)[batch.known]
                logits = out.occlusion_logits_s4.float()[batch.known]
                terms["occlusion"] = functional.binary_cross_entropy_with_logits(logits, truth)
        return terms


def sampled(field: Tensor, stride: int) -> Tensor:
    """The values in the middle of every cell: an average across an edge of motion is nobody's motion."""
    return field[..., stride // 2 :: stride, stride // 2 :: stride]


def end_point(flows: Tensor, batch: LiftBatch, stride: int) -> Tensor:
    """Mean end-point error of both flows over samples with exact flow, in pixels at 1/stride of the size."""
    truth = sampled(pad(batch.flow), stride)[batch.known] / stride
    return lengths(flows.float()[batch.known] - truth).mean()


def census(first: Tensor, second: Tensor) -> Tensor:
    """Soft Hamming distance of census signatures of the grey pictures (Meister et al. 2018)."""
    distance = (_signature(first) - _signature(second)).square()
    return (distance / (0.1 + distance)).mean()


def _signature(images: Tensor) -> Tensor:
    grey = images.mean(1, keepdim=True) * 255
    around = functional.unfold(functional.pad(grey, [_CENSUS_PX // 2] * 4, mode="replicate"), _CENSUS_PX)
    change = around.view(len(grey), -1, *grey.shape[-2:]) - grey
    return change / (0.81 + change.square()).sqrt()


def smoothness(flows: Tensor, guide: Tensor) -> Tensor:
    """Mean absolute gradient of the flows, weighed down where the guide (B, 3, h, w) has an edge."""
    total = flows.new_zeros(())
    for axis in (-1, -2):
        edge = torch.exp(-10 * guide.diff(dim=axis).abs().mean(1, keepdim=True))
        total = total + (flows.diff(dim=axis).abs() * edge).mean()
    return total
