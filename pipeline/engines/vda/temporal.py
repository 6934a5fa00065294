"""What makes depth steady over time: transformers in which each position of the picture attends along the frames.

Attention is over the 32 frames of a window, full and without a mask. The position encoding is added behind the norm, to what
queries, keys and values are made of; it is a table in the file. All but the group norm treats positions one by one, which
is why they can be worked off in parts.

Shapes: T frames, C channels, S = H * W positions.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
WINDOW = 32  # frames: the length of the position encoding
_GROUPS = 32


class PositionEncoding(nn.Module):
    """Sine on even channels and cosine on odd ones; the values are the file's."""

    pe: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]]


def sinusoids(channels: int) -> Tensor:
    """(1, 32, C): sin and cos of t / 10000^(2 i / C)."""
    rate = 10000 ** (-torch.arange(0, channels, 2).double() / channels)
    angle = torch.arange(WINDOW).double()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None].float()


class TemporalAttention(nn.Module):
    """Self-attention along time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.pos_encoder = PositionEncoding(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(S, T, C) -> the same."""
        x = self.pos_encoder(x)
        q, k, v = (make(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for make in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    """value * GELU(gate), both projected from the input at once."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """C -> 4 C, gated -> C; index 1 of the state dict is a dropout, which has no weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TemporalBlock(nn.Module):
    """Two attentions and a feed-forward layer, each normed before and added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Group norm per frame, then one block along time at each position, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, parts: int, safe_point: Callable[[], None]) -> Tensor:
        """(T, C, H, W) -> the same, in so many parts of the picture; the more parts, the less memory."""
        normed = self.norm(x).flatten(2).permute(2, 0, 1)  # (S, T, C)
        done = []
        for part in normed.chunk(parts):
            safe_point()
            y = self.proj_in(part)
            for block in self.transformer_blocks:
                y = block(y)
            done.append(self.proj_out(y))
        return x + torch.cat(done).permute(1, 2, 0).reshape(x.shape)


class TemporalModule(nn.Module):
    """`head.motion_modules.N`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels)

    def forward(self, x: Tensor, parts: int = 1, safe_point: Callable[[], None] = lambda: None) -> Tensor:
        return self.temporal_transformer(x, parts, safe_point)
