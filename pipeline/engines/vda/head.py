"""The head: four levels of features become one depth map per frame, with temporal modules on the coarse ones.

A dense prediction transformer's head: each level is resized, the coarse two pass a temporal module, and fusion blocks
climb from strides of 28 px to 7, two of them followed by a temporal module. Everything behind the last temporal module, and
everything about the fine two levels, is per frame: it is worked off a few frames at a time, so that the large maps of a
whole window never exist at once.

Every resize here is bilinear with aligned corners; the published weights were trained with it.

Shapes: T frames, N = h * w patches, D encoder channels, F head features.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.engines.vda.architecture import PATCH_PX, Architecture
from pipeline.engines.vda.temporal import WINDOW, TemporalModule


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners on corners."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Add a finer level, refine, enlarge. The coarsest block has none to add, and its first unit, in the file, lies idle."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The convolutions between the encoder's levels and depth, under the name they have in the file."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        features, last = architecture.features, architecture.output_channels
        for level, channels in enumerate(architecture.out_channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", Fusion(features))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, last, 3, padding=1), nn.ReLU(), nn.Conv2d(last, 1, 1), nn.ReLU()
        )


class Head(nn.Module):
    """`head.` of the state dict."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels = architecture.out_channels
        self.projects = nn.ModuleList(nn.Conv2d(architecture.dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(architecture)
        self.motion_modules = nn.ModuleList(TemporalModule(width) for width in architecture.temporal_channels)

    def forward(
        self,
        levels: Sequence[Tensor],
        grid: tuple[int, int],
        wanted: slice = slice(None),
        micro_batch: int = 32,
        safe_point: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Depth of the frames of one window.

        Args:
            levels: four (T, N, D) of the encoder, T up to 32.
            grid: (h, w) patches.
            wanted: frames whose depth is needed; all of them take part in the temporal modules.
            micro_batch: frames, or as large a share of 32 of the positions, worked on at once; changes no result.
            safe_point: called between such parts.

        Returns:
            (len(wanted), 14 h, 14 w) metres, >= 0, float32 (or wider, as the last weights are).
        """
        path = self._over_time(levels, grid, -(-WINDOW // micro_batch), safe_point)[wanted]
        finest = [level[wanted] for level in levels[:2]]
        depths = []
        for start in range(0, len(path), micro_batch):
            safe_point()
            part = slice(start, start + micro_batch)
            depths.append(self._per_frame(path[part], [level[part] for level in finest], grid))
        return torch.cat(depths)

    def _level(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        picture = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
        return self.resize_layers[number](self.projects[number](picture))

    def _reduced(self, number: int, level: Tensor) -> Tensor:
        return self.scratch.get_submodule(f"layer{number + 1}_rn")(level)

    def _fuse(self, number: int, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        return self.scratch.get_submodule(f"refinenet{number + 1}")(x, skip, size)

    def _over_time(
        self, levels: Sequence[Tensor], grid: tuple[int, int], parts: int, safe_point: Callable[[], None]
    ) -> Tensor:
        """(T, F, 2 h, 2 w), up to the last temporal module. The modules come before the levels are reduced to F channels."""

        def steady(module: int, x: Tensor) -> Tensor:
            return self.motion_modules[module](x, parts, safe_point)

        level_3 = self._reduced(2, steady(0, self._level(2, levels[2], grid)))
        level_4 = self._reduced(3, steady(1, self._level(3, levels[3], grid)))
        path = steady(2, self._fuse(3, level_4, None, level_3.shape[2:]))
        return steady(3, self._fuse(2, path, level_3, (2 * grid[0], 2 * grid[1])))

    def _per_frame(self, path: Tensor, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """(B, 14 h, 14 w) from (B, F, 2 h, 2 w)."""
        level_1, level_2 = (self._reduced(number, self._level(number, levels[number], grid)) for number in (0, 1))
        path = self._fuse(1, path, level_2, level_1.shape[2:])
        path = self._fuse(0, path, level_1, (8 * grid[0], 8 * grid[1]))
        fine = resize(self.scratch.output_conv1(path), (PATCH_PX * grid[0], PATCH_PX * grid[1]))
        with torch.autocast(fine.device.type, enabled=False):  # metres need more digits than half precision has
            return self.scratch.output_conv2(fine.to(self.scratch.output_conv1.weight.dtype))[:, 0]
