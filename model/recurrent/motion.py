"""What changed since the last frame, at a size that does not grow with the frame's.

Shape letters: B = samples; C = channels; H, W = image.
"""

import torch
from torch import Tensor, nn

from model.recurrent.config import StreamConfig

FRAME_SAMPLES = 128  # per side: of the last frame, what motion is seen against
CHANGE_GAIN = 4.0  # consecutive frames differ by little; this brings the difference to the size of the frame


class MotionCue(nn.Module):
    """What changed since the last frame, as features for a stream of tokens.

    The scans' states are a summary of the last frame and cannot say what moved. Here the frame is held against the last one,
    both shrunk to the same small size, so that what is carried stays constant. The first frame of a video is held against
    itself. Adds nothing at the start of training.

    Args:
        config: widths.
        extra: planes that are seen beside the change.
    """

    def __init__(self, config: StreamConfig, extra: int = 0) -> None:
        super().__init__()
        width = config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(6 + extra, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.last = nn.Linear(width, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, samples: Tensor, before: Tensor, height: int, width: int, extra: Tensor | None = None) -> Tensor:
        """What to add to the tokens.

        Args:
            samples, before: (B, 3, 128, 128) of this frame and of the last one, see `sample_frame`.
            height, width: of the tokens.
            extra: (B, extra, 128, 128), or None where there is none.

        Returns:
            (B, height, width, C).
        """
        planes = [2 * samples - 1, CHANGE_GAIN * (samples - before.to(samples))]
        change = torch.cat(planes if extra is None else [*planes, extra.to(samples)], dim=1)
        features = self.layers(change.to(self.last.weight.dtype))
        spread = nn.functional.interpolate(features, size=(height, width), mode="bilinear", align_corners=False)
        tokens: Tensor = self.last(spread.permute(0, 2, 3, 1))
        return tokens


def sample_frame(frame: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 128, 128) means, so that motion by a fraction of a sample shows."""
    return nn.functional.adaptive_avg_pool2d(frame, (FRAME_SAMPLES, FRAME_SAMPLES))
