"""Pictures through a trained BokehDiff by the engine's own code, tiles and all, and how close they come to the photographs."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from model.bokehdiff.network import BokehDiffNet
from model.bokehdiff.samples import PairSample
from model.errors import TrainingDivergedError
from model.evaluation.scores import ClipResult, Tally
from model.training.task import Score, Validation
from pipeline.engines.bokehdiff.network import SdxlNetwork
from pipeline.engines.bokehdiff.options import BokehDiffOptions
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.media.images import Picture

NETWORK, UNCHANGED = "bokehdiff", "unchanged frame"
SHEET_COLUMNS = ("sharp", "disparity", "bokeh", "truth")


def artist(net: BokehDiffNet, contrast: float, device: torch.device | str) -> SdxlNetwork:
    """What draws pictures of any size.

    Args:
        net: on the device, in evaluation mode.
        contrast: PISA's hardness.
        device: where.
    """
    return SdxlNetwork(lambda: net.parts(contrast), BokehDiffOptions(dtype="fp32"), str(device))


def measure(
    net: BokehDiffNet,
    name: str,
    samples: Iterable[PairSample],
    *,
    contrast: float,
    device: torch.device | str,
    safe_point: Callable[[], None] = lambda: None,
) -> ClipResult:
    """The network and the unchanged pictures against the photographs; the first pair is shown.

    Raises:
        TrainingDivergedError: the network's weights are not numbers.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in net.parameters()):
        raise TrainingDivergedError(f"{name}: a weight is not a number")
    drawing, tallies = artist(net, contrast, device), {NETWORK: Tally(), UNCHANGED: Tally()}
    images: list[Picture] = []
    count = 0
    for sample in samples:
        sharp = tensor_to_image(sample.sharp)
        made = drawing.render(sharp, sample.defocus(), safe_point)
        truth = sample.bokeh[None]
        tallies[NETWORK].add_image(image_to_tensor(made)[None], truth)
        tallies[UNCHANGED].add_image(image_to_tensor(sharp)[None], truth)
        if not images:
            grey = (sample.disparity.numpy() * 255).round().astype(np.uint8)
            images = [sharp, np.repeat(grey[..., None], 3, axis=2), made, tensor_to_image(sample.bokeh)]
        count += 1
    return ClipResult(name=name, num_frames=count, tallies=tallies, images=images)


def validate(
    net: BokehDiffNet, found: dict[str, list[PairSample]], score: Score, contrast: float, device: torch.device
) -> Validation:
    """PSNR, the mean over pictures of the means over sources, and by how much it beats the unchanged picture."""
    from model.evaluation.visualize import sheet_png

    results = [measure(net, name, some, contrast=contrast, device=device) for name, some in found.items()]
    values: dict[str, float | None] = {}
    for result in results:
        for method, key in ((NETWORK, ""), (UNCHANGED, "unchanged_")):
            values[f"{key}{result.name}_psnr_db"] = result.tallies[method].mean("psnr_frame_db")
            values[f"{key}{result.name}_ssim"] = result.tallies[method].mean("ssim")
    means = [values[f"{result.name}_psnr_db"] or 0.0 for result in results]
    total = sum(means) / len(means)
    parts = [
        f"{result.name} {values[f'{result.name}_psnr_db']:.2f} dB (unchanged {values[f'unchanged_{result.name}_psnr_db']:.2f})"
        for result in results
    ]
    sheet = sheet_png([(result.name, result.images) for result in results], SHEET_COLUMNS)
    return Validation(
        score=total,
        values={score.name: total, **values},
        summary=f"{score.text(total)}: {', '.join(parts)}",
        sheet=sheet,
    )
