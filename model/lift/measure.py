"""Run a network on targets, and a validation's figures."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.errors import TrainingDivergedError
from model.evaluation import metrics
from model.evaluation.visualize import sheet_png
from model.lift.network import LiftNet, LiftOutput
from model.lift.pictures import SHEET_COLUMNS, sheet_row
from model.lift.samples import LiftSample
from model.lift.targets import Target
from model.training.task import Score, Validation
from pipeline.measures import psnr_of_mse

_CAP_DB = 100.0  # of equal pictures, where a mean is taken
_SHEET_ROWS = 4


@torch.no_grad()
def run_target(net: LiftNet, sample: LiftSample, device: torch.device | str, autocast: bool = False) -> LiftOutput:
    """One target through the network; TrainingDivergedError when its picture is not a number."""
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
        out: LiftOutput = net(
            sample.frames[None].to(device),
            sample.offsets[None].to(device),
            sample.present[None].to(device),
            torch.tensor([sample.t], device=device),
        )
    if not bool(torch.isfinite(out.image).all()):
        raise TrainingDivergedError(f"{sample.name}: the network's picture holds NaN or Inf")
    return out


def rounded(image: Tensor) -> Tensor:
    """As it would be saved: to 8 bits."""
    return (image.float().clamp(0, 1) * 255).round() / 255


def psnr_db(image: Tensor, truth: Tensor) -> float:
    return min(_CAP_DB, psnr_of_mse(float(metrics.mse(image, truth))))


def neighbours_of(sample: LiftSample) -> tuple[Tensor, Tensor]:
    """(3, H, W) of the two frames next to the target."""
    offsets = sample.offsets.tolist()
    before = max((o, n) for n, o in enumerate(offsets) if o < 0)[1]
    after = min((o, n) for n, o in enumerate(offsets) if o > 0)[1]
    return sample.frames[before], sample.frames[after]


def validate_targets(
    net: LiftNet, targets: Sequence[Target], device: torch.device, autocast: bool, score: Score
) -> Validation:
    """PSNR, and the mean of the neighbours beside it."""
    ours, plain, rows = [], [], []
    for number, target in enumerate(targets):
        sample = target.load()
        out = run_target(net, sample, device, autocast)
        truth = sample.target[None]
        ours.append(psnr_db(rounded(out.image.cpu()), truth))
        first, second = neighbours_of(sample)
        plain.append(psnr_db(rounded((first + second)[None] / 2), truth))
        if number % max(1, len(targets) // _SHEET_ROWS) == 0:
            rows.append((sample.name, sheet_row(sample, out)))
    found, mean = sum(ours) / len(ours), sum(plain) / len(plain)
    return Validation(
        score=found,
        values={"psnr_db": found, "psnr_mean_of_neighbours_db": mean},
        summary=f"{score.text(found)} (mean of neighbours {mean:.2f} dB)",
        sheet=sheet_png(rows, SHEET_COLUMNS),
    )
