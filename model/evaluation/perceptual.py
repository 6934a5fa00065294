"""VGG-16 features from a local file, without torchvision; and LPIPS from them, where its weights are there.

The network (Simonyan and Zisserman 2015) is the convolutional part alone, with torchvision's names for its weights
("features.0.weight" ...), so a downloaded vgg16-397923af.pth or a safetensors file of it loads as it is. Nothing is ever
downloaded here.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError

CACHED_NAME = "vgg16-397923af.pth"
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels; a pooling after each
PERCEPTUAL_TAPS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3
LPIPS_TAPS = (*PERCEPTUAL_TAPS, 29)  # and relu5_3
# ImageNet's mean and standard deviation, which torchvision's weights were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Frozen VGG-16 up to the last layer that is asked for.

    Args:
        taps: indices into torchvision's `features`, ascending.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, taps: Sequence[int] = PERCEPTUAL_TAPS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in _BLOCKS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.taps = tuple(taps)
        self.features = nn.Sequential(*layers[: max(taps) + 1])
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) sRGB in [0, 1] -> the tapped features, at 1, 1/2, 1/4 ... of the size."""
        features = (images - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.features):
            features = layer(features)
            if index in self.taps:
                found.append(features)
        return found


def find_weights(given: Path | None) -> Path | None:
    """The weights file: the given one, else the one in PyTorch's cache, else None.

    Raises:
        UsageError: the given file does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"there is no VGG-16 weights file {given}")
        return given
    cached = Path(torch.hub.get_dir()) / "checkpoints" / CACHED_NAME
    return cached if cached.is_file() else None


def load_vgg(path: Path, taps: Sequence[int] = PERCEPTUAL_TAPS) -> VggFeatures:
    """The network with weights of a .pth or .safetensors file in torchvision's naming.

    Raises:
        UsageError: the file cannot be read or is not VGG-16's.
    """
    vgg = VggFeatures(taps)
    stored = read_tensors(path)
    wanted = vgg.state_dict()
    missing = [name for name in wanted if name not in stored or stored[name].shape != wanted[name].shape]
    if missing:
        raise UsageError(
            f"{path} is not VGG-16 in torchvision's naming: {missing[0]} is missing or has another shape "
            f"than {tuple(wanted[missing[0]].shape)}"
        )
    vgg.load_state_dict({name: stored[name].float() for name in wanted})
    return vgg


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A dictionary of tensors from .safetensors or a .pth that holds nothing else; no code is executed.

    Raises:
        UsageError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as weights: {error}") from None
    except Exception as error:  # an unpickler's own error; its class is private to torch.load
        raise UsageError(f"{path} holds more than tensors, or is damaged: {type(error).__name__}") from None
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise UsageError(f"{path} must hold a dictionary of tensors")
    return stored


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, VGG variant): weighted squared distances of unit features.

    Args:
        vgg: with LPIPS_TAPS.
        weights: per tap (C,) >= 0, the published linear layers.
    """

    def __init__(self, vgg: VggFeatures, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.vgg = vgg
        self.weights = nn.ParameterList([nn.Parameter(w.view(1, -1, 1, 1), requires_grad=False) for w in weights])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, 3, H, W) twice, sRGB in [0, 1] -> (B,) distances, 0 for equal images."""
        total = first.new_zeros(len(first))
        for weight, a, b in zip(self.weights, self.vgg(first), self.vgg(second), strict=True):
            unit_a, unit_b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
            total = total + ((unit_a - unit_b).square() * weight).sum(1).mean((1, 2))
        return total


def load_lpips(vgg_weights: Path | None = None) -> Lpips | str:
    """LPIPS when the `lpips` package (for its linear weights) and VGG-16's weights are there, else the reason why not.

    The package is not imported, only its weights file is read, so torchvision is not needed.
    """
    package = importlib.util.find_spec("lpips")
    if package is None or not package.submodule_search_locations:
        return "LPIPS is left out: the package lpips is not installed"
    linear_path = Path(next(iter(package.submodule_search_locations))) / "weights" / "v0.1" / "vgg.pth"
    if not linear_path.is_file():
        return f"LPIPS is left out: the package lpips has no {linear_path}"
    path = find_weights(vgg_weights)
    if path is None:
        return f"LPIPS is left out: there is no {CACHED_NAME} in PyTorch's cache; give a file with --vgg_weights"
    linear = read_tensors(linear_path)
    return Lpips(load_vgg(path, LPIPS_TAPS), [linear[f"lin{i}.model.1.weight"].flatten() for i in range(5)])
