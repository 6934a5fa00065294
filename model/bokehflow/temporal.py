"""What BokehFlow carries from frame to frame: a state of constant size, whatever the frame's.

Special: a learned mixture of the last frame's states and of a learned start, per block and direction, so that a cut in the
video can be forgotten and a static scene kept. Not a recurrence over pixels: nothing here is warped by motion.

Shape letters: D = blocks of a stream; B = samples; C = channels; H = heads; Dk, Dv = key and value size.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from model.bokehflow.config import BokehFlowConfig, BokehFlowError
from model.recurrent.config import DIRECTIONS
from model.recurrent.motion import FRAME_SAMPLES
from pipeline.storage.files import write_shared

DEPTH_SAMPLES = 32  # per side: of the last depth map, what the mean blur under the next lens is taken from


@dataclass(frozen=True, kw_only=True)
class BokehFlowState:
    """Passed back by the caller with the next frame; None starts a video.

    Args:
        depth_states, bokeh_states: (D, B, 4, H, Dv, Dk) final states of the four scans of every block of a stream.
        depth_pooled, bokeh_pooled: (D, B, C) the mean of every block's input.
        depth_samples_m: (B, 1, 32, 32) the last depth map, sampled.
        frame_samples: (B, 3, 128, 128) the last frame, shrunk; (B, 3, 0, 0) for a network without `enable_motion`.
    """

    depth_states: Tensor
    bokeh_states: Tensor
    depth_pooled: Tensor
    bokeh_pooled: Tensor
    depth_samples_m: Tensor
    frame_samples: Tensor

    def detach(self) -> "BokehFlowState":
        """Cut the graph here: truncated backpropagation through time."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BokehFlowState":
        return self._map(lambda tensor: tensor.to(device, dtype))

    @property
    def batch_size(self) -> int:
        return self.depth_samples_m.shape[0]

    def largest_norm(self) -> Tensor:
        """The largest Frobenius norm of any head's state; a number to log."""
        largest = [states.detach().norm(dim=(-2, -1)).amax() for states in (self.depth_states, self.bokeh_states)]
        return torch.maximum(*largest)

    def state_dict(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, tensors: dict[str, Tensor]) -> "BokehFlowState":
        """Raises BokehFlowError if names are missing or unknown."""
        names = {field.name for field in fields(cls)}
        if set(tensors) != names:
            raise BokehFlowError(
                f"a state holds {', '.join(sorted(names))}; got {', '.join(sorted(tensors)) or 'nothing'}"
            )
        return cls(**tensors)

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_shared(path, safetensors.torch.save(whole))

    @classmethod
    def load(cls, path: Path) -> "BokehFlowState":
        """Read what `save` wrote, to the CPU.

        Raises:
            BokehFlowError: the file is no such state.
        """
        try:
            tensors = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise BokehFlowError(f"{path} is no safetensors file: {error}") from error
        return cls.from_state_dict(tensors)

    def check(self, config: BokehFlowConfig, batch_size: int) -> None:
        """Raises BokehFlowError unless this is a state of such a network and batch."""
        c = config
        side = FRAME_SAMPLES if c.enable_motion else 0
        head = (batch_size, DIRECTIONS, c.heads, c.head_dim, c.head_dim)
        wanted = {
            "depth_states": (c.depth_blocks, *head),
            "bokeh_states": (c.bokeh_blocks, *head),
            "depth_pooled": (c.depth_blocks, batch_size, c.channels),
            "bokeh_pooled": (c.bokeh_blocks, batch_size, c.channels),
            "depth_samples_m": (batch_size, 1, DEPTH_SAMPLES, DEPTH_SAMPLES),
            "frame_samples": (batch_size, 3, side, side),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise BokehFlowError(
                    f"state.{name} must be {shape} for this network and a batch of {batch_size}, "
                    f"got {tuple(getattr(self, name).shape)}; pass state=None to start a video"
                )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "BokehFlowState":
        return BokehFlowState(**{name: change(tensor) for name, tensor in self.state_dict().items()})


def sample_depth(depth_m: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 1, 32, 32) by picking pixels: a mean over an edge would invent depths that are not there."""
    return nn.functional.interpolate(depth_m, size=(DEPTH_SAMPLES, DEPTH_SAMPLES), mode="nearest-exact")
