"""LIFT as the trainer sees it: one network, three optimisers with rates of their own, clips and moving photographs."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.data.loaders import BatchPlan, batches
from model.evaluation.scores import Evaluation, EvaluationRequest, NetworkPage
from model.lift.blocks import lengths
from model.lift.config import LiftConfig
from model.lift.data import RunData, build_data
from model.lift.losses import LiftLoss
from model.lift.network import LiftNet
from model.lift.pretrained import load_partial
from model.lift.samples import LiftBatch, collate
from model.lift.settings import LiftSettings
from model.training.network_file import Loaded, take_weights
from model.training.optim import learning_rate, make_adamw
from model.training.settings import TrainSettings
from model.training.task import Loss, ScheduledOptimizer, Score, Stage, Task, Validation, measured_values
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

FAMILY = "lift"
CONVENTIONS = {
    "frames": "sRGB in [0, 1]; any order",
    "offsets": "time from the target; dense -2, -1, +1, +2 in frames; uniform -1.5, -0.5, +0.5, +1.5 in kept frames",
    "t": "the target's instant between its neighbours: 0 at the one before, 1 at the one after",
    "flows_s4": "pixels at 1/4 size, from the target to the neighbour before (x, y) and after (x, y)",
    "occlusion_s4": "1 where the neighbour shows what the target shows",
}
# The published schedule is 50 epochs: to the end of the 10th and of the 30th, as shares of the run
_FIRST, _SECOND = 0.2, 0.6
_THAWED = ("encoder.last.", "encoder.stages.3.", "encoder.stages.2.", "encoder.stages.1.")  # from the deepest
_S1 = ("encoder.stages.0.", "refinement.from_s4.")  # the full-size tap


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels."""
    return parameter.ndim >= 2


def part_of(name: str) -> str:
    """Whose rate a parameter has: "s1", "encoder" or "rest"."""
    if name.startswith(_S1):
        return "s1"
    return "encoder" if name.startswith("encoder.") else "rest"


