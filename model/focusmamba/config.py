"""Everything that can be set about a FocusMamba network, and its named sizes.

A checkpoint stores `to_dict()`, so a field's name and meaning are a file format: add, do not rename.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from model.recurrent.config import NORM_GROUPS, Backend

OverTime = Literal["state", "aligned", "filter"]


class FocusMambaError(ValueError):
    """An input or setting that the network cannot work with; the message says what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class FocusMambaConfig:
    """Size and switches of one network.

    Args:
        channels: width of the stream, at tokens of 8x8 pixels.
        heads, head_dim: of every directional recurrence; its state is heads * head_dim^2 numbers.
        blocks: of the stream.
        stem_channels, middle_channels: channels at a half and at a quarter of the size.
        radius_bins: radii that the head weighs, evenly spaced in log(1 + radius) from 0 to max_radius_px.
        ffn_mult: hidden width of the feed-forward part over `channels`.
        dropout: in the feed-forward part, training only.
        enable_bank: the fixed filters in front (see `bank.FilterBank`); without them the frame alone is seen.
        enable_dahg, dahg_lambda: the decay's floor, see `model.recurrent.scans.DecayGate`. There is no lens to look at, so
            it depends on the layer alone.
        enable_tsp: carry the scans' states from frame to frame.
        enable_cue: see the last frame and the last map beside the new frame (see `network.FocusMamba`).
        over_time: what a film's past is for. `state` as the two above say; `aligned` the same, with the last frame and map
            moved along the motion first; `filter`: every frame is seen afresh, and its map joined with a running mean along the
            motion (see `steady`), which has no weights.
        memory_tokens: how far the slowest head remembers at the start of training, tokens (see `scans.gate_logits`).
        max_state_norm: carried states are scaled down to this Frobenius norm per head, once a frame.
        max_radius_px: magnitudes lie below it; the largest blur that the training shows, with room above.
        chunk_size: tokens per chunk of the recurrence, a power of two; changes speed, not results.
        backend: of the recurrence.
    """

    channels: int = 96
    heads: int = 4
    head_dim: int = 24
    blocks: int = 6
    stem_channels: int = 32
    middle_channels: int = 64
    radius_bins: int = 16
    ffn_mult: int = 2
    dropout: float = 0.0
    enable_bank: bool = True
    enable_dahg: bool = True
    dahg_lambda: float = 0.1
    enable_tsp: bool = True
    enable_cue: bool = True
    over_time: OverTime = "state"
    memory_tokens: int = 1024
    max_state_norm: float = 100.0
    max_radius_px: float = 64.0
    chunk_size: int = 32
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name in ("channels", "heads", "head_dim", "blocks", "ffn_mult", "chunk_size"):
            if getattr(self, name) < 1:
                raise FocusMambaError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_state_norm", "max_radius_px"):
            if not getattr(self, name) > 0:
                raise FocusMambaError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("channels", "stem_channels", "middle_channels"):
            if getattr(self, name) < 1 or getattr(self, name) % NORM_GROUPS:
                raise FocusMambaError(f"{name} must be a multiple of {NORM_GROUPS}, got {getattr(self, name)}")
        if self.radius_bins < 2:
            raise FocusMambaError(f"radius_bins must be at least 2, got {self.radius_bins}")
        if self.memory_tokens < 0:
            raise FocusMambaError(f"memory_tokens must be >= 0, got {self.memory_tokens}")
        if not 0 <= self.dropout < 1:
            raise FocusMambaError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.over_time not in get_args(OverTime):
            raise FocusMambaError(f"over_time must be one of {', '.join(get_args(OverTime))}, got {self.over_time!r}")
        if self.chunk_size & (self.chunk_size - 1):
            raise FocusMambaError(f"chunk_size must be a power of two, got {self.chunk_size}")
        if self.backend not in get_args(Backend):
            raise FocusMambaError(f"backend must be one of {', '.join(get_args(Backend))}, got {self.backend!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FocusMambaConfig":
        """The config that `to_dict` described; fields that are absent take their defaults.

        Raises:
            FocusMambaError: a field that does not exist, or a value that is not allowed.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise FocusMambaError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)


VARIANTS: dict[str, FocusMambaConfig] = {
    "focus_nano": FocusMambaConfig(channels=64, heads=2, head_dim=16, blocks=2, stem_channels=24, middle_channels=40),
    "focus_small": FocusMambaConfig(),
    "focus_base": FocusMambaConfig(channels=192, heads=6, head_dim=32, blocks=8, stem_channels=64, middle_channels=128),
}


def variant(name: str) -> FocusMambaConfig:
    """The config of a named size.

    Raises:
        FocusMambaError: there is no such size.
    """
    if name not in VARIANTS:
        raise FocusMambaError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
