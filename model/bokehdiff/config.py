"""What a trained BokehDiff is, beside its weights: the base it stands on, what of it is trained, PISA's conventions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.engines.bokehdiff.pisa import INFERENCE_CONTRAST, Pisa

ADAPTATIONS = ("lora", "full")
_CONVENTIONS = ("distance", "resampling", "occlusion", "index", "renormalise")
# Samples around each ray: fewer while training, as published.
TRAINING_POINTS, TRAINING_SPREAD = 4, 5


@dataclass(frozen=True, kw_only=True)
class BokehDiffConfig:
    """The network.

    Args:
        base: an SDXL in diffusers' folder layout; empty for the one that the weights table names.
        adapt: "lora": the base is frozen but for an adapter and, with opt_vae, three parts of its VAE's encoder; or "full":
            everything is trained, for a base that is nothing yet.
        rank, alpha: of the LoRA; its effect is alpha / rank.
        opt_vae: train the encoder's first and last convolution and its middle block.
        pisa: physics-inspired self-attention; without it nothing tells the network of the lens.
        dropout: behind PISA while training; the published training had 0.1.
        distance, resampling, occlusion, index, renormalise: as the engine's options.
    """

    base: str = ""
    adapt: str = "lora"
    rank: int = 8
    alpha: float = 8.0
    opt_vae: bool = True
    pisa: bool = True
    dropout: float = 0.0
    distance: str = "pixels"
    resampling: str = "area"
    occlusion: str = "scatter"
    index: str = "rows"
    renormalise: bool = False

    def __post_init__(self) -> None:
        if self.adapt not in ADAPTATIONS:
            raise ValueError(f"adapt must be {' or '.join(ADAPTATIONS)}, got {self.adapt!r}")
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank must be >= 1 and alpha > 0, got {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        self.conventions()

    def conventions(self, contrast: float = INFERENCE_CONTRAST) -> Pisa:
        """PISA as it draws pictures."""
        return Pisa(**{name: getattr(self, name) for name in _CONVENTIONS}, contrast=contrast)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BokehDiffConfig":
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown name, or a value that is not allowed.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(sorted(known))}")
        return cls(**values)