class LiftTask(Task[LiftBatch]):
    """See `Task`; the published weights are the averaged ones as they are."""

    name: ClassVar[str] = FAMILY
    Settings: ClassVar[type[TrainSettings]] = LiftSettings
    score: ClassVar[Score] = Score(name="psnr_db", unit="dB")
    conventions: ClassVar[Mapping[str, str]] = CONVENTIONS

    settings: LiftSettings
    net: LiftNet

    def __init__(self, settings: LiftSettings, device: torch.device) -> None:
        self.settings, self._device = settings, device
        run, optim = settings.run, settings.optim
        self.data: RunData = build_data(settings)
        self.net = LiftNet(settings.model).to(device).train()
        if self.net.temporal is not None:
            self.net.temporal.checkpointing = run.checkpointing
        given = settings.pretrained
        self._taken = load_partial(self.net, Path(given.weights), given.pairs()) if given.weights else []
        self._total = len(self.net.state_dict())
        self.loss = LiftLoss(settings.loss).to(device)
        self.optimizers = []
        for part in ("rest", "encoder", "s1"):
            named = [(name, p) for name, p in self.net.named_parameters() if part_of(name) == part]
            adamw = make_adamw(named, optim, decays)
            self.optimizers.append(
                ScheduledOptimizer(name=part, optimizer=adamw, rate=self._rate(part), clip_norm=optim.clip_norm)
            )
        self.data_digest = self.data.digest
        if not any(name.startswith(optim.only) for name, _ in self.net.named_parameters()):
            raise UsageError(f"optim.only: no parameter's name begins with {optim.only!r}")

    def _rate(self, part: str) -> Callable[[int], float]:
        optim, steps = self.settings.optim, self.settings.run.steps
        own = optim.s1_lr_scale if part == "s1" else 1.0
        if optim.schedule == "cosine":
            return lambda step: own * learning_rate(step, steps, optim)

        def published(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
            late = step >= _SECOND * steps
            slow = optim.encoder_lr_scale if late or part == "encoder" else 1.0
            return own * warm * slow * optim.lr

        return published

    def stages(self) -> Sequence[Stage]:
        """The encoder stands still first, and thaws from the deepest stage, if pretrained weights were loaded into it."""
        only = self.settings.optim.only
        if only:
            return (Stage(first_step=0, frozen=lambda name: not name.startswith(only)),)
        if self.settings.optim.schedule != "published" or not any(part_of(name) == "encoder" for name in self._taken):
            return ()
        steps = self.settings.run.steps
        first, length = round(_FIRST * steps), (_SECOND - _FIRST) * steps
        found = [Stage(first_step=0, frozen=lambda name: part_of(name) == "encoder")]
        for number in range(len(_THAWED)):
            still = _THAWED[number + 1 :]
            start = first + round(number * length / (2 * len(_THAWED)))  # all of it by the middle of the second part
            found.append(Stage(first_step=start, frozen=partial(_begins, still)))
        return found

    def describe(self) -> Sequence[str]:
        lines = [*self.data.lines, *([self.loss.notice] if self.loss.notice else [])]
        if self._taken:
            encoder = sum(part_of(name) == "encoder" for name in self._taken)
            found = f"{len(self._taken)} of {self._total} tensors matched"
            lines.append(f"pretrained: {found}, {encoder} of them in the encoder below full size")
        return lines

    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[LiftBatch]:
        return batches(self.data.source, collate, plan, first_step, last_step, self.settings.data.workers)

    def losses(self, batch: LiftBatch, step: int) -> Iterator[Loss]:
        out = self.net(batch.frames, batch.offsets, batch.present, batch.t)
        terms, total = self.loss(out, batch)
        spread_of_alpha = (-(out.alpha * (out.alpha + 1e-9).log()).sum(1)).exp().mean()
        facts = {
            "flow_px": lengths(out.flows_s4.detach().float()).mean() * 4,
            "frames_used": spread_of_alpha,  # perplexity of alpha: how many frames the context is made of
            "visible": out.occlusion_s4.mean(),
        }
        yield Loss(total=total, values=measured_values(terms, step=step, names=batch.names, facts=facts))

    def validate(self, *, autocast: bool) -> Validation:
        """PSNR of targets of the validation clips, the mean over targets, beside the mean of the neighbours."""
        from model.lift.measure import validate_targets

        return validate_targets(self.net, self.data.validation, self._device, autocast, self.score)

    def trained_on(self) -> dict[str, str | int]:
        return self.data.seen

    def fields(self) -> Fields:
        """With the weight that the perceptual term really has: it depends on a file being there."""
        found = self.settings.fields()
        found["loss"]["perceptual"] = self.loss.perceptual
        return found

    def network_config(self) -> dict[str, Any]:
        return self.net.config.to_dict()

    @classmethod
    def load_network(cls, config: Mapping[str, Any], weights: dict[str, Tensor]) -> nn.Module:
        net = LiftNet(LiftConfig.from_dict(config))
        net.load_state_dict(weights)
        return net

    def start_from(self, loaded: Loaded[nn.Module]) -> None:
        take_weights(self.net, loaded, eq)

    @classmethod
    def add_evaluation_flags(cls, parser: ArgumentParser) -> None:
        from model.lift.evaluation import add_flags

        add_flags(parser)

    @classmethod
    def evaluate(cls, loaded: Loaded[Any], request: EvaluationRequest) -> Evaluation:
        from model.lift.evaluation import evaluate_lift

        return evaluate_lift(loaded, request)

    @classmethod
    def page(cls) -> NetworkPage:
        from model.lift.evaluation import report_page

        return report_page()


def _begins(prefixes: tuple[str, ...], name: str) -> bool:
    return name.startswith(prefixes)


TASK = LiftTask
