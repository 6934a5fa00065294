"""What FocusMamba carries from frame to frame: a state of constant size, whatever the frame's.

Shape letters: D = blocks; B = samples; C = channels; H = heads; Dk, Dv = key and value size.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.focusmamba.config import FocusMambaConfig, FocusMambaError
from model.recurrent.config import DIRECTIONS
from model.recurrent.motion import FRAME_SAMPLES


@dataclass(frozen=True, kw_only=True)
class FocusState:
    """Passed back by the caller with the next frame; None starts a video.

    Args:
        scan_states: (D, B, 4, H, Dv, Dk) final states of the four scans of every block.
        pooled: (D, B, C) the mean of every block's input.
        frame_samples: (B, 3, 128, 128) the last frame, shrunk.
        map_samples: (B, 2, 128, 128) log(1 + magnitude) of the last map and its log variance / 8, shrunk; with `over_time` =
            filter the running mean and its variance.
    """

    scan_states: Tensor
    pooled: Tensor
    frame_samples: Tensor
    map_samples: Tensor

    def detach(self) -> "FocusState":
        """Cut the graph here: truncated backpropagation through time."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "FocusState":
        return self._map(lambda tensor: tensor.to(device, dtype))

    def largest_norm(self) -> Tensor:
        """The largest Frobenius norm of any head's state; a number to log."""
        return self.scan_states.detach().norm(dim=(-2, -1)).amax()

    def check(self, config: FocusMambaConfig, batch_size: int) -> None:
        """Raises FocusMambaError unless this is a state of such a network and batch."""
        c = config
        wanted = {
            "scan_states": (c.blocks, batch_size, DIRECTIONS, c.heads, c.head_dim, c.head_dim),
            "pooled": (c.blocks, batch_size, c.channels),
            "frame_samples": (batch_size, 3, FRAME_SAMPLES, FRAME_SAMPLES),
            "map_samples": (batch_size, 2, FRAME_SAMPLES, FRAME_SAMPLES),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise FocusMambaError(
                    f"state.{name} must be {shape} for this network and a batch of {batch_size}, "
                    f"got {tuple(getattr(self, name).shape)}; pass state=None to start a video"
                )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "FocusState":
        return FocusState(**{field.name: change(getattr(self, field.name)) for field in fields(self)})
