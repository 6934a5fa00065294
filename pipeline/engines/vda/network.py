"""The whole network, and a strict load: every name and every shape of the file is the network's, or the file is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.engines.vda.architecture import PATCH_PX, PUBLISHED, Architecture, infer
from pipeline.engines.vda.encoder import Encoder
from pipeline.engines.vda.head import Head
from pipeline.weights import DamagedWeightsError, differences, read_torch


class VideoDepthNetwork(nn.Module):
    """Metric depth of up to 32 frames at once. Frames go through `encode` one by one, windows through `decode`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.pretrained = Encoder(architecture)
        self.head = Head(architecture)

    def encode(self, frames: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised frames -> four (B, N, D)."""
        return self.pretrained(frames)

    def decode(
        self,
        levels: Sequence[Tensor],
        grid: tuple[int, int],
        wanted: slice = slice(None),
        micro_batch: int = 32,
        safe_point: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """See `Head.forward`."""
        return self.head(levels, grid, wanted, micro_batch, safe_point)

    def forward(self, frames: Tensor) -> Tensor:
        """One window at once: (T, 3, H, W), T up to 32 -> (T, H, W) metres."""
        grid = (frames.shape[2] // PATCH_PX, frames.shape[3] // PATCH_PX)
        return self.decode(self.encode(frames), grid)


def read_state(path: Path, encoder: str) -> tuple[Architecture, dict[str, Tensor]]:
    """What a weights file holds, after comparing it with the network it describes; nothing but its index is read.

    Args:
        path: as published: a flat state dict of torch.save.
        encoder: which of the published networks it should be; one of other sizes than any of them is taken as it is.

    Raises:
        DamagedWeightsError: it is not that network's; the message names the first differences.
    """
    state = read_torch(path)
    try:
        architecture = infer(state)
        for name, published in PUBLISHED.items():
            if (architecture.dim, architecture.depth) == (published.dim, published.depth):
                architecture = published
                if name != encoder:
                    raise DamagedWeightsError(
                        f"they are those of {name}, whose licence may be another, and {encoder} was asked for"
                    )
        with torch.device("meta"):
            expected = VideoDepthNetwork(architecture).state_dict()
        told = differences(
            *({name: tuple(value.shape) for name, value in which.items()} for which in (expected, state))
        )
        if told:
            raise DamagedWeightsError(f"of {len(expected)} tensors needed, {len(state)} found: {told}")
    except DamagedWeightsError as error:
        raise DamagedWeightsError(f"the weights in {path} do not fit: {error}") from None
    return architecture, state


def load_network(path: Path, encoder: str, device: str) -> VideoDepthNetwork:
    """The network with its weights, float32, for inference only.

    Raises:
        DamagedWeightsError: see `read_state`.
    """
    architecture, state = read_state(path, encoder)
    with torch.device("meta"):
        network = VideoDepthNetwork(architecture)
    network.load_state_dict({name: value.to(device, torch.float32) for name, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)
