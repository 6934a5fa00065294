"""What can be set about a run that trains FocusMamba, beside what the trainer has."""

from dataclasses import dataclass, field
from pathlib import Path

from model.data.sampling import ClipSettings
from model.focusmamba.augment import AugmentSettings
from model.focusmamba.config import FocusMambaConfig, variant
from model.focusmamba.losses import FocusLossWeights
from model.training.settings import RunSettings, TrainSettings, unrecorded
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

SMALLEST_CROP = 32


@dataclass(frozen=True, kw_only=True)
class FocusDataSettings:
    """Where samples come from and what they are.

    Args:
        root: output folders, of the pipeline or of scripts/make_photograph_scenes.py, separated by commas. All are trained on;
            validations use the first one's split.
        photographs: a folder of ray-traced photographs to train on as well; empty for none.
        train_split, val_split: names of splits.
        clip_frames, crop_width, crop_height, flip: see `model.data.sampling.ClipSettings`.
        workers: threads that read ahead.
    """

    root: str = unrecorded("output")
    photographs: str = unrecorded("")
    train_split: str = "train"
    val_split: str = unrecorded("val")
    clip_frames: int = 3
    crop_width: int = 128
    crop_height: int = 128
    flip: bool = True
    workers: int = unrecorded(2)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"data.workers must be at least 1, got {self.workers}")
        if min(self.crop_width, self.crop_height) < SMALLEST_CROP or self.crop_width % 2 or self.crop_height % 2:
            raise UsageError(
                f"data.crop_width and crop_height must be even and at least {SMALLEST_CROP}, "
                f"got {self.crop_width} and {self.crop_height}"
            )
        self.clip(0)

    @property
    def roots(self) -> list[Path]:
        return [Path(one.strip()) for one in self.root.split(",")]

    def clip(self, seed: int) -> ClipSettings:
        """What a sample is, for a run's seed."""
        return ClipSettings(
            clip_frames=self.clip_frames,
            crop_width=self.crop_width,
            crop_height=self.crop_height,
            flip=self.flip,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class FocusRunSettings(RunSettings):
    """The trainer's settings of a run, and how much a validation looks at.

    Args:
        val_clips, val_frames: lens sets and frames of each.
        val_noise: standard deviation of the noise on the photographs of a validation, sRGB.
    """

    val_clips: int = unrecorded(6)
    val_frames: int = unrecorded(4)
    val_noise: float = unrecorded(2 / 255)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("val_clips", "val_frames", "val_noise"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"run.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FocusMambaSettings(TrainSettings):
    """One run: the network, its data, what happens to them, its losses, its optimiser and its schedule."""

    variants = (FocusMambaConfig, variant, "focus_small")

    model: FocusMambaConfig = field(default_factory=FocusMambaConfig)
    data: FocusDataSettings = field(default_factory=FocusDataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: FocusLossWeights = field(default_factory=FocusLossWeights)
    run: FocusRunSettings = field(default_factory=FocusRunSettings)

    def fields(self) -> Fields:
        """As the trainer has them, without what changes the speed and nothing else."""
        found = super().fields()
        del found["model"]["backend"]
        return found
