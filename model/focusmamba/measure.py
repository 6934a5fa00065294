"""Measure a FocusMamba and the classical estimates on clips, frame by frame with the carried state, all in one run."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.errors import TrainingDivergedError
from model.evaluation import focus_metrics as figures
from model.evaluation.eval_clips import EvalClip, EvalFrame
from model.evaluation.focus_baselines import FocusBaselines
from model.evaluation.scores import ClipResult, Tally
from model.focusmamba.data import SUPERVISED_RADIUS_PX, map_radius
from model.focusmamba.network import FocusMamba, FocusOutput
from pipeline.errors import InputError
from pipeline.media.convert import tensor_to_image
from pipeline.media.images import Picture
from pipeline.optics.labels import signed_label_px
from pipeline.seeds import stable_seed

NETWORK = "focusmamba"
STATELESS = "focusmamba, frame by frame"  # every frame as if it were the first
SHEET_COLUMNS = ("photograph", "predicted radius", "label", "error")
FOCUS_STEPS = 96  # of inverse depth, where the focus distance is looked for

FloatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Under which circumstances a clip is measured.

    Args:
        noise: standard deviation of Gaussian noise on the photograph, sRGB.
        suffix: after the methods' names in the table.
    """

    noise: float = 0.0
    suffix: str = ""


def with_noise(photo: Tensor, sigma: float, *name: str | int) -> Tensor:
    """(3, H, W) sRGB with Gaussian noise of standard deviation sigma, in 8-bit steps; the same for the same name."""
    if not sigma:
        return photo
    rng = np.random.Generator(np.random.PCG64(stable_seed("noise", *name)))
    draws = torch.from_numpy(rng.standard_normal(tuple(photo.shape), dtype=np.float32))
    return ((photo + sigma * draws).clamp(0, 1) * 255).round() / 255


def truth_of(clip: EvalClip, sample: EvalFrame) -> FloatMap:
    """(H, W) the signed label; InputError where a clip has no depth."""
    if sample.depth_m is None:
        raise InputError(f"{clip.name} has no depth, and so no radius to compare with")
    limit = SUPERVISED_RADIUS_PX if clip.max_radius_px is None else clip.max_radius_px
    return signed_label_px(sample.depth_m, sample.lens, clip.px_per_mm, limit)[0].numpy()


@torch.no_grad()
def measure_clip(
    net: FocusMamba,
    clip: EvalClip,
    condition: Condition,
    *,
    device: torch.device | str,
    autocast: bool = False,
    baselines: FocusBaselines | None = None,
    stateless: bool = False,
    max_frames: int = 0,
    safe_point: Callable[[], None] = lambda: None,
) -> ClipResult:
    """Run one clip.

    Args:
        net: in evaluation mode, on the device.
        clip: what to run on; it must have depth.
        condition: noise, and what the rows are called.
        device: where.
        autocast: bf16 autocast.
        baselines: classical methods to measure beside it.
        stateless: measure the network also without the state of the frame before, at twice its cost.
        max_frames: 0 for all.
        safe_point: called between frames.

    Raises:
        InputError: the clip has no depth.
        TrainingDivergedError: the network's values are not numbers; the message names clip and frame.
    """
    tallies: dict[str, Tally] = {}
    before: dict[str, FloatMap] = {}
    state, images = None, []
    total = min(max_frames, clip.num_frames) if max_frames else clip.num_frames
    for number, sample in enumerate(clip.frames(max_frames)):
        safe_point()
        signed = truth_of(clip, sample)
        photo = with_noise(sample.bokeh, condition.noise, clip.name, number)
        shown = photo[None].to(device)
        outs: dict[str, FocusOutput] = {}
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            outs[NETWORK], state = net(shown, state)
            if stateless:
                outs[STATELESS], _ = net(shown)
        places = _places(sample)
        limit = map_radius(clip, signed.shape[1])
        radii: dict[str, FloatMap] = {}
        for name, out in outs.items():
            if not bool(torch.isfinite(out.log_magnitude).all()):
                raise TrainingDivergedError(f"{clip.name}, frame {number}: the network's map holds NaN or Inf")
            radii[name] = out.magnitude_px[0, 0].float().cpu().numpy()
            tally = tallies.setdefault(name, Tally())
            _score(tally, radii[name], -radii[name], signed, limit, places)
            _score_network(tally, out, radii[name], signed, sample, clip)
        for name, answer in ({} if baselines is None else baselines.answers(_picture(photo))).items():
            radii[name] = answer.radius_px
            _score(tallies.setdefault(name, Tally()), answer.radius_px, answer.sharpness, signed, limit, places)
        for name, radius in radii.items():
            if before:
                change = (radius - before[name]) - (np.abs(signed) - before["truth"])
                tallies[name].add("temporal_px", float(np.abs(change).mean()))
        before = {**radii, "truth": np.abs(signed)}
        if number == total // 2:
            images = sheet_row(photo, radii[NETWORK], signed, limit)
    named = {name + condition.suffix: tally for name, tally in tallies.items()}
    return ClipResult(name=clip.name + condition.suffix, num_frames=total, tallies=named, images=images)


