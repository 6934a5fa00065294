"""What can be set about a run that trains BokehFlow, beside what the trainer has: its network, its data, its losses."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from model.bokehflow.config import BokehFlowConfig, variant
from model.bokehflow.losses import LossWeights
from model.data.sampling import ClipSettings
from model.evaluation.metrics import SSIM_WINDOW
from model.training.settings import RunSettings, TrainSettings, unrecorded
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

DataKind = Literal["scenes", "realbokeh"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where samples come from and what they are.

    Args:
        kind: "scenes" of the pipeline, or "realbokeh" photographs (which need model.coc_model = "thin_lens").
        root: the output folder of the pipeline, or RealBokeh's root.
        train_split, val_split: names of splits.
        clip_frames, crop_width, crop_height, flip, rendered_only: see `model.data.sampling.ClipSettings`.
        workers: threads that read ahead.
    """

    kind: str = "scenes"
    root: str = unrecorded("output")
    train_split: str = "train"
    val_split: str = unrecorded("val")
    clip_frames: int = 4
    crop_width: int = 256
    crop_height: int = 256
    flip: bool = True
    rendered_only: bool = unrecorded(False)  # recorded, runs from before it could not be resumed
    workers: int = unrecorded(2)

    def __post_init__(self) -> None:
        if self.kind not in get_args(DataKind):
            raise UsageError(f"data.kind must be one of {', '.join(get_args(DataKind))}, got {self.kind!r}")
        if self.workers < 1:
            raise UsageError(f"data.workers must be at least 1, got {self.workers}")
        self.clip(0)

    def clip(self, seed: int) -> ClipSettings:
        """What a sample is, for a run's seed."""
        return ClipSettings(
            clip_frames=self.clip_frames,
            crop_width=self.crop_width,
            crop_height=self.crop_height,
            flip=self.flip,
            rendered_only=self.rendered_only,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class BokehFlowRunSettings(RunSettings):
    """The trainer's settings of a run, and those of a network that carries a state.

    Args:
        given_depth: share of the micro-batches in which the true depth is handed in, as whoever has depth will do.
        backprop_frames: T of the truncated backpropagation; the state goes on, detached, to the clip's end. 0: the clip.
        val_clips, val_frames: lens sets and frames of each that a validation looks at.
    """

    given_depth: float = 0.0
    backprop_frames: int = 0
    val_clips: int = unrecorded(8)
    val_frames: int = unrecorded(8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.given_depth <= 1:
            raise UsageError(f"run.given_depth must be in [0, 1], got {self.given_depth}")
        for name in ("backprop_frames", "val_clips", "val_frames"):
            if getattr(self, name) < 0:
                raise UsageError(f"run.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BokehFlowSettings(TrainSettings):
    """One run: the network, its data, its losses, its optimiser and its schedule."""

    variants = (BokehFlowConfig, variant, "small")

    model: BokehFlowConfig = field(default_factory=BokehFlowConfig)
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    run: BokehFlowRunSettings = field(default_factory=BokehFlowRunSettings)

    def __post_init__(self) -> None:
        if self.data.kind == "realbokeh" and self.model.coc_model != "thin_lens":
            raise UsageError(
                'RealBokeh photographs follow the thin lens: set model.coc_model = "thin_lens" (and use scenes rendered '
                "with it, if any); never mix the two lens models"
            )
        if self.data.kind == "realbokeh" and self.run.given_depth:
            raise UsageError("RealBokeh photographs have no depth to hand in: set run.given_depth = 0")
        net = self.model
        learns = (net.enable_correction and net.correct_given) or (net.enable_highlights and net.enable_physics)
        if self.run.given_depth and not learns:
            raise UsageError(
                "where depth is handed in, this network has nothing to learn: set run.given_depth = 0, or keep the "
                "highlights with the renderer (model.enable_highlights, model.enable_physics), or model.correct_given"
            )
        width, height = self.data.crop_width, self.data.crop_height
        if min(width or SSIM_WINDOW, height or SSIM_WINDOW) < SSIM_WINDOW:
            raise UsageError(
                f"crops must be at least {SSIM_WINDOW}x{SSIM_WINDOW} px, the window of SSIM, got {width}x{height}"
            )

    @property
    def backprop_frames(self) -> int:
        return min(self.run.backprop_frames or self.data.clip_frames, self.data.clip_frames)

    def fields(self) -> Fields:
        """As the trainer has them, without what changes the speed and nothing else."""
        found = super().fields()
        del found["model"]["backend"]
        # where the weights lie; whether there are any is in the weight of the term
        del found["loss"]["perceptual_weights"]
        return found
