"""The seam between the trainer and a network family: what a family brings to a run, and what it is given.

`Trainer` keeps steps, exact resume, signals, averages over processes and over time, and logs; it knows no network. A family
subclasses `Task` in `model/<family>/task.py` and exposes it as `TASK`. Whatever has to survive a stop is a parameter or buffer
of `net`, the state of an optimiser, or a function of the step: stages, schedules and losses that start later are the last,
so a resumed run needs no memory of where it was. What is random draws from PyTorch's default generator, which the trainer
seeds for every micro-batch.
"""

from abc import ABC, abstractmethod
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from model.data.loaders import BatchPlan
from model.errors import ADVICE, TrainingDivergedError
from model.evaluation.scores import Evaluation, EvaluationRequest, NetworkPage
from model.training.settings import TrainSettings
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

if TYPE_CHECKING:
    from model.training.network_file import Loaded


class Batch(Protocol):
    """A micro-batch: whatever the family collates, with the names of its samples for messages."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def to(self, device: torch.device | str) -> Self: ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss of a micro-batch, to be followed backwards before the next one is asked for.

    Args:
        total: scalar, what is minimised.
        values: numbers for the log; `measured_values` makes them.
        share: (part, whole), how much of the micro-batch it stands for: (2, 6) for two frames out of six. A micro-batch is
            its own whole where a family yields one loss per optimiser. Two numbers, since a quotient would round.
        optimizers: whose parameters it moves; empty for all of them. A generator's loss passes through the discriminator
            and must leave no gradient there.
    """

    total: Tensor
    values: Mapping[str, float]
    share: tuple[int, int] = (1, 1)
    optimizers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScheduledOptimizer:
    """An optimiser, its learning rate and its clipping. It steps once a step, if any of its parameters has a gradient.

    Args:
        name: for the log and `Loss.optimizers`.
        optimizer: over parameters of the task's net that no other optimiser holds. A group's "lr_scale" multiplies the rate.
        rate: learning rate of optimiser step n, counted from 0.
        clip_norm: gradients of its parameters together are scaled down to this norm.
    """

    name: str
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """From `first_step` on, parameters whose name `frozen` accepts stand still: no gradient, no decay, no momentum."""

    first_step: int
    frozen: Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The number by which validations are compared.

    Args:
        name: key in train.jsonl and best.json.
        unit: for messages; may be empty.
        larger_is_better: PSNR, or else an error.
    """

    name: str
    unit: str = ""
    larger_is_better: bool = True

    def better(self, new: float, old: float | None) -> bool:
        return old is None or (new > old if self.larger_is_better else new < old)

    def text(self, value: float) -> str:
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a validation found.

    Args:
        score: finite, in the unit of the task's `Score`.
        values: for the log; None for what was not measured.
        summary: for the message, the score first.
        sheet: a PNG for people to look at; may be empty.
    """

    score: float
    values: dict[str, float | None]
    summary: str
    sheet: bytes = b""


