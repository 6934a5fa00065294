"""What can be set about a run that trains BokehDiff, beside what the trainer has: its network, its data, its losses."""

import math
from dataclasses import dataclass, field, fields

from model.bokehdiff.config import BokehDiffConfig
from model.bokehdiff.losses import BokehDiffLossWeights
from model.bokehdiff.pairs import PairOptions, PairSettings
from model.bokehdiff.sources import Wanted
from model.training.settings import OptimSettings, RunSettings, TrainSettings, unrecorded
from pipeline.engines.bokehdiff.pisa import INFERENCE_CONTRAST, TOKEN_PX
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

_CHOICES = {"gain": ("exact", "published"), "curve": ("srgb", "gamma")}


@dataclass(frozen=True, kw_only=True)
class BokehDiffDataSettings(PairOptions):
    """Where pairs come from and what they are. A folder that is left empty is not used.

    Args:
        pairs: a folder with fg/ (cut-outs with alpha) and bg/ (all-in-focus pictures).
        scenes: the pipeline's output tree.
        photographs: a tree of ray-traced photographs (scripts/make_photograph_scenes.py).
        pairs_share, scenes_share, photographs_share: how samples are divided among those that are named.
        crop, flip: of pictures from all of them; the other inherited ones are of pairs.
        workers: threads that read ahead.
    """

    pairs: str = unrecorded("")
    scenes: str = unrecorded("")
    photographs: str = unrecorded("")
    pairs_share: float = 1.0
    scenes_share: float = 1.0
    photographs_share: float = 1.0
    workers: int = unrecorded(2)

    def __post_init__(self) -> None:
        if self.crop < 2 * TOKEN_PX or self.crop % TOKEN_PX:
            raise UsageError(f"data.crop must be a multiple of {TOKEN_PX}, at least {2 * TOKEN_PX}, got {self.crop}")
        for name in ("pairs_share", "scenes_share", "photographs_share"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"data.{name} must be finite and >= 0, got {getattr(self, name)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"data.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if not (math.isfinite(self.strength_px) and self.strength_px > 0):
            raise UsageError(f"data.strength_px must be finite and > 0, got {self.strength_px}")
        if not 0 <= self.light_share <= 1:
            raise UsageError(f"data.light_share must be in [0, 1], got {self.light_share}")
        for name, least in (("foregrounds", 1), ("samples", 1), ("pool", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"data.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BokehDiffOptimSettings(OptimSettings):
    """The trainer's with the published values, and the rates beside the adapter's.

    Args:
        eps: of AdamW.
        vae_lr_scale: of the parts of the VAE, which have an optimiser of their own.
        discriminator_lr_scale: of the discriminator.
    """

    lr: float = 5e-5
    min_lr_share: float = 0.0
    warmup_steps: int = 20
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 1e-2
    eps: float = 1e-7
    vae_lr_scale: float = 0.1
    discriminator_lr_scale: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eps", "vae_lr_scale", "discriminator_lr_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"optim.{name} must be finite and > 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BokehDiffRunSettings(RunSettings):
    """The trainer's, and how much a validation looks at.

    Args:
        val_pairs, val_frames: pairs, and frames of each tree of scenes.
        val_contrast: PISA's hardness in validations; the engine's by default. A run of few steps ends at 3 + 2 steps.
        checkpointing: compute the UNet again in the backward pass instead of keeping what it holds.
        prompt_cache: folder of the embedded prompt; empty for the user's.
    """

    steps: int = 120_000
    batch_size: int = 1
    micro_batch_size: int = unrecorded(1)
    val_pairs: int = unrecorded(16)
    val_frames: int = unrecorded(16)
    val_contrast: float = unrecorded(INFERENCE_CONTRAST)
    checkpointing: bool = unrecorded(False)
    prompt_cache: str = unrecorded("")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_pairs < 1 or self.val_frames < 1:
            raise UsageError(
                f"run.val_pairs and val_frames must be at least 1, got {self.val_pairs} and {self.val_frames}"
            )
        if not (math.isfinite(self.val_contrast) and self.val_contrast > 1):
            raise UsageError(f"run.val_contrast must be finite and > 1, got {self.val_contrast}")


@dataclass(frozen=True, kw_only=True)
class BokehDiffSettings(TrainSettings):
    """One run."""

    data: BokehDiffDataSettings = field(default_factory=BokehDiffDataSettings)
    model: BokehDiffConfig = field(default_factory=BokehDiffConfig)
    loss: BokehDiffLossWeights = field(default_factory=BokehDiffLossWeights)
    optim: BokehDiffOptimSettings = field(default_factory=BokehDiffOptimSettings)
    run: BokehDiffRunSettings = field(default_factory=BokehDiffRunSettings)

    def __post_init__(self) -> None:
        if not (self.data.pairs or self.data.scenes or self.data.photographs):
            raise UsageError("[data] must name one of: pairs, scenes, photographs")

    def wanted(self) -> Wanted:
        """The data to look for."""
        data = self.data
        options = {item.name: getattr(data, item.name) for item in fields(PairOptions)}
        pairs = PairSettings(**options, seed=self.run.seed)
        return Wanted(
            pairs=data.pairs, scenes=data.scenes, photographs=data.photographs,
            shares=(data.pairs_share, data.scenes_share, data.photographs_share), settings=pairs,
            val_pairs=self.run.val_pairs, val_frames=self.run.val_frames,
        )  # fmt: skip

    def fields(self) -> Fields:
        """As the trainer has them; where files lie changes nothing, what is in them does, and the task adds that."""
        found = super().fields()
        del found["model"]["base"], found["loss"]["weights"], found["loss"]["trunk_folder"]
        return found
