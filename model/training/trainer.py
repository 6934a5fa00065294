"""The training loop. Accelerate gives devices, processes and precision; the loop itself is plain to read.

Special: a run is a function of its settings. Sample numbers, dropout and the learning rate follow from the step, so a run
that was stopped and resumed takes the same steps as one that was not, with any number of processes up to rounding.
Gradients are averaged in one all-reduce per step rather than by hooks: a clip runs the network once per frame, some
parameters only from the second frame on, and stretches of truncated backpropagation share one step.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from model.bokehflow import BokehFlow
from model.bokehflow.bptt import Measured, backpropagate
from model.bokehflow.losses import BokehLoss
from model.data.build import RunData, build_data
from model.data.loaders import BatchPlan, batches
from model.data.samples import ClipBatch
from model.errors import ADVICE, TrainingDivergedError
from model.evaluation.eval_clips import spread
from model.evaluation.measure import BASELINES, NETWORK, ClipResult, measure_clip, pool
from model.training.checkpoint import (
    BEST_NAME,
    ResumeState,
    find_resume,
    load_model,
    load_resume,
    prune,
    save_checkpoint,
)
from model.training.log import TrainLog
from model.training.optim import Ema, learning_rate, make_optimizer
from model.training.settings import TrainSettings
from pipeline.device import resolve_device
from pipeline.errors import StoppedError, UsageError
from pipeline.reporter import Reporter
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.completion import Fields
from pipeline.storage.files import write_json

# A run that was told to stop leaves this file until it goes on: torchrun turns every exit code into 1, and whoever started it
# may want to know that it can be resumed.
STOPPED_NAME = "stopped.json"
IDENTICAL_DB = 120.0  # stands for infinity where a validation is compared and stored


class Trainer:
    """One run, from its settings to its last checkpoint.

    Args:
        settings: of the run.
        signals: a stop that was asked for is obeyed after the step in progress.

    Raises:
        UsageError: no such device, an empty split, a batch that does not divide, weights that are missing, or a run of other
            settings in out_dir.
    """

    def __init__(self, settings: TrainSettings, signals: StopSignals) -> None:
        self.settings, self._signals = settings, signals
        device = resolve_device(settings.run.device)
        if device not in ("cpu", "cuda"):
            raise UsageError(
                f"run.device must be auto, cpu or cuda, got {device!r}; CUDA_VISIBLE_DEVICES chooses a GPU"
            )
        torch.set_num_threads(settings.run.threads)
        bf16 = settings.run.precision == "bf16" or (settings.run.precision == "auto" and device == "cuda")
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if bf16 else "no")
        self.device, self.is_main = self._accelerator.device, self._accelerator.is_main_process
        self._autocast = bf16
        self._data: RunData = build_data(settings)
        self._plan = BatchPlan(
            batch_size=settings.run.batch_size,
            micro_batch_size=settings.run.micro_batch_size,
            rank=self._accelerator.process_index,
            num_processes=self._accelerator.num_processes,
        )
        self._loss = BokehLoss(settings.loss).to(self.device)
        self._fields = self._resolved_fields()
        self._build()

    def _resolved_fields(self) -> Fields:
        """The settings with what "auto" and weights that are or are not there came to: that decides the losses too."""
        found = self.settings.fields()
        found["loss"]["perceptual"] = self._loss.perceptual
        found["run"]["precision"] = "bf16" if self._autocast else "float32"
        return found

    def _build(self) -> None:
        torch.manual_seed(stable_seed("weights", self.settings.run.seed))
        net = BokehFlow(self.settings.model)
        if self.settings.run.init_from:
            loaded = load_model(Path(self.settings.run.init_from))
            if loaded.net.config != replace(net.config, backend=loaded.net.config.backend):
                raise UsageError(f"run.init_from: {loaded.path} is a network of another config than [model]")
            net.load_state_dict(loaded.net.state_dict())
        self.net = net.to(self.device).train()
        self.ema = Ema(self.net, self.settings.optim.ema_decay)
        self._optimizer = make_optimizer(self.net, self.settings.optim)
        self._shadow = BokehFlow(self.settings.model).to(self.device).eval()  # the averaged weights, for validations
        self._state = ResumeState(step=0, samples=0, fields=self._fields, data=self._data.digest)

    def run(self) -> ResumeState:
        """Train, from the newest whole checkpoint in out_dir if there is one.

        Raises:
            StoppedError: a signal asked for it; everything is saved.
            TrainingDivergedError, InputError: see `model.bokehflow.bptt`.
        """
        out_dir = self.settings.out_dir
        if self.is_main:
            (out_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
            (out_dir / STOPPED_NAME).unlink(missing_ok=True)
        self._accelerator.wait_for_everyone()
        with Reporter("train", out_dir if self.is_main else None) as reporter:
            self._resume(reporter)
            if not self.is_main:
                self._loop(reporter, None)
                return self._state
            self._introduce(reporter)
            with TrainLog(out_dir, self._state.step) as log:
                self._loop(reporter, log)
            best = f", best validation {self._state.best_db:.2f} dB" if self._state.best_db is not None else ""
            reporter.info(f"train: {self._state.step} steps done{best}. Next: python -m model.evaluate {out_dir}")
        return self._state

    def close(self) -> None:
        """Leave the process group, after a run that ended or was stopped; a single process has none."""
        if self._accelerator.num_processes > 1:
            torch.distributed.destroy_process_group()

    def _resume(self, reporter: Reporter) -> None:
        say = reporter.warning if self.is_main else lambda text: None
        found = find_resume(self.settings.out_dir, self._fields, say)
        if found is None:
            return
        folder, state = found
        load_resume(folder, self.net, self.ema, self._optimizer)
        if state.data != self._data.digest:
            say(
                "the training scenes are not those of the checkpoint: the run goes on, and differs from one without a stop"
            )
        self._state = replace(state, data=self._data.digest)
        if self.is_main:
            reporter.info(f"resuming from {folder}")

    def _introduce(self, reporter: Reporter) -> None:
        for line in self._data.lines:
            reporter.info(line)
        if self._loss.notice:
            reporter.info(self._loss.notice)
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        reporter.info(
            f"{parameters / 1e6:.2f} M parameters on {self._accelerator.num_processes} x {self.device.type}, "
            f"{'bf16 autocast' if self._autocast else 'float32'}, steps {self._state.step} to {self.settings.run.steps}"
        )
        write_json(self.settings.out_dir / "settings.json", asdict(self.settings))

    def _loop(self, reporter: Reporter, log: TrainLog | None) -> None:
        run = self.settings.run
        stream = batches(self._data.source, self._plan, self._state.step, run.steps, self.settings.data.workers)
        if self.is_main:
            reporter.begin_progress("train", run.steps, self._state.step)
        busy_s, logged = 0.0, self._state.step
        for step in range(self._state.step, run.steps):
            started = time.monotonic()
            measured, stop = self._step(step, stream)
            busy_s += time.monotonic() - started
            self._state = replace(self._state, step=step + 1, samples=(step + 1) * run.batch_size)
            if log and ((step + 1) % run.log_every == 0 or step + 1 == run.steps):
                frames = (step + 1 - logged) * run.batch_size * self.settings.data.clip_frames
                log.add("train", step, measured.values | {"frames_per_s": round(frames / busy_s, 3)})
                busy_s, logged = 0.0, step + 1
            if self.is_main:
                reporter.advance()
            last = step + 1 == run.steps
            if last or (step + 1) % run.validate_every == 0:
                self._validate(reporter, log)
            if stop or last or _due(step + 1, run.validate_every) or _due(step + 1, run.save_every):
                self._save()
            if stop and not last:
                if self.is_main:
                    write_json(self.settings.out_dir / STOPPED_NAME, {"step": step + 1, "reason": stop})
                raise StoppedError(stop)

    def _step(self, step: int, stream: Iterator[ClipBatch]) -> tuple[Measured, str]:
        """One optimiser step; the means of what was measured over all processes, and why to stop, if so."""
        settings = self.settings
        self._optimizer.zero_grad(set_to_none=True)
        measured = Measured()
        samples: list[str] = []
        for numbers in self._plan.numbers(step):
            batch = next(stream).to(self.device)
            samples += batch.names
            torch.manual_seed(stable_seed("dropout", settings.run.seed, numbers[0]))
            with self._accelerator.autocast():
                part = backpropagate(
                    self.net,
                    self._loss,
                    batch,
                    step=step,
                    backprop_frames=settings.backprop_frames,
                    weight=1 / self._plan.micro_batches,
                )
            measured.add(part.values, 1.0)
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), settings.optim.clip_norm)
        if not bool(torch.isfinite(norm)):
            bad = [
                n for n, p in self.net.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
            ]
            raise TrainingDivergedError(
                f"step {step}: the gradient of {bad[0] if bad else 'all parameters together'} is not a finite number; "
                f"samples of this process: {'; '.join(samples)}. {ADVICE}"
            )
        rate = learning_rate(step, settings.run.steps, settings.optim)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self._optimizer.step()
        self.ema.update(self.net, step)
        stop = self._agree(measured)
        measured.values |= {"grad_norm": float(norm), "lr": rate}
        return measured, stop

    def _average_gradients(self) -> None:
        """The mean over processes, as one flat all-reduce; a parameter that a process did not use counts as 0 there."""
        if self._accelerator.num_processes == 1:
            return
        parameters = list(self.net.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        pieces: list[Tensor] = list(flat.split([p.numel() for p in parameters]))
        for p, piece in zip(parameters, pieces, strict=True):
            p.grad = piece.view_as(p).clone()

    def _agree(self, measured: Measured) -> str:
        """Average what was measured over processes, and stop all of them when one was told to."""
        received = self._signals.received or ""
        if self._accelerator.num_processes == 1:
            return received
        names = sorted(measured.values)
        mine = torch.tensor([float(bool(received)), *(measured.values[n] for n in names)], device=self.device)
        means = self._accelerator.reduce(mine, "mean").tolist()
        measured.values = dict(zip(names, means[1:], strict=True))
        return received or ("another process was told to stop" if means[0] > 0 else "")

    def _validate(self, reporter: Reporter, log: TrainLog | None) -> None:
        """The averaged weights on takes of the validation split; the main process measures, the others wait."""
        if log is not None:
            self.ema.copy_to(self._shadow)
            try:
                results: list[ClipResult] = [
                    measure_clip(
                        self._shadow,
                        take,
                        device=self.device,
                        autocast=self._autocast,
                        baselines=BASELINES[:1],
                        max_frames=self.settings.run.val_frames,
                    )
                    for take in spread(self._data.takes, self.settings.run.val_clips)
                ]
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"step {self._state.step}, validation: {error}. {ADVICE}") from None
            scores = pool(results)
            found, plain = scores[NETWORK], scores[BASELINES[0]]
            score = found["psnr_db"] if found["psnr_db"] is not None else IDENTICAL_DB
            if self._state.best_db is None or score > self._state.best_db:
                self._state = replace(self._state, best_db=score, best_step=self._state.step)
            log.add("validation", self._state.step - 1, found | {"psnr_unchanged_db": plain["psnr_db"]})
            path = log.sheet(self._state.step, [(result.name, result.pictures) for result in results])
            reporter.info(
                f"step {self._state.step}: validation {score:.2f} dB (unchanged frame {_decibels(plain['psnr_db'])}), {path}"
            )
        self._accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.is_main:
            out_dir = self.settings.out_dir
            save_checkpoint(out_dir, self.net, self.ema, self._optimizer, self._state)
            if self._state.best_step == self._state.step:
                write_json(out_dir / BEST_NAME, {"step": self._state.best_step, "psnr_db": self._state.best_db})
            prune(out_dir, self.settings.run.keep_last, self._state.step, self._state.best_step)
        self._accelerator.wait_for_everyone()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"
