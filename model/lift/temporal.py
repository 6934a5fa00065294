"""The temporal transformer: tokens look along time at their own place, then around themselves in space.

B samples, N frames, P = h x w patches, D channels.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.lift.config import NORM_GROUPS, PATCH, LiftConfig


class Layer(nn.Module):
    """Pre-norm self-attention over the frames of a patch, a depthwise-separable 3x3 in space, and a feed-forward part."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm_time, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.space = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.Conv2d(dim, dim, 1), nn.GroupNorm(NORM_GROUPS, dim)
        )
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor, allowed: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, P, D) -> the same; `allowed` (B, N, N) says which frame (row) may look at which."""
        b, n, p, d = x.shape
        rows = self.norm_time(x).transpose(1, 2).reshape(b * p, n, d)  # a patch's frames are a sequence
        q, k, v = self.qkv(rows).view(b * p, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask = allowed.repeat_interleave(p, 0)[:, None]
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(b, p, n, d)).transpose(1, 2)
        picture = x.reshape(b * n, *grid, d).permute(0, 3, 1, 2)
        x = x + self.space(picture).permute(0, 2, 3, 1).reshape(b, n, p, d)
        out: Tensor = x + self.ffn(self.norm_ffn(x))
        return out


class TemporalTransformer(nn.Module):
    """s16 of all frames -> F_ctx, one feature for the target, and the weights it was made with.

    Attributes:
        checkpointing: compute layers again in the backward pass instead of keeping what they hold.
    """

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embed = nn.Linear(PATCH * PATCH * config.c16, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.weigh = nn.Sequential(nn.Linear(config.dim, config.dim // 4), nn.GELU(), nn.Linear(config.dim // 4, 1))
        self.unpatch = nn.Linear(config.dim, PATCH * PATCH * config.c16)

    def forward(self, s16: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Frames in order of time.

        Args:
            s16: (B, N, C, H/16, W/16) with the position code added.
            present: (B, N) bool; what absent frames hold changes nothing.

        Returns:
            F_ctx (B, C, H/16, W/16), and alpha (B, N, H/32, W/32), summing to 1 over the frames, 0 for absent ones.
        """
        b, n, _, height, width = s16.shape
        grid = (height // PATCH, width // PATCH)
        patches = functional.pixel_unshuffle(s16.flatten(0, 1), PATCH)
        x = self.embed(patches.flatten(2).transpose(1, 2)).view(b, n, grid[0] * grid[1], -1)
        x = torch.where(present[:, :, None, None], x, 0)
        allowed = self._allowed(present)
        for layer in self.layers:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, allowed, grid, use_reentrant=False)
            else:
                x = layer(x, allowed, grid)
        alpha = self._alpha(x, present)
        mixed = (alpha[..., None] * x).sum(1)
        cells = self.unpatch(mixed).transpose(1, 2).reshape(b, -1, *grid)
        return functional.pixel_shuffle(cells, PATCH), alpha.reshape(b, n, *grid)

    def _allowed(self, present: Tensor) -> Tensor:
        n = present.shape[1]
        itself = torch.eye(n, dtype=torch.bool, device=present.device)  # a row without any key would be NaN
        allowed = present[:, None, :] | itself
        if self.config.attention == "window":
            place = torch.arange(n, device=present.device)
            allowed = allowed & ((place[:, None] - place).abs() <= self.config.attention_window // 2)
        return allowed

    def _alpha(self, x: Tensor, present: Tensor) -> Tensor:
        """(B, N, P) softmax over the frames, of every patch or, "frame", the same for all of them."""
        whole = self.config.alpha == "frame"
        logits = self.weigh(x.mean(2)).expand(-1, -1, x.shape[2]) if whole else self.weigh(x)[..., 0]
        return logits.float().masked_fill(~present[:, :, None], float("-inf")).softmax(1)
