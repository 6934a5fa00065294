"""FocusMamba as a `Task`: network, samples, losses and measures for the trainer and the commands around it."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.data.loaders import BatchPlan, batches
from model.evaluation.eval_clips import spread
from model.evaluation.scores import Evaluation, EvaluationRequest, NetworkPage, pool
from model.evaluation.visualize import sheet_png
from model.focusmamba.checkpoint import CONVENTIONS, FAMILY, network_from, same_network
from model.focusmamba.data import FocusBatch, FocusData, build_data, collate
from model.focusmamba.evaluation import add_flags, evaluate_focusmamba, report_page
from model.focusmamba.losses import FocusLoss
from model.focusmamba.measure import NETWORK, SHEET_COLUMNS, Condition, measure_clip
from model.focusmamba.network import FocusMamba, FocusOutput
from model.focusmamba.settings import FocusMambaSettings
from model.focusmamba.state import FocusState
from model.training.network_file import Loaded, take_weights
from model.training.optim import learning_rate, make_adamw
from model.training.settings import TrainSettings
from model.training.task import Loss, ScheduledOptimizer, Score, Task, Validation, measured_values
from pipeline.errors import InputError

# Parts of parameter names: scales and shifts, gates (a gate pulled to 0 is half open, which means nothing), learned states.
_NO_DECAY = ("norm", "bias", "gate", "floor", "keep", "initial")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels that are neither norms, biases nor gates."""
    return parameter.ndim >= 2 and not any(part in name for part in _NO_DECAY)


def check_batch(batch: FocusBatch) -> None:
    """InputError, with the sample's name, when a photograph or a label is not a number."""
    for name in ("photos", "frames", "signed_px"):
        values: Tensor = getattr(batch, name)
        bad = [sample for sample, one in zip(batch.names, values, strict=True) if not bool(torch.isfinite(one).all())]
        if bad:
            raise InputError(f"{name} of {'; '.join(bad)} holds NaN or Inf")


class FocusMambaTask(Task[FocusBatch]):
    """See `Task`; the published weights are the averaged ones as they are."""

    name: ClassVar[str] = FAMILY
    Settings: ClassVar[type[TrainSettings]] = FocusMambaSettings
    score: ClassVar[Score] = Score(name="mae_px", unit="px", larger_is_better=False)
    conventions: ClassVar[Mapping[str, str]] = CONVENTIONS

    settings: FocusMambaSettings
    net: FocusMamba

    def __init__(self, settings: FocusMambaSettings, device: torch.device) -> None:
        self.settings, self._device = settings, device
        data, run, optim = settings.data, settings.run, settings.optim
        photographs = Path(data.photographs) if data.photographs else None
        self.data: FocusData = build_data(
            data.roots,
            data.train_split,
            data.val_split,
            photographs,
            data.clip(run.seed),
            settings.augment,
        )
        self.net = FocusMamba(settings.model).to(device).train()
        self.loss = FocusLoss(settings.loss, run.steps, settings.model.max_radius_px)
        adamw = make_adamw(self.net.named_parameters(), optim, decays)
        rate = partial(learning_rate, steps=run.steps, settings=optim)
        self.optimizers = [
            ScheduledOptimizer(name=FAMILY, optimizer=adamw, rate=rate, clip_norm=optim.clip_norm),
        ]
        self.data_digest, self.frames_per_sample = self.data.digest, data.clip_frames

    def describe(self) -> Sequence[str]:
        return self.data.lines

    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[FocusBatch]:
        return batches(self.data.source, collate, plan, first_step, last_step, self.settings.data.workers)

    def losses(self, batch: FocusBatch, step: int) -> Iterator[Loss]:
        check_batch(batch)
        state: FocusState | None = None
        outputs: list[FocusOutput] = []
        for t in range(batch.photos.shape[1]):
            out, state = self.net(batch.photos[:, t], state)
            outputs.append(out)
        assert state is not None, "a clip has at least one frame"
        terms = self.loss(outputs, batch, step)
        facts = {
            "mae_px": (outputs[-1].magnitude_px - batch.signed_px[:, -1].abs()).abs().mean(),
            "state_norm": state.largest_norm(),
        }
        values = measured_values({**terms.values, "loss": terms.total}, step=step, names=batch.names, facts=facts)
        yield Loss(total=terms.total, values=values)

    def validate(self, *, autocast: bool) -> Validation:
        """The error of the radius on noisy photographs of the validation split."""
        run = self.settings.run
        condition = Condition(noise=run.val_noise)
        results = [
            measure_clip(self.net, clip, condition, device=self._device, autocast=autocast, max_frames=run.val_frames)
            for clip in spread(self.data.clips, run.val_clips)
        ]
        found = pool(results)[NETWORK]
        score = found["mae_px"]
        assert score is not None, "every frame has an error"
        return Validation(
            score=score,
            values=found,
            summary=f"{score:.3f} px, AUROC {_figure(found.get('auroc'))}",
            sheet=sheet_png([(result.name, result.images) for result in results], SHEET_COLUMNS),
        )

    def trained_on(self) -> dict[str, str | int]:
        return self.data.seen

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
        return evaluate_focusmamba(loaded, request)

    @classmethod
    def page(cls) -> NetworkPage:
        return report_page()


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


TASK = FocusMambaTask
