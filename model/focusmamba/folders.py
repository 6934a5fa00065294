"""FocusMamba and the classical estimates on photographs of others: flags, and figures of what their labels can say."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from model.evaluation import focus_metrics as figures
from model.evaluation.focus_baselines import FocusBaselines
from model.evaluation.focus_folders import Marked, MarkedPhoto, find_masks, find_real_pairs, find_sigmas
from model.evaluation.scores import ClipResult, Tally
from model.focusmamba.measure import NETWORK, FloatMap, sheet_row
from model.focusmamba.network import FocusMamba
from pipeline.arguments import named_values
from pipeline.errors import UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.optics.visible import EXPECTED_SATURATION


def add_folder_flags(parser: ArgumentParser) -> None:
    """The flags that name folders of others; every NAME is a row of the table."""
    for flag, what in (
        ("masks", "photographs with masks whose white is in focus"),
        ("blur_masks", "photographs with masks whose white is out of focus"),
        ("sigma_maps", "photographs with maps of sigma (.npy, or pictures)"),
    ):
        parser.add_argument(f"--{flag}", action="append", default=[], metavar="NAME=IMAGES,LABELS", help=what)
    parser.add_argument("--sigma_unit", type=float, default=1.0, help="sigma in px of one level of a map (default: 1)")
    parser.add_argument("--realbokeh", type=Path, help="RealBokeh's folder; measured where its f/22 tells the radius")
    parser.add_argument(
        "--folder_width", type=int, default=320, help="width that these are measured at, 0 for their own (default: 320)"
    )


def folder_photos(flags: Namespace, split: str) -> Iterator[tuple[str, MarkedPhoto]]:
    """(what goes after the methods' names, a photograph) for all that the flags name.

    Raises:
        UsageError: a flag that cannot be read, or a folder without anything to measure on.
    """
    if not (math.isfinite(flags.sigma_unit) and flags.sigma_unit > 0):
        raise UsageError(f"--sigma_unit must be finite and > 0, got {flags.sigma_unit}")
    if flags.folder_width and flags.folder_width < 32:
        raise UsageError(f"--folder_width must be 0 or at least 32, got {flags.folder_width}")
    for flag in ("masks", "blur_masks", "sigma_maps"):
        for name, text in named_values(getattr(flags, flag), f"--{flag}").items():
            images, comma, labels = text.partition(",")
            if not (images and comma and labels):
                raise UsageError(f"--{flag} takes NAME=IMAGES,LABELS, two folders, got {name}={text}")
            folders = Path(images), Path(labels)
            found = (
                find_sigmas(*folders, flags.sigma_unit)
                if flag == "sigma_maps"
                else find_masks(*folders, white_is_sharp=flag == "masks")
            )
            for photo in found:
                yield f", {name}", photo
    if flags.realbokeh is not None:
        for photo in find_real_pairs(flags.realbokeh, split):
            yield ", RealBokeh", photo


@torch.inference_mode()
def measure_photo(
    net: FocusMamba, photo: MarkedPhoto, suffix: str, width: int, baselines: FocusBaselines, device: str
) -> ClipResult:
    """One photograph: the network and the classical methods, where the label says something.

    Raises:
        InputError: a file cannot be used; the message names it.
    """
    marked = photo.read(width)
    shown = image_to_tensor(marked.photo, device)
    out, _ = net(shown[None])
    radius = out.magnitude_px[0, 0].float().cpu().numpy()
    tallies = {NETWORK: _tally(marked, radius, -radius)}
    for name, answer in baselines.answers(np.ascontiguousarray(marked.photo.astype(np.float32) / 255)).items():
        tallies[name] = _tally(marked, answer.radius_px, answer.sharpness)
    limit = EXPECTED_SATURATION * radius.shape[1]
    images = sheet_row(shown.cpu(), radius, marked.radius_px, limit)
    named = {name + suffix: tally for name, tally in tallies.items()}
    return ClipResult(name=photo.name + suffix, num_frames=1, tallies=named, images=images)


def _tally(marked: Marked, radius: FloatMap, sharpness: FloatMap) -> Tally:
    """What a label can say: of a mask how well "in focus" is found, of radii their errors as well."""
    tally = Tally()
    known = marked.known
    if not known.any():
        return tally
    found, truth = radius[known][None], marked.radius_px[known][None]
    values = figures.focus_figures(found, truth)
    values["auroc"] = figures.auroc(sharpness[known], truth[0] <= figures.IN_FOCUS_PX)
    if marked.graded:
        graded = figures.radius_figures(found, truth, EXPECTED_SATURATION * radius.shape[1])
        graded["rmse_px"] = graded.pop("mse_px2") ** 0.5
        values |= graded
    for name, value in values.items():
        tally.add(name, value)
    return tally
