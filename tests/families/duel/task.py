"""An adapter on a frozen base against a critic: what a family with every demand on the trainer looks like.

Two optimisers of different kinds, a critic that stands still at first, a loss that starts later and moves a parameter that
nothing else moves, a checkpoint without the base, and a score of its own that is better when smaller.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.data.loaders import BatchPlan, batches
from model.evaluation.scores import ClipResult, Evaluation, EvaluationRequest, Tally
from model.training.network_file import Loaded
from model.training.optim import learning_rate, make_adamw
from model.training.settings import OptimSettings, TrainSettings
from model.training.task import Loss, ScheduledOptimizer, Score, Stage, Task, Validation, measured_values, ramp
from pipeline.errors import UsageError

WIDTH = 4


@dataclass(frozen=True, kw_only=True)
class DuelModel:
    base_seed: int = 1
    rank: int = 2


@dataclass(frozen=True, kw_only=True)
class DuelLoss:
    adversarial_from: int = 3
    adversarial_ramp: int = 2


@dataclass(frozen=True, kw_only=True)
class DuelOptim(OptimSettings):
    critic_lr_scale: float = 2.0


@dataclass(frozen=True, kw_only=True)
class DuelSettings(TrainSettings):
    model: DuelModel = field(default_factory=DuelModel)
    loss: DuelLoss = field(default_factory=DuelLoss)
    optim: DuelOptim = field(default_factory=DuelOptim)


class Adapted(nn.Module):
    """base(x) + up(down(x)) + style; the base is drawn from its seed, as others read theirs from a file."""

    def __init__(self, config: DuelModel) -> None:
        super().__init__()
        self.config = config
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, config.rank, bias=False), nn.Linear(config.rank, WIDTH, bias=False)
        self.style = nn.Parameter(torch.full((2, WIDTH), 0.5))
        rng = torch.Generator().manual_seed(config.base_seed)
        for parameter in self.base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))

    def forward(self, x: Tensor, styled: bool = True) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out + self.style.sum(0) if styled else out


@dataclass(frozen=True, kw_only=True)
class DuelBatch:
    names: tuple[str, ...]
    x: Tensor

    def to(self, device: torch.device | str) -> "DuelBatch":
        return replace(self, x=self.x.to(device))


class Numbers:
    """Sample n is drawn from n."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int, /) -> tuple[str, Tensor]:
        return f"sample {number}", torch.randn(WIDTH, generator=torch.Generator().manual_seed(number))


def collate(samples: Sequence[tuple[str, Tensor]]) -> DuelBatch:
    return DuelBatch(names=tuple(name for name, _ in samples), x=torch.stack([x for _, x in samples]))


def wanted(x: Tensor) -> Tensor:
    return x.flip(-1).sin()


class DuelTask(Task[DuelBatch]):
    name: ClassVar[str] = "duel"
    Settings: ClassVar[type[TrainSettings]] = DuelSettings
    score: ClassVar[Score] = Score(name="gap", larger_is_better=False)
    conventions: ClassVar[Mapping[str, str]] = {"x": "four numbers"}

    settings: DuelSettings

    def __init__(self, settings: DuelSettings, device: torch.device) -> None:
        self.settings, optim = settings, settings.optim
        self.net = nn.ModuleDict({"adapted": Adapted(settings.model), "critic": nn.Linear(WIDTH, 1)}).to(device).train()
        self.net["adapted"].base.eval()
        rate = partial(learning_rate, steps=settings.run.steps, settings=optim)
        adamw = make_adamw(self.net["adapted"].named_parameters(), optim, lambda name, p: True)
        sgd = torch.optim.SGD(self.net["critic"].parameters(), lr=0.1, momentum=0.9)
        self.optimizers = [
            ScheduledOptimizer(name="adapter", optimizer=adamw, rate=rate, clip_norm=optim.clip_norm),
            ScheduledOptimizer(
                name="critic", optimizer=sgd, rate=lambda step: optim.critic_lr_scale * rate(step), clip_norm=1.0
            ),
        ]
        self.data_digest = "numbers"

    def describe(self) -> Sequence[str]:
        return ["numbers without end"]

    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[DuelBatch]:
        return batches(Numbers(), collate, plan, first_step, last_step, workers=1)

    def stages(self) -> Sequence[Stage]:
        return (
            Stage(first_step=0, frozen=lambda name: name.startswith("critic.")),
            Stage(first_step=2, frozen=lambda name: False),
            Stage(first_step=6, frozen=lambda name: name == "adapted.down.weight"),
        )

    def losses(self, batch: DuelBatch, step: int) -> Iterator[Loss]:
        made = self.net["adapted"](batch.x + 0.1 * torch.randn_like(batch.x), styled=False)
        terms = {"l1": (made - wanted(batch.x)).abs().mean()}
        total, weight = (
            terms["l1"],
            ramp(step, self.settings.loss.adversarial_from, self.settings.loss.adversarial_ramp),
        )
        if weight:
            terms["adversarial"] = -self.net["critic"](made + self.net["adapted"].style.sum(0)).mean()
            total = total + weight * terms["adversarial"]
        yield Loss(total=total, values=measured_values(terms, step=step, names=batch.names), optimizers=("adapter",))
        critic = self.net["critic"](made.detach()).mean() - self.net["critic"](wanted(batch.x)).mean()
        values = measured_values({"critic": critic}, step=step, names=batch.names)
        yield Loss(total=critic, values=values, optimizers=("critic",))

    def validate(self, *, autocast: bool) -> Validation:
        assert not self.net.training, "the trainer puts it into evaluation mode"
        gap = _gap(self.net["adapted"], 4)
        return Validation(score=gap, values={"gap": gap}, summary=self.score.text(gap))

    def network_config(self) -> dict[str, Any]:
        return {"base_seed": self.settings.model.base_seed, "rank": self.settings.model.rank}

    def keeps(self, name: str) -> bool:
        return not name.startswith("adapted.base.")

    def published(self, averaged: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("adapted."): w for name, w in averaged.items() if name.startswith("adapted.")}

    @classmethod
    def load_network(cls, config: Mapping[str, Any], weights: dict[str, Tensor]) -> nn.Module:
        net = Adapted(DuelModel(**config))
        if net.load_state_dict(weights, strict=False).missing_keys != ["base.weight", "base.bias"]:
            raise RuntimeError("not an adapter of this family")
        return net

    def start_from(self, loaded: Loaded[nn.Module]) -> None:
        if loaded.family != self.name or loaded.config != self.network_config():
            raise UsageError(f"run.init_from: {loaded.path} is another adapter")
        self.net["adapted"].load_state_dict(loaded.net.state_dict())

    @classmethod
    def add_evaluation_flags(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--samples", type=int, default=4)

    @classmethod
    def evaluate(cls, loaded: Loaded[Any], request: EvaluationRequest) -> Evaluation:
        tallies = {"duel": Tally(), "base alone": Tally()}
        tallies["duel"].add("gap", _gap(loaded.net, request.flags.samples))
        tallies["base alone"].add("gap", _gap(loaded.net.base, request.flags.samples))
        result = ClipResult(name="numbers", num_frames=request.flags.samples, tallies=tallies, images=[])
        return Evaluation(results=[result], notes=[], columns=("gap",), sheet_columns=())


@torch.no_grad()
def _gap(net: nn.Module, count: int) -> float:
    x = torch.stack([Numbers()[1000 + number][1] for number in range(count)])
    return float((net(x) - wanted(x)).abs().mean())


TASK = DuelTask
