"""Everything that can be set about a BokehFlow network, and its named sizes.

A checkpoint stores `to_dict()`, so a field's name and meaning are a file format: add, do not rename.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from model.recurrent.config import NORM_GROUPS, Backend
from pipeline.optics import SENSOR_WIDTH_MM, CocModel

BlurMeaning = Literal["share", "pixels"]
NEAR_M, FAR_M = 0.1, 100.0  # predicted depth lies strictly between


class BokehFlowError(ValueError):
    """An input or setting that the network cannot work with; the message says what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class BokehFlowConfig:
    """Size and switches of one network.

    Args:
        channels: width of both streams.
        heads, head_dim: of every directional recurrence; its state is heads * head_dim^2 numbers.
        depth_blocks, bokeh_blocks: blocks of the two streams, walked side by side.
        fusion_every: the streams exchange features after every so many blocks; 0 never.
        stem_channels: channels at half resolution.
        ffn_mult: hidden width of the feed-forward part over `channels`.
        aperture_dim: width of the lens embedding.
        dropout: in the feed-forward part, training only.
        enable_dahg: a floor under the decay that grows with the layer and with the mean blur (see `scans.DecayGate`).
        dahg_lambda: weight of the mean blur in that floor.
        dahg_blur: what the mean blur is: "share" of the largest radius, with that fixed weight; or "pixels", as published, with
            a weight that is learned and starts there.
        enable_tsp: carry states from frame to frame; without it every frame starts from the learned states.
        memory_tokens: how far the slowest head of a scan remembers when training starts, in tokens; the fastest remembers 8,
            the others lie between, evenly in the logarithm. 0 starts all of them at 8 (see `scans.gate_logits`).
        enable_motion: the depth stream sees what changed since the last frame (see `model.recurrent.motion`).
        scans: 4, or 2 for rows alone, both ways.
        enable_film: the lens modulates the bokeh stream.
        enable_highlights: clipped light is taken to be brighter than it could be stored, by as much as is learned.
        enable_correction: the render is corrected where it may be wrong (see `model.bokehflow.correction`).
        correct_given: correct also where depth is handed in.
        correction_channels: width of that part at half resolution, a multiple of 2.
        enable_physics: the lens renderer; without it the correction starts from the frame.
        max_state_norm: carried states are scaled down to this Frobenius norm per head, once a frame.
        max_radius_px: largest blur radius that is rendered, at a full frame of `reference_width_px`; it scales with the
            frame, and data that saturates earlier lowers it (`LensBatch.max_radius_px`). What decides the renderer's
            number of layers: radii in steps of 1 to 2 px.
        reference_width_px: see above.
        sensor_width_mm: of the lenses that `reference_width_px` stands for.
        coc_model: "contract" for generated scenes, "thin_lens" for photographs. Weights belong to one of them.
        chunk_size: tokens per chunk of the recurrence, a power of two; changes speed, not results.
        backend: of the recurrence, see `recurrence.gated_delta_rule`.
    """

    channels: int = 96
    heads: int = 4
    head_dim: int = 24
    depth_blocks: int = 6
    bokeh_blocks: int = 6
    fusion_every: int = 2
    stem_channels: int = 48
    ffn_mult: int = 2
    aperture_dim: int = 64
    dropout: float = 0.0
    enable_dahg: bool = True
    dahg_lambda: float = 0.1
    enable_tsp: bool = True
    memory_tokens: int = 0
    enable_motion: bool = False
    dahg_blur: BlurMeaning = "share"
    scans: int = 4
    enable_film: bool = True
    enable_highlights: bool = True
    enable_correction: bool = True
    correct_given: bool = True
    correction_channels: int = 32
    enable_physics: bool = True
    max_state_norm: float = 100.0
    max_radius_px: float = 31.0
    reference_width_px: int = 854
    sensor_width_mm: float = SENSOR_WIDTH_MM
    coc_model: CocModel = "contract"
    chunk_size: int = 32
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name in (
            "channels", "heads", "head_dim", "depth_blocks", "bokeh_blocks", "stem_channels", "ffn_mult",
            "aperture_dim", "reference_width_px", "chunk_size", "correction_channels",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise BokehFlowError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_state_norm", "max_radius_px", "sensor_width_mm"):
            if not getattr(self, name) > 0:
                raise BokehFlowError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("channels", "stem_channels"):
            if getattr(self, name) % NORM_GROUPS:
                raise BokehFlowError(f"{name} must be a multiple of {NORM_GROUPS}, got {getattr(self, name)}")
        for name in ("fusion_every", "memory_tokens"):
            if getattr(self, name) < 0:
                raise BokehFlowError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.scans not in (2, 4):
            raise BokehFlowError(f"scans must be 2 or 4, got {self.scans}")
        if self.correction_channels % 2:
            raise BokehFlowError(f"correction_channels must be a multiple of 2, got {self.correction_channels}")
        if not 0 <= self.dropout < 1:
            raise BokehFlowError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.chunk_size & (self.chunk_size - 1):
            raise BokehFlowError(f"chunk_size must be a power of two, got {self.chunk_size}")
        for name, allowed in (
            ("coc_model", get_args(CocModel)),
            ("backend", get_args(Backend)),
            ("dahg_blur", get_args(BlurMeaning)),
        ):
            if getattr(self, name) not in allowed:
                raise BokehFlowError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BokehFlowConfig":
        """The config that `to_dict` described; fields that are absent take their defaults.

        Raises:
            BokehFlowError: a field that does not exist, or a value that is not allowed.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise BokehFlowError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)


VARIANTS: dict[str, BokehFlowConfig] = {
    # for a laptop: learns something useful in minutes on two cores, at crops of about 128 px
    "demo": BokehFlowConfig(
        channels=32, heads=2, head_dim=16, depth_blocks=2, bokeh_blocks=2, stem_channels=24, correction_channels=16
    ),
    "nano": BokehFlowConfig(channels=48, heads=2, head_dim=24, depth_blocks=4, bokeh_blocks=4),
    "small": BokehFlowConfig(),
    # of the same width, in heads that fill tensor cores; weights of one do not fit the other
    "small_32": BokehFlowConfig(heads=3, head_dim=32),
    "base": BokehFlowConfig(channels=192, heads=6, head_dim=32, depth_blocks=8, bokeh_blocks=8),
}


def variant(name: str) -> BokehFlowConfig:
    """The config of a named size.

    Raises:
        BokehFlowError: there is no such size.
    """
    if name not in VARIANTS:
        raise BokehFlowError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