class Task(ABC, Generic[AnyBatch]):
    """One family in one run.

    Built by the trainer with the seed of the run's weights set, so the first thing it draws decides the weights. It checks
    what it was given as it is built, and sets these attributes:

    Attributes:
        settings: of the run.
        net: every module that is trained, as one, on the device and in training mode; its parameter names are the
            checkpoint's. Modules that are never trained (feature trunks of losses) stay outside; a frozen base that an
            adapter sits in is inside, with requires_grad off, and `keeps` leaves it out of checkpoints.
        optimizers: in the order they step.
        data_digest: changes when the training data do.
        frames_per_sample: what the log's frames_per_s counts.
    """

    name: ClassVar[str]  # the folder's
    Settings: ClassVar[type[TrainSettings]]
    score: ClassVar[Score]
    conventions: ClassVar[Mapping[str, str]]  # what a checkpoint's numbers mean, for whoever opens it years later

    settings: TrainSettings
    net: nn.Module
    optimizers: Sequence[ScheduledOptimizer]
    data_digest: str
    frames_per_sample: int = 1

    @abstractmethod
    def __init__(self, settings: Any, device: torch.device) -> None: ...

    @abstractmethod
    def describe(self) -> Sequence[str]:
        """Lines for the log: how much data there is, what was skipped, what is off and why."""

    @abstractmethod
    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[AnyBatch]:
        """This process's micro-batches of steps first_step .. last_step - 1; they follow from the step alone."""

    @abstractmethod
    def losses(self, batch: AnyBatch, step: int) -> Iterator[Loss]:
        """The losses of a micro-batch, one after the other; the graph of each may be freed before the next.

        Raises:
            TrainingDivergedError: a term is not a number; the message names step, term and samples.
        """

    @abstractmethod
    def validate(self, *, autocast: bool) -> Validation:
        """Measure `net`, which holds the averaged weights and is in evaluation mode, on the validation data.

        Raises:
            TrainingDivergedError: a prediction is not a number.
        """

    @abstractmethod
    def network_config(self) -> dict[str, Any]:
        """For the checkpoint's metadata: what `load_network` needs beside the weights."""

    @classmethod
    @abstractmethod
    def load_network(cls, config: Mapping[str, Any], weights: dict[str, Tensor]) -> nn.Module:
        """The network people use, from a checkpoint's metadata and weights.

        Raises:
            KeyError, ValueError, TypeError: the metadata does not describe a network.
            RuntimeError: the weights are not those of the config.
        """

    def stages(self) -> Sequence[Stage]:
        """What is frozen when, by rising first_step; before the first, nothing is."""
        return ()

    def keeps(self, name: str) -> bool:
        """Whether a checkpoint keeps this entry of net's state_dict, and training averages it. False for a frozen base."""
        return True

    def published(self, averaged: dict[str, Tensor]) -> dict[str, Tensor]:
        """What model.safetensors holds, from the averaged weights of all that is kept; drops a discriminator, renames."""
        return averaged

    def fields(self) -> Fields:
        """The settings that the losses depend on, with what "auto" and files that are or are not there came to."""
        return self.settings.fields()

    def trained_on(self) -> Mapping[str, str | int]:
        """What the weights learn from, kept in the published file: {"kind": "scenes", "scenes": 18}; nothing by default."""
        return {}

    def start_from(self, loaded: "Loaded[nn.Module]") -> None:
        """Take the weights of another run's checkpoint (run.init_from).

        Raises:
            UsageError: it is of another family or config; or this family cannot do it.
        """
        raise UsageError(f"run.init_from: {self.name} cannot start from a checkpoint")

    @classmethod
    def add_evaluation_flags(cls, parser: ArgumentParser) -> None:
        """Flags of `python -m model.evaluate` that only this family has."""

    @classmethod
    def evaluate(cls, loaded: "Loaded[Any]", request: EvaluationRequest) -> Evaluation:
        """Measure a checkpoint beside its baselines.

        Raises:
            UsageError: the data cannot be used, or this family is not measured by model.evaluate.
        """
        raise UsageError(f"{loaded.path}: {cls.name} is not measured by model.evaluate")

    @classmethod
    def page(cls) -> NetworkPage:
        """How `python -m model.report` words this family.

        Raises:
            UsageError: it is not shown on the page.
        """
        raise UsageError(f"{cls.name} is not shown on the report page")


def ramp(step: int, first_step: int, steps: int = 0) -> float:
    """The share of a loss that starts later: 0 before first_step, 1 from first_step + steps on, linear between."""
    if step < first_step:
        return 0.0
    return min(1.0, (step - first_step + 1) / (steps + 1))


def measured_values(
    terms: Mapping[str, Tensor], *, step: int, names: Sequence[str], facts: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Terms of a loss and facts beside them as numbers, in one transfer from the device.

    Args:
        terms: scalars; each must be finite.
        step, names: for the message; names of the samples.
        facts: scalars for the log that no gradient depends on.

    Raises:
        TrainingDivergedError: a term is NaN or infinite; the message names step, term and samples.
    """
    everything = {**terms, **(facts or {})}
    numbers = torch.stack(list(everything.values())).detach().double().tolist()
    found = dict(zip(everything, numbers, strict=True))
    for name in terms:
        if not abs(found[name]) < float("inf"):
            raise diverged(step, f"the loss term {name!r} is {found[name]}", names)
    return found


def diverged(step: int, what: str, names: Sequence[str]) -> TrainingDivergedError:
    """The error of a run whose values are no longer numbers."""
    return TrainingDivergedError(f"step {step}: {what}; samples: {'; '.join(names)}. {ADVICE}")
