"""Everything that can be set about a training run, read from one TOML file and changed with --set section.key=value.

The fingerprint covers what changes the losses and nothing else: not where the data lie, not how many threads read them, not
how often something is logged. A run can be resumed only with the same fingerprint.
"""

import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from model.bokehflow.config import BokehFlowConfig, BokehFlowError, variant
from model.bokehflow.losses import LossWeights
from model.data.sampling import ClipSettings
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

DataKind = Literal["scenes", "realbokeh"]
Precision = Literal["auto", "float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where samples come from and what they are.

    Args:
        kind: "scenes" of the pipeline, or "realbokeh" photographs (which need model.coc_model = "thin_lens").
        root: the output folder of the pipeline, or RealBokeh's root.
        train_split, val_split: names of splits.
        clip_frames, crop_width, crop_height, flip: see `model.data.sampling.ClipSettings`.
        workers: threads that read ahead.
    """

    kind: str = "scenes"
    root: str = "output"
    train_split: str = "train"
    val_split: str = "val"
    clip_frames: int = 4
    crop_width: int = 256
    crop_height: int = 256
    flip: bool = True
    workers: int = 2

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
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """AdamW with warm-up and cosine.

    Args:
        lr: peak learning rate.
        min_lr_share: where the cosine ends, as a share of lr.
        warmup_steps: linear rise to lr.
        beta1, beta2, weight_decay: of AdamW; norms, biases and gates do not decay.
        scalar_lr_scale: of single numbers such as the share of physics in the picture. Adam moves a parameter by about lr
            per step whatever its gradient, and a logit has to travel a few units where a weight travels hundredths.
        clip_norm: gradients are scaled down to this norm.
        ema_decay: of the averaged weights, which are what a checkpoint is for; early on the average is shorter.
    """

    lr: float = 5e-4
    min_lr_share: float = 0.02
    warmup_steps: int = 500
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.05
    scalar_lr_scale: float = 10.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        for name in ("lr", "clip_norm", "scalar_lr_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"optim.{name} must be finite and > 0, got {getattr(self, name)}")
        for name in ("min_lr_share", "beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) <= (1 if name == "min_lr_share" else 0.999999):
                raise UsageError(f"optim.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.warmup_steps < 0 or not self.weight_decay >= 0:
            raise UsageError(
                f"optim.warmup_steps and weight_decay must be >= 0, got {self.warmup_steps} and {self.weight_decay}"
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, where and with what care.

    Args:
        out_dir: logs, pictures and checkpoints; a run that finds its own checkpoints there goes on.
        seed: of weights, samples and dropout.
        steps: optimiser steps of the whole run.
        batch_size: clips per step over all processes; micro_batch_size: clips in one process's memory at once.
        backprop_frames: T of the truncated backpropagation; the state goes on, detached, to the clip's end. 0: the clip.
        device: auto, cpu or cuda.
        precision: auto (bf16 on CUDA), float32 or bf16.
        threads: of PyTorch on the CPU. Fixed, since sums depend on how they are cut into threads.
        log_every, validate_every: steps; every validation also saves. save_every: checkpoints in between, 0 for none.
        keep_last: checkpoints beside the best one.
        val_clips, val_frames: lens sets and frames of each that a validation looks at.
        init_from: a checkpoint whose weights to start from; empty for fresh ones.
    """

    out_dir: str = "runs/bokehflow"
    seed: int = 0
    steps: int = 100_000
    batch_size: int = 8
    micro_batch_size: int = 8
    backprop_frames: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 2
    log_every: int = 20
    validate_every: int = 2000
    save_every: int = 500
    keep_last: int = 2
    val_clips: int = 8
    val_frames: int = 8
    init_from: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch_size", "threads", "log_every", "validate_every", "keep_last"):
            if getattr(self, name) < 1:
                raise UsageError(f"run.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("backprop_frames", "save_every", "val_clips", "val_frames"):
            if getattr(self, name) < 0:
                raise UsageError(f"run.{name} must be >= 0, got {getattr(self, name)}")
        if self.precision not in get_args(Precision):
            raise UsageError(f"run.precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")


# Of `run`, what changes no loss, or only its rounding: a requeued job may land on a machine with another number of GPUs.
_RUN_WITHOUT_EFFECT = (
    "out_dir", "device", "threads", "micro_batch_size", "init_from",
    "log_every", "validate_every", "save_every", "keep_last", "val_clips", "val_frames",
)  # fmt: skip
_DATA_WITHOUT_EFFECT = ("root", "workers", "val_split")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One run: the network, its data, its losses, its optimiser and its schedule."""

    model: BokehFlowConfig
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.data.kind == "realbokeh" and self.model.coc_model != "thin_lens":
            raise UsageError(
                'RealBokeh photographs follow the thin lens: set model.coc_model = "thin_lens" (and use scenes rendered '
                "with it, if any); never mix the two lens models"
            )
        if min(self.data.crop_width or 11, self.data.crop_height or 11) < 11:
            raise UsageError(
                f"crops must be at least 11x11 px, the window of SSIM, got {self.data.crop_width}x{self.data.crop_height}"
            )

    @property
    def out_dir(self) -> Path:
        return Path(self.run.out_dir)

    @property
    def backprop_frames(self) -> int:
        return min(self.run.backprop_frames or self.data.clip_frames, self.data.clip_frames)

    def fields(self) -> Fields:
        """What the losses depend on, for the fingerprint and for naming a difference."""

        def without(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name not in names}

        return {
            "model": without(self.model.to_dict(), ["backend"]),
            "data": without(asdict(self.data), _DATA_WITHOUT_EFFECT),
            "loss": without(asdict(self.loss), ["perceptual_weights"]),
            "optim": asdict(self.optim),
            "run": without(asdict(self.run), _RUN_WITHOUT_EFFECT),
        }


Section = TypeVar("Section")


def load_settings(path: Path, overrides: Sequence[str] = ()) -> TrainSettings:
    """Read a TOML file and apply SECTION.KEY=VALUE overrides; values are TOML, plain words are strings.

    Raises:
        UsageError: no such file, no TOML, an unknown section or key, or a value that is not allowed.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"the config {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the config {path} is not TOML, in UTF-8: {error}") from None
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise UsageError(f"--set takes SECTION.KEY=VALUE, for example optim.lr=1e-3, got {text!r}")
        if not isinstance(values.setdefault(section, {}), dict):
            raise UsageError(f"{path}: {section} must be a section, [{section}]")
        values[section][name] = _toml_value(value.strip())
    return settings_from(values)


def settings_from(values: Mapping[str, Any]) -> TrainSettings:
    """Settings from nested dictionaries, as a TOML file has them; UsageError names what is wrong."""
    sections = {"data": DataSettings, "loss": LossWeights, "optim": OptimSettings, "run": RunSettings}
    unknown = sorted(set(values) - {"model", *sections})
    if unknown:
        raise UsageError(f"unknown section {unknown[0]!r}; sections are model, {', '.join(sections)}")
    built: dict[str, Any] = {name: _section(name, kind, values.get(name, {})) for name, kind in sections.items()}
    return TrainSettings(model=_network(values.get("model", {})), **built)


def _network(values: Any) -> BokehFlowConfig:
    """[model]: a variant's name, and fields of BokehFlowConfig that differ from it."""
    if not isinstance(values, dict):
        raise UsageError(f"model must be a section, [model], with variant = ..., got {values!r}")
    given = dict(values)
    name = given.pop("variant", "small")
    try:
        base = variant(name)
        known = typing.get_type_hints(BokehFlowConfig)
        for key, value in given.items():
            if key in known:
                given[key] = _checked(f"model.{key}", known[key], value)
        return BokehFlowConfig.from_dict({**base.to_dict(), **given})
    except BokehFlowError as error:
        raise UsageError(f"[model]: {error}") from None


def _section(name: str, kind: type[Section], values: Any) -> Section:
    if not isinstance(values, dict):
        raise UsageError(f"{name} must be a section, [{name}], got {values!r}")
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"unknown setting {name}.{key}; [{name}] has {', '.join(known)}")
    return kind(**{key: _checked(f"{name}.{key}", hints[key], value) for key, value in values.items()})


def _checked(name: str, hint: Any, value: Any) -> Any:
    """The value if it has the annotated type; whole numbers are fine where fractions are."""
    if typing.get_origin(hint) is Literal:
        hint = str
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        wanted = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise UsageError(f"{name} must be of type {wanted}, got {value!r}")
    return value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
