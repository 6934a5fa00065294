"""The encoder: a DINOv2 vision transformer (patch 14, no registers, LayerScale), with four of its blocks tapped.

It sees one frame at a time. Names of modules are those of the published state dict. What it is not: the classifier's
DINOv2 of other libraries, whose position embedding is interpolated to a size rather than by a factor, and differs.

Shapes: B frames, D channels, N = (H / 14) (W / 14) patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.engines.vda.architecture import PATCH_PX, Architecture

_OFFSET = (
    0.1  # DINOv2 adds it to the grid before dividing, against a size that rounds down; it shifts every sample a little
)


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention over the tokens of a frame."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, 1 + N, 64)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each normed before and scaled behind."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """One token per 14x14 patch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH_PX, stride=PATCH_PX)

    def forward(self, frames: Tensor) -> Tensor:
        return self.proj(frames).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """`pretrained.` of the state dict."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        dim, self._grid, self._taps = architecture.dim, architecture.grid, architecture.taps
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self._grid**2, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # of the pre-training; in the file and never used
        self.patch_embed = PatchEmbedding(dim)
        self.blocks = nn.ModuleList(Block(dim, architecture.heads) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, D): the trained grid, bicubically interpolated unless it has that size."""
        if rows == columns == self._grid:
            return self.pos_embed
        trained = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, self._grid, self._grid)
        factors = ((rows + _OFFSET) / self._grid, (columns + _OFFSET) / self._grid)
        with torch.autocast(trained.device.type, enabled=False):
            patches = F.interpolate(trained, scale_factor=factors, mode="bicubic", antialias=False)
        assert patches.shape[2:] == (rows, columns), f"{tuple(patches.shape)} for {rows} x {columns} patches"
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """The four tapped levels of normalised frames.

        Args:
            frames: (B, 3, H, W); H and W are multiples of 14.

        Returns:
            Four (B, N, D), each through the final norm, without the class token.
        """
        rows, columns = (side // PATCH_PX for side in frames.shape[2:])
        tokens = self.patch_embed(frames)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        x = x + self.position_embedding(rows, columns)
        tapped = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._taps:
                tapped.append(self.norm(x)[:, 1:])
        return tapped
