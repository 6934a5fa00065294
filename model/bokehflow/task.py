"""BokehFlow as the trainer sees it: one network, one optimiser, clips of generated scenes or pairs of photographs."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from model.bokehflow.bptt import clip_losses
from model.bokehflow.checkpoint import CONVENTIONS, FAMILY, network_from, same_network
from model.bokehflow.data import RunData, build_data
from model.bokehflow.evaluation import add_flags, evaluate_bokehflow, report_page
from model.bokehflow.losses import BokehLoss
from model.bokehflow.measure import BASELINES, NETWORK, SHEET_COLUMNS, TRUE_DEPTH, measure_clip
from model.bokehflow.network import BokehFlow
from model.bokehflow.settings import BokehFlowSettings
from model.data.loaders import BatchPlan, batches
from model.data.samples import ClipBatch, collate
from model.evaluation.eval_clips import spread
from model.evaluation.scores import Evaluation, EvaluationRequest, NetworkPage, pool
from model.evaluation.visualize import sheet_png
from model.training.network_file import Loaded, take_weights
from model.training.optim import learning_rate, make_adamw
from model.training.settings import TrainSettings
from model.training.task import Loss, ScheduledOptimizer, Score, Task, Validation
from pipeline.seeds import stable_seed
from pipeline.storage.completion import Fields

IDENTICAL_DB = 120.0  # stands for infinity where a validation is compared and stored
# Parts of parameter names: scales and shifts, gates (a gate pulled to 0 is half open, which means nothing), learned states.
_NO_DECAY = ("norm", "bias", "gate", "floor", "keep", "initial", "logit")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels that are neither norms, biases nor gates."""
    return parameter.ndim >= 2 and not any(part in name for part in _NO_DECAY)


class BokehFlowTask(Task[ClipBatch]):
    """See `Task`; the published weights are the averaged ones as they are."""

    name: ClassVar[str] = FAMILY
    Settings: ClassVar[type[TrainSettings]] = BokehFlowSettings
    score: ClassVar[Score] = Score(name="psnr_db", unit="dB")
    conventions: ClassVar[Mapping[str, str]] = CONVENTIONS

    settings: BokehFlowSettings
    net: BokehFlow

    def __init__(self, settings: BokehFlowSettings, device: torch.device) -> None:
        self.settings, self._device = settings, device
        data, run, optim = settings.data, settings.run, settings.optim
        self.data: RunData = build_data(
            data.kind, Path(data.root), data.train_split, data.val_split, data.clip(run.seed), settings.model.coc_model
        )
        self.net = BokehFlow(settings.model).to(device).train()
        self.loss = BokehLoss(settings.loss).to(device)
        adamw = make_adamw(self.net.named_parameters(), optim, decays)
        rate = partial(learning_rate, steps=run.steps, settings=optim)
        self.optimizers = [
            ScheduledOptimizer(name=FAMILY, optimizer=adamw, rate=rate, clip_norm=optim.clip_norm),
        ]
        self.data_digest, self.frames_per_sample = self.data.digest, data.clip_frames

    def describe(self) -> Sequence[str]:
        return [*self.data.lines, *([self.loss.notice] if self.loss.notice else [])]

    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        return batches(self.data.source, collate, plan, first_step, last_step, self.settings.data.workers)

    def losses(self, batch: ClipBatch, step: int) -> Iterator[Loss]:
        run = self.settings.run
        drawn = np.random.Generator(np.random.PCG64(stable_seed("given depth", run.seed, step, *batch.names))).random()
        given = batch.depth_m is not None and drawn < run.given_depth
        frames = self.settings.backprop_frames
        return clip_losses(self.net, self.loss, batch, step=step, backprop_frames=frames, given=given)

    def validate(self, *, autocast: bool) -> Validation:
        """PSNR pooled over clips of the validation split, beside the unchanged frame's.

        Of a run that is also handed true depth, the mean of that and of PSNR with predicted depth, in dB.
        """
        run = self.settings.run
        results = [
            measure_clip(
                self.net,
                clip,
                device=self._device,
                autocast=autocast,
                baselines=BASELINES[:1],
                given=run.given_depth > 0,
                max_frames=run.val_frames,
            )
            for clip in spread(self.data.clips, run.val_clips)
        ]
        scores = pool(results)
        plain = scores[BASELINES[0]]["psnr_db"]
        found = {name: scores[name]["psnr_db"] for name in (NETWORK, TRUE_DEPTH) if name in scores}
        score = sum(IDENTICAL_DB if value is None else value for value in found.values()) / len(found)
        values = scores[NETWORK] | {"psnr_unchanged_db": plain}
        values |= {f"true_depth_{name}": value for name, value in scores.get(TRUE_DEPTH, {}).items()}
        said = ", ".join(f"{name} {_decibels(value)}" for name, value in found.items())
        return Validation(
            score=score,
            values=values,
            summary=f"{said} (unchanged frame {_decibels(plain)})",
            sheet=sheet_png([(result.name, result.images) for result in results], SHEET_COLUMNS),
        )

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
        return network_from(config, weights)

    def start_from(self, loaded: Loaded[nn.Module]) -> None:
        take_weights(self.net, loaded, same_network)

    @classmethod
    def add_evaluation_flags(cls, parser: ArgumentParser) -> None:
        add_flags(parser)

    @classmethod
    def evaluate(cls, loaded: Loaded[Any], request: EvaluationRequest) -> Evaluation:
        return evaluate_bokehflow(loaded, request)

    @classmethod
    def page(cls) -> NetworkPage:
        return report_page()


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"


TASK = BokehFlowTask
