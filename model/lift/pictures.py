"""What people look at: flow as a colour wheel, weights of the frames as bars, and a row of a sheet."""

import cv2
import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from model.lift.blocks import enlarge, lengths
from model.lift.network import LiftOutput
from model.lift.samples import LiftSample
from pipeline.media.convert import tensor_to_image
from pipeline.media.images import Picture

SHEET_COLUMNS = ("blend", "coarse", "final", "truth", "flow before", "flow after", "visible before | after", "weights")


def colour_wheel(flow: Tensor, longest_px: float = 0.0) -> Picture:
    """(2, H, W) pixels -> hue for direction, saturation for length; white stands still.

    Args:
        flow: x right, y down.
        longest_px: the length of full saturation; 0 takes this flow's own 99th percentile.
    """
    x, y = flow.detach().float().cpu().numpy()
    length = np.hypot(x, y)
    top = longest_px or max(1e-3, float(np.percentile(length, 99)))
    hue = (np.arctan2(y, x) / (2 * np.pi) % 1.0) * 180
    hsv = np.stack([hue, np.clip(length / top, 0, 1) * 255, np.full_like(hue, 255)], -1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def weight_bars(alpha: Tensor, offsets: Tensor, size: tuple[int, int]) -> Picture:
    """(N,) weights as bars in the order of time; the neighbours are darker."""
    width, height = size
    canvas = np.full((height, width, 3), 245, np.uint8)
    order = offsets.argsort().tolist()
    values, times = alpha.detach().float().cpu().tolist(), offsets.tolist()
    top = max(1e-6, max(values))
    step = width / max(1, len(order))
    before = max((t for t in times if t < 0), default=None)
    after = min((t for t in times if t > 0), default=None)
    for place, index in enumerate(order):
        colour = (30, 90, 160) if times[index] in (before, after) else (130, 175, 220)
        bar = round(values[index] / top * (height - 6))
        corners = (round(place * step) + 1, height - bar), (max(round((place + 1) * step) - 1, 1), height)
        cv2.rectangle(canvas, corners[0], corners[1], colour, -1)
    return canvas


def sheet_row(sample: LiftSample, out: LiftOutput) -> list[Picture]:
    """Under SHEET_COLUMNS, of the first sample of an output."""
    height, width = out.height, out.width

    def full(x: Tensor) -> Tensor:
        return enlarge(x[:1].float().cpu(), 4)[0, :, :height, :width]

    flows = out.flows_s4[:1].float().cpu() * 4
    longest = max(1e-3, float(lengths(flows).quantile(0.99)))
    wheel = [
        colour_wheel(
            functional.interpolate(flows[:, pair], scale_factor=4.0, mode="nearest")[0, :, :height, :width], longest
        )
        for pair in (slice(0, 2), slice(2, 4))
    ]
    visible = full(out.occlusion_s4)
    both = np.concatenate([tensor_to_image(v.expand(3, -1, -1)) for v in visible[:, None]], 1)
    both = np.asarray(cv2.resize(both, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bars = weight_bars(out.alpha[0].float().mean((-1, -2)), sample.offsets, (width, height))
    return [
        tensor_to_image(full(out.blend)), tensor_to_image(full(out.coarse)), tensor_to_image(out.image[0].cpu()),
        tensor_to_image(sample.target), *wheel, both, bars,
    ]  # fmt: skip
