"""The sizes of a Video Depth Anything network, read from the shapes in its file.

One code path serves the three published networks and any other of the same kind. What cannot be read from shapes follows
DINOv2 and the authors' choices: heads of 64 channels in the encoder, 8 heads in the temporal modules, and which blocks are
tapped.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.weights import DamagedWeightsError

if TYPE_CHECKING:
    from torch import Tensor

PATCH_PX = 14  # sides that the network sees are multiples of it
ENCODER_HEAD_DIM = 64
_TAPS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes.

    Args:
        dim: channels of the encoder.
        depth: its blocks.
        grid: side of the square of patches that its position embedding was trained on.
        features: channels of the head's fusion blocks.
        out_channels: of the head's four levels, fine to coarse.
        output_channels: between the last two convolutions.
    """

    dim: int
    depth: int
    grid: int = 37
    features: int
    out_channels: tuple[int, int, int, int]
    output_channels: int = 32

    @property
    def heads(self) -> int:
        return self.dim // ENCODER_HEAD_DIM

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose outputs the head reads, 0-based; the last of each quarter where nothing is published."""
        return _TAPS.get(self.depth) or tuple((quarter * self.depth + 3) // 4 - 1 for quarter in (1, 2, 3, 4))

    @property
    def temporal_channels(self) -> tuple[int, int, int, int]:
        """Channels of the four temporal modules."""
        return (*self.out_channels[2:], self.features, self.features)


PUBLISHED = {
    "vits": Architecture(dim=384, depth=12, features=64, out_channels=(48, 96, 192, 384)),
    "vitb": Architecture(dim=768, depth=12, features=128, out_channels=(96, 192, 384, 768)),
    "vitl": Architecture(dim=1024, depth=24, features=256, out_channels=(256, 512, 1024, 1024)),
}


def infer(state: "dict[str, Tensor]") -> Architecture:
    """The architecture whose state dict this is, from a few of its shapes; the strict load compares all of them.

    Raises:
        DamagedWeightsError: it is of no such network; the message names what is missing or odd.
    """
    blocks = {int(match[1]) for name in state if (match := re.match(r"pretrained\.blocks\.(\d+)\.", name))}
    try:
        found = Architecture(
            dim=state["pretrained.cls_token"].shape[-1],
            depth=len(blocks),
            grid=round((state["pretrained.pos_embed"].shape[1] - 1) ** 0.5),
            features=state["head.scratch.layer1_rn.weight"].shape[0],
            out_channels=tuple(state[f"head.projects.{level}.weight"].shape[0] for level in range(4)),  # type: ignore[arg-type]
            output_channels=state["head.scratch.output_conv2.0.weight"].shape[0],
        )
    except (KeyError, IndexError) as error:
        raise DamagedWeightsError(
            f"they are not those of a Video Depth Anything network: {error} is missing or has no such shape"
        ) from None
    if found.dim % ENCODER_HEAD_DIM or found.depth < 4 or any(width % 32 for width in found.temporal_channels):
        raise DamagedWeightsError(
            f"a network with {found.dim} channels, {found.depth} blocks and temporal modules of {found.temporal_channels} "
            f"channels is not one of this kind: heads of {ENCODER_HEAD_DIM}, 4 blocks or more and groups of 32 are needed"
        )
    return found
