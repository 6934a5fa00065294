"""A discriminator on features of a frozen trunk: what is real is asked at every position, by a layer with bounded slope.

Published on ConvNeXt: 1024 -> 256 -> 1 per position, spectral norm on both layers, cross-entropy with 0.8 for "real" on both
sides. Any trunk whose features are known serves.
"""

from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from model.evaluation.st_lpips import StLpips
from pipeline.errors import UsageError
from pipeline.seeds import stable_seed

TRUNKS = ("st_lpips", "convnext", "random")
_REAL = 0.8
_SLOPE = 0.2
_HIDDEN = 256
_RANDOM_WIDTHS = (16, 32, 32)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, on [0, 1]


class FeatureTrunk(nn.Module):
    """(B, 3, H, W) in [-1, 1] -> (B, channels, h, w); frozen, but gradients pass through to the picture."""

    channels: int


class LpipsTrunk(FeatureTrunk):
    """The deepest features of ST-LPIPS."""

    def __init__(self, distance: StLpips) -> None:
        super().__init__()
        self.distance, self.channels = distance, distance.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.distance.features(images)[-1]


class ConvNextTrunk(FeatureTrunk):
    """A ConvNeXt of transformers, from a folder."""

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        try:
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"loss.trunk_folder: {folder} holds no ConvNeXt in transformers' layout: {error}"
            ) from None
        if "convnext" not in self.model.config.model_type:
            raise UsageError(
                f"loss.trunk_folder: {folder} holds a {self.model.config.model_type}, needed is a ConvNeXt"
            )
        self.channels = int(self.model.config.hidden_sizes[-1])
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model((images / 2 + 0.5 - self.mean) / self.std).last_hidden_state
        return features


class RandomTrunk(FeatureTrunk):
    """Convolutions from a fixed seed: where no weights are at hand, a training can still be tried."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, width = _RANDOM_WIDTHS[-1], 3
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed("random trunk"))
            for out in _RANDOM_WIDTHS:
                layers += [nn.Conv2d(width, out, 3, 2, 1), nn.LeakyReLU(_SLOPE)]
                width = out
        self.layers = nn.Sequential(*layers)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def load_trunk(kind: str, distance: StLpips | None, folder: str) -> FeatureTrunk:
    """A frozen trunk; `distance` is the one of the losses, for "st_lpips"."""
    if kind == "random":
        return RandomTrunk()
    if kind == "convnext":
        return ConvNextTrunk(Path(folder))
    assert distance is not None, "the losses load it, or say that it is missing"
    return LpipsTrunk(distance)


class Discriminator(nn.Module):
    """(B, C, h, w) features -> (B, 1, h, w) logits; above 0 is real."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # At a position, a linear layer is a convolution of 1 x 1.
        self.first = spectral_norm(nn.Conv2d(channels, _HIDDEN, 1))
        self.second = spectral_norm(nn.Conv2d(_HIDDEN, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.second(functional.leaky_relu(self.first(features), _SLOPE))
        return logits


def opinion(logits: Tensor, *, real: bool) -> Tensor:
    """Cross-entropy against what they should say."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, _REAL if real else 0.0))


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The mean over features of photographs and of what was made; the gradient stops there."""
    told = opinion(discriminator(real.detach()), real=True), opinion(discriminator(fake.detach()), real=False)
    return (told[0] + told[1]) / 2
