"""A running mean of the map along the motion, which steadies a film. Nothing is learned, and the state stays constant in size.

Special: a Kalman filter of log(1 + radius) for every place of a 128x128 grid, with the network's own variance as the noise of a
measurement. The correction is made on the grid and added to the full map, so edges are the present frame's. Where the picture
no longer fits the last one, the past is dropped; where all of the map drifts one way, as when the focus is pulled, it follows.

Shape letters: B = samples; G = grid, FRAME_SAMPLES; H, W = image.
"""

import torch
from torch import Tensor, nn

from model.focusmamba.bank import blur
from model.focusmamba.motion import misfit, way_back
from model.recurrent.motion import sample_frame
from pipeline.media.warping import backward_warp

# Chosen on validation clips, see docs/focusmamba.md.
LARGEST_SHARE = 0.85  # of the past in the mean, so that no error is kept for ever
USUAL_MISFIT = 1.5  # times the picture's median: up to here it is noise
MISFITS = (1 / 255, 8 / 255)  # between which that median is believed: where nothing fits, nothing is kept
DRIFT = 0.07  # mean change of the map, log radius, from which on it is taken for the lens's and not for flicker
DRIFT_SIGMA = 16.0  # places over which such a change is smooth
SURPRISE = 0.3  # log radius, smoothed over SURPRISE_SIGMA places: that much is no flicker
SURPRISE_SIGMA = 4.0


def own_variance(log_magnitude: Tensor, log_variance: Tensor) -> Tensor:
    """log px^2 of the radius -> variance of log(1 + radius), to first order; the same shape."""
    return torch.exp(log_variance - 2 * log_magnitude)


def steadied(
    log_magnitude: Tensor, log_variance: Tensor, samples: Tensor, before: Tensor, remembered: Tensor
) -> tuple[Tensor, Tensor]:
    """This frame's map joined with the past.

    Args:
        log_magnitude, log_variance: (B, 1, H, W) of this frame alone.
        samples, before: (B, 3, G, G) sRGB of this frame and of the last one.
        remembered: (B, 2, G, G) the last joined map, log(1 + radius), and its variance.

    Returns:
        (B, 1, H, W) the joined map, log(1 + radius) >= 0, and (B, 1, G, G) its variance.
    """
    flow = way_back(samples, before)
    past, spread = backward_warp(remembered.to(samples), flow).chunk(2, dim=1)
    doubt = misfit(samples, backward_warp(before.to(samples), flow))
    usual = doubt.flatten(1).median(1).values.clamp(*MISFITS).view(-1, 1, 1, 1)
    fits = torch.exp(-(doubt / usual - USUAL_MISFIT).clamp(min=0).square())
    now, noise = sample_frame(log_magnitude), sample_frame(own_variance(log_magnitude, log_variance))
    drift = blur(fits * (now - past), DRIFT_SIGMA) / (blur(fits, DRIFT_SIGMA) + 1e-3)
    size = drift.abs().mean((1, 2, 3), keepdim=True)
    past = past + (1 - torch.exp(-(size / DRIFT).square())) * drift
    surprise = blur(now - past, SURPRISE_SIGMA)
    fits = fits * torch.exp(-(surprise / SURPRISE).square())
    share = fits * (noise / (spread + noise)).clamp(max=LARGEST_SHARE)
    change = nn.functional.interpolate(
        share * (past - now), size=log_magnitude.shape[-2:], mode="bilinear", align_corners=False
    )
    return (log_magnitude + change).clamp(min=0), (1 - share) * noise
