"""BokehDiff as the trainer sees it: an adapter, three parts of a VAE and a discriminator, each with an optimiser of its own."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.bokehdiff.config import TRAINING_POINTS, TRAINING_SPREAD, BokehDiffConfig
from model.bokehdiff.discriminator import Discriminator, discriminator_loss
from model.bokehdiff.losses import BokehDiffLoss
from model.bokehdiff.network import BokehDiffNet, find_base
from model.bokehdiff.samples import PairBatch, collate
from model.bokehdiff.settings import BokehDiffSettings
from model.bokehdiff.sources import RunData, build_data
from model.data.loaders import BatchPlan, batches
from model.evaluation.scores import Evaluation, EvaluationRequest, NetworkPage
from model.training.network_file import Loaded
from model.training.optim import learning_rate, make_adamw
from model.training.settings import TrainSettings
from model.training.task import Loss, ScheduledOptimizer, Score, Task, Validation, measured_values
from pipeline.engines.bokehdiff.pisa import training_contrast
from pipeline.errors import UsageError
from pipeline.storage.completion import Fields

FAMILY = "bokehdiff"
CONVENTIONS = {
    "names": "unet. and vae. before the names of pytorch_lora_weights.safetensors and vae.ckpt",
    "disparity": "in [0, 1], near = large; where depth is known, over that of the nearest point of the picture",
    "gain_px": "radius in pixels per disparity",
    "pictures": "sRGB in [-1, 1] inside, t = 499, no noise",
}
_NET = "bokehdiff."


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels, the adapter's among them."""
    return parameter.ndim >= 2


