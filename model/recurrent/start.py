"""What a block's scans begin a frame with: a learned mixture of the last frame's states and of a learned start.

Shape letters: B = samples; C = channels; H = heads; Dk, Dv = key and value size.
"""

import torch
from torch import Tensor, nn

from model.recurrent.config import DIRECTIONS, StreamConfig

KEEP_LOGIT = 2.0  # tau starts near 0.88: at 0.5 half of what is carried would be lost at every frame


class TemporalStart(nn.Module):
    """The state that a block's four scans start a frame from.

    First frame: S_init. Later: tau S_prev + (1 - tau) S_init, tau = sigmoid(MLP([pool x_t; pool x_{t-1}])) per direction.
    """

    def __init__(self, config: StreamConfig) -> None:
        super().__init__()
        self.enabled = config.enable_tsp
        self.max_norm = config.max_state_norm
        self.initial = nn.Parameter(0.02 * torch.randn(DIRECTIONS, config.heads, config.head_dim, config.head_dim))
        if config.enable_tsp:
            last = nn.Linear(config.channels // 2, DIRECTIONS)
            nn.init.constant_(last.bias, KEEP_LOGIT)
            self.keep = nn.Sequential(nn.Linear(2 * config.channels, config.channels // 2), nn.GELU(), last)

    def forward(self, pooled: Tensor, previous: tuple[Tensor, Tensor] | None) -> Tensor:
        """The start of a frame.

        Args:
            pooled: (B, C) mean of the block's input.
            previous: the last frame's states (B, 4, H, Dv, Dk) and `pooled`, or None.

        Returns:
            (B, 4, H, Dv, Dk) in float32 or wider.
        """
        wide = self.initial if self.initial.dtype == torch.float64 else self.initial.float()
        start = wide.expand(len(pooled), -1, -1, -1, -1)
        if previous is None or not self.enabled:
            return start
        states, pooled_before = previous
        keep = torch.sigmoid(self.keep(torch.cat([pooled, pooled_before.to(pooled)], dim=-1)))
        return torch.lerp(start, bound_norm(states.to(start), self.max_norm), keep.to(start)[:, :, None, None, None])


def bound_norm(states: Tensor, max_norm: float) -> Tensor:
    """Scale each head's state down to a Frobenius norm; smaller ones stay as they are, bit for bit.

    Once a frame and not in the scan, where it would break the chunk form. Dividing by a norm that is itself bounded from
    below would make small states larger; this never does.
    """
    norm = (states.square().sum((-2, -1), keepdim=True) + 1e-12).sqrt()  # a root at 0 has no gradient
    return states * (max_norm / norm.clamp(min=max_norm))
