"""What can be set about any training run, read from one TOML file and changed with --set section.key=value.

`[task] name` says which network family is trained; `[optim]` and `[run]` are the trainer's; every other section is the
family's own, a field of its subclass of `TrainSettings`. A family that needs more of `[optim]` or `[run]` subclasses those.

The fingerprint covers what changes the losses and nothing else: not where the data lie, not how many threads read them, not
how often something is logged. A run can be resumed only with the same fingerprint.
"""

import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from model.training.families import DEFAULT_FAMILY, task_class
from pipeline.errors import InputError, UsageError
from pipeline.storage.bounded import MIB, one_line, read_bounded
from pipeline.storage.completion import Fields

Precision = Literal["auto", "float32", "bf16"]
_TRAINER_SECTIONS = ("optim", "run")


def unrecorded(default: Any) -> Any:
    """The default of a setting that changes no loss, or only its rounding: it stays out of the fingerprint."""
    return field(default=default, metadata={"recorded": False})


def recorded(section: Any) -> dict[str, Any]:
    """A section's values by name, without the unrecorded ones."""
    kept = {item.name for item in fields(section) if item.metadata.get("recorded", True)}
    return {name: value for name, value in asdict(section).items() if name in kept}


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """AdamW with warm-up and cosine.

    Args:
        lr: peak learning rate.
        min_lr_share: where the cosine ends, as a share of lr.
        warmup_steps: linear rise to lr.
        beta1, beta2, weight_decay: of AdamW; which parameters do not decay is the family's to say.
        scalar_lr_scale: of single numbers such as the share of physics in the image. Adam moves a parameter by about lr
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

    What is `unrecorded` may change between a stop and a resume: a requeued job may land on a machine with another number
    of GPUs.

    Args:
        out_dir: logs, images and checkpoints; a run that finds its own checkpoints there goes on. Empty: runs/<family>.
        seed: of weights, samples and dropout.
        steps: optimiser steps of the whole run.
        batch_size: samples per step over all processes; micro_batch_size: samples in one process's memory at once.
        device: auto, cpu or cuda.
        precision: auto (bf16 on CUDA), float32 or bf16.
        threads: of PyTorch on the CPU. Fixed, since sums depend on how they are cut into threads.
        log_every, validate_every: steps; every validation also saves. save_every: checkpoints in between, 0 for none.
        keep_last: checkpoints beside the best one.
        init_from: a checkpoint whose weights to start from; empty for fresh ones.
    """

    out_dir: str = unrecorded("")
    seed: int = 0
    steps: int = 100_000
    batch_size: int = 8
    micro_batch_size: int = unrecorded(8)
    device: str = unrecorded("auto")
    precision: str = "auto"
    threads: int = unrecorded(2)
    log_every: int = unrecorded(20)
    validate_every: int = unrecorded(2000)
    save_every: int = unrecorded(500)
    keep_last: int = unrecorded(2)
    init_from: str = unrecorded("")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch_size", "threads", "log_every", "validate_every", "keep_last"):
            if getattr(self, name) < 1:
                raise UsageError(f"run.{name} must be at least 1, got {getattr(self, name)}")
        if self.save_every < 0:
            raise UsageError(f"run.save_every must be >= 0, got {self.save_every}")
        if self.precision not in get_args(Precision):
            raise UsageError(f"run.precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One run. A family's subclass adds its sections as fields, each a frozen dataclass with defaults.

    Args:
        task: the family's name.
        optim, run: the trainer's sections.

    Where [model] is a variant's name and fields that differ from it, the family sets `variants`: its config's class, the
    function from a name to a config, and the name that is taken where none is given.
    """

    variants: ClassVar[tuple[type[Any], Callable[[str], Any], str] | None] = None

    task: str
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)

    @property
    def out_dir(self) -> Path:
        return Path(self.run.out_dir or f"runs/{self.task}")

    @classmethod
    def sections(cls) -> dict[str, type]:
        """Section -> its dataclass; the family's own first."""
        hints = typing.get_type_hints(cls)
        names = [item.name for item in fields(cls) if item.name not in ("task", *_TRAINER_SECTIONS)]
        return {name: hints[name] for name in (*names, *_TRAINER_SECTIONS)}

    @classmethod
    def build_section(cls, name: str, values: Any) -> Any:
        """A section from what TOML holds.

        Raises:
            UsageError: no section, an unknown key, or a value that is not allowed, whoever refuses it.
        """
        try:
            if name == "model" and cls.variants is not None:
                return variant_section(values, *cls.variants)
            return section_from(name, cls.sections()[name], values)
        except ValueError as error:  # a config may be of use without a trainer, and has errors of its own
            raise UsageError(f"[{name}]: {error}") from None

    def fields(self) -> Fields:
        """What the losses depend on, for the fingerprint and for naming a difference."""
        return {name: recorded(getattr(self, name)) for name in self.sections()}


def load_settings(path: Path, overrides: Sequence[str] = ()) -> TrainSettings:
    """Read a TOML file and apply SECTION.KEY=VALUE overrides; values are TOML, plain words are strings.

    Raises:
        UsageError: no such file, no TOML, an unknown family, section or key, or a value that is not allowed.
    """
    try:
        values = tomllib.loads(read_bounded(path, MIB).decode())
    except OSError as error:
        raise UsageError(f"the config {path} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise UsageError(f"the config cannot be read: {error}") from None
    except Exception as error:  # TOML's own, and what nesting and numbers without end do to its parser
        raise UsageError(f"the config {path} is not TOML, in UTF-8: {one_line(error)}") from None
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise UsageError(f"--set takes SECTION.KEY=VALUE, for example optim.lr=1e-3, got {text!r}")
        if not isinstance(values.setdefault(section, {}), dict):
            raise UsageError(f"{path}: {section} must be a section, [{section}]")
        values[section][name] = _toml_value(value.strip())
    return settings_from(values)


@dataclass(frozen=True, kw_only=True)
class _TaskSection:
    """[task]. A config without it is BokehFlow's, as all were before there was a choice."""

    name: str = DEFAULT_FAMILY


def settings_from(values: Mapping[str, Any]) -> TrainSettings:
    """Settings from nested dictionaries, as a TOML file has them; UsageError names what is wrong."""
    name = section_from("task", _TaskSection, values.get("task", {})).name
    kind = task_class(name).Settings
    sections = kind.sections()
    unknown = sorted(set(values) - {"task", *sections})
    if unknown:
        raise UsageError(f"unknown section {unknown[0]!r}; sections are {', '.join(sections)}, and task")
    built: dict[str, Any] = {section: kind.build_section(section, values.get(section, {})) for section in sections}
    return kind(task=name, **built)


Section = TypeVar("Section")


def section_from(name: str, kind: type[Section], values: Any) -> Section:
    """A section's dataclass from its TOML table; UsageError names a key or value that does not fit."""
    if not isinstance(values, dict):
        raise UsageError(f"{name} must be a section, [{name}], got {values!r}")
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"unknown setting {name}.{key}; [{name}] has {', '.join(known)}")
    return kind(**{key: typed_value(f"{name}.{key}", hints[key], value) for key, value in values.items()})


def variant_section(values: Any, config: type[Any], variant: Callable[[str], Any], default: str) -> Any:
    """The config of a network from [model]: a variant's name, and fields that differ from it.

    Args:
        config: a dataclass with `from_dict`; the variants have `to_dict`.
        variant: the config of that name.

    Raises:
        UsageError: no section, or a value of another type than its field's; what `config` refuses is its own error.
    """
    if not isinstance(values, dict):
        raise UsageError(f"model must be a section, [model], with variant = ..., got {values!r}")
    given = dict(values)
    base = variant(given.pop("variant", default))
    known = typing.get_type_hints(config)
    for key, value in given.items():
        if key in known:
            given[key] = typed_value(f"model.{key}", known[key], value)
    return config.from_dict({**base.to_dict(), **given})


def typed_value(name: str, hint: Any, value: Any) -> Any:
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