class BokehDiffTask(Task[PairBatch]):
    """See `Task`."""

    name: ClassVar[str] = FAMILY
    Settings: ClassVar[type[TrainSettings]] = BokehDiffSettings
    score: ClassVar[Score] = Score(name="psnr_db", unit="dB")
    conventions: ClassVar[Mapping[str, str]] = CONVENTIONS

    settings: BokehDiffSettings
    net: nn.ModuleDict

    def __init__(self, settings: BokehDiffSettings, device: torch.device) -> None:
        self.settings, self._device = settings, device
        base = find_base(settings.model.base)
        self.data: RunData = build_data(settings.wanted())
        net = BokehDiffNet(settings.model, base, settings.run.prompt_cache)
        if settings.run.checkpointing:
            net.unet.enable_gradient_checkpointing()
        self.loss = BokehDiffLoss(settings.loss).to(device)
        modules: dict[str, nn.Module] = {"bokehdiff": net}
        if self.loss.trunk is not None:
            modules["discriminator"] = Discriminator(self.loss.trunk.channels)
        self.net = nn.ModuleDict(modules).to(device).train()
        self.optimizers = self._optimizers(net)
        self._generator = tuple(item.name for item in self.optimizers if item.name != "discriminator")
        self._kept = {f"{_NET}{name}" for name in net.names}
        self.data_digest = self.data.digest

    def _optimizers(self, net: BokehDiffNet) -> list[ScheduledOptimizer]:
        optim, steps = self.settings.optim, self.settings.run.steps
        trained = {name: p for name, p in net.named_parameters() if name in net.names}
        parts = {
            "adapter": ({name: p for name, p in trained.items() if not name.startswith("vae.")}, 1.0),
            "vae": ({name: p for name, p in trained.items() if name.startswith("vae.")}, optim.vae_lr_scale),
        }
        if "discriminator" in self.net:
            judged = dict(self.net["discriminator"].named_parameters())
            parts["discriminator"] = (judged, optim.discriminator_lr_scale)
        return [
            ScheduledOptimizer(
                name=name,
                optimizer=make_adamw(some.items(), optim, decays, eps=optim.eps),
                rate=partial(_scaled_rate, scale, steps, self.settings),
                clip_norm=optim.clip_norm,
            )
            for name, (some, scale) in parts.items()
            if some
        ]

    def describe(self) -> Sequence[str]:
        net: Any = self.net["bokehdiff"]
        trained = sum(p.numel() for name, p in net.named_parameters() if name in net.names)
        config = self.settings.model
        what = f"LoRA of rank {config.rank}" if config.adapt == "lora" else "all weights"
        lines = [*self.data.lines, f"{what} on {net.base.folder}: {trained / 1e6:.2f} M parameters train"]
        return [*lines, *([self.loss.notice] if self.loss.notice else [])]

    def batches(self, plan: BatchPlan, first_step: int, last_step: int) -> Iterator[PairBatch]:
        return batches(self.data.source, collate, plan, first_step, last_step, self.settings.data.workers)

    def losses(self, batch: PairBatch, step: int) -> Iterator[Loss]:
        contrast = training_contrast(step)
        pisa = replace(self.settings.model.conventions(contrast), points=TRAINING_POINTS, spread=TRAINING_SPREAD)
        sharp, bokeh = batch.sharp * 2 - 1, batch.bokeh * 2 - 1
        made = self.net["bokehdiff"](sharp, batch.defocus, pisa)
        judge = next((net for name, net in self.net.items() if name == "discriminator"), None)
        with torch.autocast(bokeh.device.type, enabled=False):
            made = made.float()
            found = self.loss(made, bokeh, sharp, step, judge)
            facts = {"unchanged_mse": (sharp - bokeh).square().mean(), "contrast": made.new_tensor(contrast)}
            values = measured_values(found.terms, step=step, names=batch.names, facts=facts)
            yield Loss(total=found.total, values=values, optimizers=self._generator)
            if judge is not None:
                told = discriminator_loss(judge, found.real, found.fake)
                values = measured_values({"discriminator": told}, step=step, names=batch.names)
                yield Loss(total=told, values=values, optimizers=("discriminator",))

    def validate(self, *, autocast: bool) -> Validation:
        """PSNR of held-out pairs, and of frames of validation scenes, through the engine's code."""
        from model.bokehdiff.measure import validate

        net: Any = self.net["bokehdiff"]
        return validate(net, self.data.validation, self.score, self.settings.run.val_contrast, self._device)

    def keeps(self, name: str) -> bool:
        return name in self._kept or name.startswith("discriminator.")

    def published(self, averaged: dict[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.net["bokehdiff"]
        return {there: averaged[f"{_NET}{here}"] for here, there in net.names.items()}

    def trained_on(self) -> Mapping[str, str | int]:
        return self.data.seen

    def fields(self) -> Fields:
        """With the base's content, and the weight that ST-LPIPS really has: it depends on a file being there."""
        found, net = self.settings.fields(), self.net["bokehdiff"]
        assert isinstance(net, BokehDiffNet)
        found["model"]["base_sha256"] = net.base.sha256
        found["loss"]["lpips"] = self.loss.lpips
        return found

    def network_config(self) -> dict[str, Any]:
        net: Any = self.net["bokehdiff"]
        contrast = self.settings.run.val_contrast  # whoever uses the network wants the hardness that it was judged with
        return {**self.settings.model.to_dict(), "base_sha256": net.base.sha256, "contrast": contrast}

    @classmethod
    def load_network(cls, config: Mapping[str, Any], weights: dict[str, Tensor]) -> nn.Module:
        values = dict(config)
        digest, _ = values.pop("base_sha256"), values.pop("contrast")
        wanted = BokehDiffConfig.from_dict(values)
        base = find_base(wanted.base)
        if base.sha256 != digest:
            raise UsageError(f"it was trained on another SDXL than {base.folder} holds; put that one there")
        net = BokehDiffNet(wanted, base)
        net.take(weights)
        return net

    def start_from(self, loaded: Loaded[nn.Module]) -> None:
        net: Any = self.net["bokehdiff"]
        if not isinstance(loaded.net, BokehDiffNet) or loaded.net.names != net.names:
            raise UsageError(f"run.init_from: {loaded.path} trains other parts than [model] says")
        given = dict(loaded.net.named_parameters())
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name in net.names:
                    parameter.copy_(given[name])

    @classmethod
    def add_evaluation_flags(cls, parser: ArgumentParser) -> None:
        from model.bokehdiff.evaluation import add_flags

        add_flags(parser)

    @classmethod
    def evaluate(cls, loaded: Loaded[Any], request: EvaluationRequest) -> Evaluation:
        from model.bokehdiff.evaluation import evaluate_bokehdiff

        return evaluate_bokehdiff(loaded, request)

    @classmethod
    def page(cls) -> NetworkPage:
        from model.bokehdiff.evaluation import report_page

        return report_page()


def _scaled_rate(scale: float, steps: int, settings: BokehDiffSettings, step: int) -> float:
    return scale * learning_rate(step, steps, settings.optim)


TASK = BokehDiffTask