def _picture(photo: Tensor) -> FloatMap:
    return np.ascontiguousarray(photo.permute(1, 2, 0).numpy())


def _places(sample: EvalFrame) -> dict[str, npt.NDArray[np.bool_]]:
    assert sample.depth_m is not None, "the label was made of it"
    return {
        "edges": figures.occlusion_band(sample.depth_m[0].numpy()),
        "flat": figures.textureless(_picture(sample.frame)),
    }


def _score(
    tally: Tally,
    radius: FloatMap,
    sharpness: FloatMap,
    signed: FloatMap,
    limit: float,
    places: dict[str, npt.NDArray[np.bool_]],
) -> None:
    truth = np.abs(signed)
    found = figures.radius_figures(radius, truth, limit)
    found["rmse_px"] = found.pop("mse_px2") ** 0.5
    found |= figures.focus_figures(radius, truth)
    found["auroc"] = figures.auroc(sharpness, truth <= figures.IN_FOCUS_PX)
    for where, mask in places.items():
        if not mask.any():
            continue
        inside = {
            "mae_px": float(np.abs(radius[mask] - truth[mask]).mean()),
            "auroc": figures.auroc(sharpness[mask], truth[mask] <= figures.IN_FOCUS_PX),
        }
        found |= figures.within(inside, where)
    for name, value in found.items():
        tally.add(name, value)


def _score_network(
    tally: Tally, out: FocusOutput, radius: FloatMap, signed: FloatMap, sample: EvalFrame, clip: EvalClip
) -> None:
    """What only the network says: the side, how sure it is, and where the lens was focused."""
    tally.add("side_auroc", figures.side_auroc(out.behind[0, 0].float().cpu().numpy(), signed))
    sigma = torch.exp(0.5 * out.log_variance[0, 0].float()).cpu().numpy()
    tally.add("calibration", figures.calibration_error(radius - np.abs(signed), sigma))
    assert sample.depth_m is not None, "the label was made of it"
    found_m = focus_distance_m(radius, sample.depth_m[0].numpy())
    tally.add("focus_error_dpt", abs(1 / found_m - 1 / sample.lens.focus_m))


def focus_distance_m(radius_px: FloatMap, depth_m: FloatMap) -> float:
    """The focus distance that fits radii best at a known depth: radius = K |1/d - 1/S|, with K free, in least squares."""
    inverse = (1 / depth_m.astype(np.float64)).ravel()
    radius = radius_px.astype(np.float64).ravel()
    best, least = 1.0, np.inf
    low, high = (float(end) for end in np.percentile(inverse, (1, 99)))
    for candidate in np.linspace(low, high, FOCUS_STEPS):
        spread = np.abs(inverse - candidate)
        gain = float(radius @ spread) / max(float(spread @ spread), 1e-12)
        error = float(((radius - gain * spread) ** 2).sum())
        if error < least:
            best, least = float(candidate), error
    return 1 / max(best, 1e-4)


def colour_radius(radius_px: FloatMap, limit_px: float) -> Picture:
    """(H, W) radii -> colours: bright is sharp, dark is blurred by limit_px or more."""
    lookup = np.asarray(matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3], np.uint8)
    share = 1 - np.clip(radius_px / limit_px, 0, 1)
    return lookup[np.rint(share * 255).astype(np.uint8)]


def colour_error(error_px: FloatMap, limit_px: float) -> Picture:
    """(H, W) predicted minus true radius -> red where too much blur is seen, blue where too little, white where right."""
    lookup = np.asarray(matplotlib.colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3], np.uint8)
    share = 0.5 + 0.5 * np.clip(error_px / limit_px, -1, 1)
    return lookup[np.rint(share * 255).astype(np.uint8)]


def sheet_row(photo: Tensor, radius_px: FloatMap, signed_px: FloatMap, limit_px: float) -> list[Picture]:
    """One row of a sheet, under SHEET_COLUMNS; the error's colours end at half the limit."""
    truth = np.abs(signed_px)
    return [
        tensor_to_image(photo),
        colour_radius(radius_px, limit_px),
        colour_radius(truth, limit_px),
        colour_error(radius_px - truth, limit_px / 2),
    ]
