"""What can be set about a run that trains LIFT, beside what the trainer has: its network, its data, its losses."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from model.lift.config import PAD_TO, LiftConfig, variant
from model.lift.losses import LiftLossWeights
from model.lift.photographs import PhotographSettings
from model.lift.samples import SampleSettings
from model.training.settings import OptimSettings, RunSettings, TrainSettings, unrecorded
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

Schedule = Literal["cosine", "published"]


@dataclass(frozen=True, kw_only=True)
class LiftDataSettings:
    """Where samples come from and what they are. A folder that is left empty is not used.

    Args:
        motion: ray-traced clips with exact flow (scripts/make_motion_scenes.py --split train).
        photographs: pictures, of which moving layers with exact flow are made.
        videos: folders of frames and video files, anywhere below; videos_list: a split file of folders in it.
        scenes: the pipeline's output; its frames_sharp.
        val_motion, val_videos: the same for validations; without both, photographs that training does not draw.
        crop: pixels a side, a multiple of 32.
        dense_share, any_t_share, jitter, overlay_share, photographs_share: see `model.lift.samples.SampleSettings`.
        max_shift_px: of photographs' backgrounds between the neighbours.
        workers: threads that read ahead.
    """

    motion: str = unrecorded("")
    photographs: str = unrecorded("")
    videos: str = unrecorded("")
    videos_list: str = unrecorded("")
    scenes: str = unrecorded("")
    val_motion: str = unrecorded("")
    val_videos: str = unrecorded("")
    crop: int = 256
    dense_share: float = 0.3
    any_t_share: float = 0.0
    jitter: bool = True
    overlay_share: float = 0.0
    photographs_share: float = 0.5
    max_shift_px: float = 24.0
    workers: int = unrecorded(2)

    def __post_init__(self) -> None:
        if self.crop < PAD_TO or self.crop % PAD_TO:
            raise UsageError(f"data.crop must be a multiple of {PAD_TO}, got {self.crop}")
        for name in ("dense_share", "any_t_share", "overlay_share", "photographs_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"data.{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0.25 < self.max_shift_px < 1000:
            raise UsageError(f"data.max_shift_px must be in (0.25, 1000), got {self.max_shift_px}")
        if self.workers < 1:
            raise UsageError(f"data.workers must be at least 1, got {self.workers}")

    def samples(self, network: LiftConfig, seed: int) -> SampleSettings:
        """What a sample is, for a run's network and seed."""
        return SampleSettings(
            network=network,
            crop=self.crop,
            dense_share=self.dense_share,
            any_t_share=self.any_t_share,
            jitter=self.jitter,
            overlay_share=self.overlay_share,
            photographs_share=self.photographs_share,
            motion=PhotographSettings(max_shift_px=self.max_shift_px),
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class LiftOptimSettings(OptimSettings):
    """The trainer's, and the published schedule.

    Args:
        schedule: "cosine" for everything; or "published" over run.steps as 50 epochs: to 20 % (epochs 1 to 10) the encoder
            stands still if pretrained weights were loaded, to 60 % all is at lr with the encoder at encoder_lr_scale of it
            and, if it stood still, thawed stage by stage from the deepest, then everything at encoder_lr_scale of lr.
        encoder_lr_scale: see above.
        s1_lr_scale: of the layers of the full-size tap, which always train.
        only: how the names of the parameters begin that are trained, "mix." for one part; empty for all of them.
    """

    schedule: str = "cosine"
    encoder_lr_scale: float = 0.1
    s1_lr_scale: float = 1.0
    only: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in get_args(Schedule):
            raise UsageError(f"optim.schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}")
        for name in ("encoder_lr_scale", "s1_lr_scale"):
            if not 0 < getattr(self, name) <= 10:
                raise UsageError(f"optim.{name} must be in (0, 10], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LiftRunSettings(RunSettings):
    """The trainer's, and how much a validation looks at.

    Args:
        val_targets: targets in all.
        checkpointing: compute the transformer again in the backward pass instead of keeping what it holds.
    """

    val_targets: int = unrecorded(24)
    checkpointing: bool = unrecorded(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_targets < 1:
            raise UsageError(f"run.val_targets must be at least 1, got {self.val_targets}")


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """Weights of another network, taken where a tensor of that name and shape is there.

    Args:
        weights: a .pth or .safetensors file of tensors; empty for none.
        mapping: how their names begin and what that is here, "theirs=ours,...", for example
            "module.encode.=encoder.stages."; names without an entry are tried as they are.
    """

    weights: str = ""
    mapping: str = ""

    def __post_init__(self) -> None:
        self.pairs()

    def pairs(self) -> list[tuple[str, str]]:
        found = [tuple(part.split("=")) for part in self.mapping.split(",") if part]
        if any(len(pair) != 2 for pair in found):
            raise UsageError(f'pretrained.mapping must be "theirs=ours,...", got {self.mapping!r}')
        return [(pair[0], pair[1]) for pair in found]


@dataclass(frozen=True, kw_only=True)
class LiftSettings(TrainSettings):
    """One run."""

    variants = (LiftConfig, variant, "base")

    model: LiftConfig = field(default_factory=LiftConfig)
    data: LiftDataSettings = field(default_factory=LiftDataSettings)
    loss: LiftLossWeights = field(default_factory=LiftLossWeights)
    pretrained: PretrainedSettings = field(default_factory=PretrainedSettings)
    optim: LiftOptimSettings = field(default_factory=LiftOptimSettings)
    run: LiftRunSettings = field(default_factory=LiftRunSettings)

    def __post_init__(self) -> None:
        data = self.data
        if not (data.motion or data.photographs or data.videos or data.scenes):
            raise UsageError("[data] must name one of: motion, photographs, videos, scenes")
        if not (data.val_motion or data.val_videos or data.photographs):
            raise UsageError("[data] must name one of val_motion and val_videos, or photographs")
        if data.videos_list and not data.videos:
            raise UsageError("data.videos_list lists folders of data.videos, which is empty")

    def fields(self) -> Fields:
        """As the trainer has them; where perceptual weights lie changes nothing."""
        found = super().fields()
        for name in ("perceptual_weights", "st_lpips_weights"):
            del found["loss"][name]
        return found
