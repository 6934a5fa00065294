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
from pipeline.storage.files import write_shared

DIRECTIONS = 4
DEPTH_SAMPLES = 32  # per side: of the last depth map, what the mean blur under the next lens is taken from
FRAME_SAMPLES = 128  # per side: of the last frame, what motion is seen against
CHANGE_GAIN = 4.0  # consecutive frames differ by little; this brings the difference to the size of the frame
KEEP_LOGIT = 2.0  # tau starts near 0.88: at 0.5 half of what is carried would be lost at every frame


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


class TemporalStart(nn.Module):
    """The state that a block's four scans start a frame from.

    First frame: S_init. Later: tau S_prev + (1 - tau) S_init, tau = sigmoid(MLP([pool x_t; pool x_{t-1}])) per direction.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.enabled = config.enable_tsp
        self.max_norm = config.max_state_norm
        self.initial = nn.Parameter(0.02 * torch.randn(DIRECTIONS, config.heads, config.head_dim, config.head_dim))
        if config.enable_tsp:
            last = nn.Linear(config.channels // 2, DIRECTIONS)
            nn.init.constant_(last.bias, KEEP_LOGIT)
            self.keep = nn.Sequential(nn.Linear(2 * config.channels, config.channels // 2), nn.GELU(), last)

    def forward(self, pooled: Tensor, previous: tuple[Tensor, Tensor] | None) -> Tensor:
        """The start of a frame.

        Args:
            pooled: (B, C) mean of the block's input.
            previous: the last frame's states (B, 4, H, Dv, Dk) and `pooled`, or None.

        Returns:
            (B, 4, H, Dv, Dk) in float32 or wider.
        """
        wide = self.initial if self.initial.dtype == torch.float64 else self.initial.float()
        start = wide.expand(len(pooled), -1, -1, -1, -1)
        if previous is None or not self.enabled:
            return start
        states, pooled_before = previous
        keep = torch.sigmoid(self.keep(torch.cat([pooled, pooled_before.to(pooled)], dim=-1)))
        return torch.lerp(start, bound_norm(states.to(start), self.max_norm), keep.to(start)[:, :, None, None, None])


class MotionCue(nn.Module):
    """What changed since the last frame, as features for the depth stream: near things move more than far ones.

    The scans' states are a summary of the last frame and cannot say what moved. Here the frame is held against the last one,
    both shrunk to the same small size, so that what is carried stays constant. The first frame of a video is held against
    itself. Adds nothing at the start of training.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        width = config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.last = nn.Linear(width, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, samples: Tensor, before: Tensor, height: int, width: int) -> Tensor:
        """What to add to the tokens.

        Args:
            samples, before: (B, 3, 128, 128) of this frame and of the last one, see `sample_frame`.
            height, width: of the tokens.

        Returns:
            (B, height, width, C).
        """
        change = torch.cat([2 * samples - 1, CHANGE_GAIN * (samples - before.to(samples))], dim=1)
        features = self.layers(change.to(self.last.weight.dtype))
        spread = nn.functional.interpolate(features, size=(height, width), mode="bilinear", align_corners=False)
        tokens: Tensor = self.last(spread.permute(0, 2, 3, 1))
        return tokens


def sample_frame(frame: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 3, 128, 128) means, so that motion by a fraction of a sample shows."""
    return nn.functional.adaptive_avg_pool2d(frame, (FRAME_SAMPLES, FRAME_SAMPLES))


def bound_norm(states: Tensor, max_norm: float) -> Tensor:
    """Scale each head's state down to a Frobenius norm; smaller ones stay as they are, bit for bit.

    Once a frame and not in the scan, where it would break the chunk form. Dividing by a norm that is itself bounded from
    below would make small states larger; this never does.
    """
    norm = (states.square().sum((-2, -1), keepdim=True) + 1e-12).sqrt()  # a root at 0 has no gradient
    return states * (max_norm / norm.clamp(min=max_norm))
