"""The training loop, for any network family. Accelerate gives devices, processes and precision; the loop is plain to read.

Special: a run is a function of its settings. Sample numbers, dropout, stages and learning rates follow from the step, so a run
that was stopped and resumed takes the same steps as one that was not, with any number of processes up to rounding.
Gradients are averaged in one all-reduce per step rather than by hooks: a clip may run the network once per frame, some
parameters only from the second frame on, and several losses share one step.
What is trained and measured is a `Task`'s to say; nothing here knows a network.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from model.data.loaders import BatchPlan
from model.errors import ADVICE, TrainingDivergedError
from model.training.checkpoint import (
    SETTINGS_NAME,
    STOPPED_NAME,
    ResumeState,
    find_resume,
    load_resume,
    note_best,
    prune,
    save_checkpoint,
    sweep,
)
from model.training.families import task_class
from model.training.gradients import Measured, average_over_processes, backpropagate, clip, parameters_of
from model.training.log import TrainLog
from model.training.network_file import load_model
from model.training.optim import Ema
from model.training.settings import TrainSettings
from model.training.task import Batch, Task
from pipeline.device import resolve_device
from pipeline.errors import StoppedError, UsageError
from pipeline.hints import command
from pipeline.reporter import Reporter
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.completion import Fields
from pipeline.storage.files import Fence, no_fence, write_json
from pipeline.storage.lease import Lease

WAIT_LIMIT = timedelta(days=1)


class Trainer:
    """One run, from its settings to its last checkpoint.

    Args:
        settings: of the run; they name the family.
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
        # A group of its own for waiting: collectives of training fail after minutes, so that a dead process is noticed, and
        # a validation or a slow disk may take hours. A process that dies breaks this one's connections at once.
        several = self._accelerator.num_processes > 1
        self._waiting = torch.distributed.new_group(backend="gloo", timeout=WAIT_LIMIT) if several else None
        self._fence: Fence = no_fence
        self.device, self.is_main = self._accelerator.device, self._accelerator.is_main_process
        self._autocast = bf16
        self._plan = BatchPlan(
            batch_size=settings.run.batch_size,
            micro_batch_size=settings.run.micro_batch_size,
            rank=self._accelerator.process_index,
            num_processes=self._accelerator.num_processes,
        )
        torch.manual_seed(stable_seed("weights", settings.run.seed))
        self.task: Task[Any] = task_class(settings.task)(settings, self.device)
        start = load_model(Path(settings.run.init_from)) if settings.run.init_from else None
        if start is not None:
            self.task.start_from(start)
        self._start_digest = "" if start is None else start.digest
        self.net = self.task.net
        self._parameters = parameters_of(self.net, self.task.optimizers)
        self.ema = Ema(self.net, settings.optim.ema_decay, self.task.keeps)
        self._fields = self._resolved_fields()
        self._state = ResumeState(
            step=0, samples=0, fields=self._fields, data=self.task.data_digest, family=settings.task
        )

    def _resolved_fields(self) -> Fields:
        """The task's settings, with what the precision came to: that decides the losses too."""
        found = self.task.fields()
        found["run"]["precision"] = "bf16" if self._autocast else "float32"
        if self._start_digest:  # the weights, wherever they lie
            found["run"]["init_from"] = self._start_digest
        if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.net.modules()):
            # What is dropped is drawn for a micro-batch as a whole.
            found["run"]["micro_batch_size"] = self.settings.run.micro_batch_size
        return found

    def run(self) -> ResumeState:
        """Train, from the newest whole checkpoint in out_dir if there is one.

        Raises:
            StoppedError: a signal asked for it; everything is saved.
            TrainingDivergedError, InputError: values that are not numbers, see `Task.losses`; data that cannot be read.
            LeaseHeldError, LeaseLostError: another run is at work in out_dir, or took it over.
        """
        with contextlib.ExitStack() as stack:
            if self.is_main:
                out_dir = self.settings.out_dir
                (out_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
                lease = stack.enter_context(Lease(out_dir / "train.lease", self._safe_point))
                self._fence = lease.check
                sweep(out_dir)
                (out_dir / STOPPED_NAME).unlink(missing_ok=True)
            self._wait()
            return self._run()

    def _safe_point(self) -> None:
        if self._signals.received:
            raise StoppedError(self._signals.received)

    def _wait(self) -> None:
        """Until all processes are here, however long one of them takes."""
        if self._waiting is not None:
            torch.distributed.barrier(group=self._waiting)

    def _run(self) -> ResumeState:
        out_dir = self.settings.out_dir
        with Reporter("train", out_dir if self.is_main else None) as reporter:
            self._resume(reporter)
            if not self.is_main:
                self._loop(reporter, None)
                return self._state
            self._introduce(reporter)
            note_best(out_dir, self.task.score.name, self._state, self._fence)
            with TrainLog(out_dir, self._state.step, self._fence) as log:
                self._loop(reporter, log)
            score = self._state.best_score
            best = "" if score is None else f", best validation {self.task.score.text(score)}"
            reporter.info(
                f"train: {self._state.step} steps done{best}. Next: {command('model.evaluate', str(out_dir))}"
            )
        return self._state

    def close(self) -> None:
        """Leave the process group, after a run that ended or was stopped; a single process has none."""
        if self._accelerator.num_processes > 1:
            torch.distributed.destroy_process_group()

    def _resume(self, reporter: Reporter) -> None:
        say = reporter.warning if self.is_main else lambda text: None
        found = find_resume(self.settings.out_dir, self._fields, say, self.settings.task)
        if found is None:
            return
        folder, state = found
        load_resume(folder, self.task, self.ema)
        if state.data != self.task.data_digest:
            say(
                "the training data are not those of the checkpoint: the run goes on, and differs from one without a stop"
            )
        self._state = replace(state, data=self.task.data_digest)
        if self.is_main:
            reporter.info(f"resuming from {folder}")

    def _introduce(self, reporter: Reporter) -> None:
        for line in self.task.describe():
            reporter.info(line)
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        reporter.info(
            f"{parameters / 1e6:.2f} M parameters on {self._accelerator.num_processes} x {self.device.type}, "
            f"{'bf16 autocast' if self._autocast else 'float32'}, steps {self._state.step} to {self.settings.run.steps}"
        )
        write_json(self.settings.out_dir / SETTINGS_NAME, asdict(self.settings), self._fence)

    def _loop(self, reporter: Reporter, log: TrainLog | None) -> None:
        run = self.settings.run
        stream = self.task.batches(self._plan, self._state.step, run.steps)
        if self.is_main:
            reporter.begin_progress("train", run.steps, self._state.step)
        busy_s, logged = 0.0, self._state.step
        for step in range(self._state.step, run.steps):
            started = time.monotonic()
            measured, stop = self._step(step, stream)
            busy_s += time.monotonic() - started
            self._state = replace(self._state, step=step + 1, samples=(step + 1) * run.batch_size)
            if log and ((step + 1) % run.log_every == 0 or step + 1 == run.steps):
                frames = (step + 1 - logged) * run.batch_size * self.task.frames_per_sample
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
                    write_json(self.settings.out_dir / STOPPED_NAME, {"step": step + 1, "reason": stop}, self._fence)
                raise StoppedError(stop)

    def _step(self, step: int, stream: Iterator[Batch]) -> tuple[Measured, str]:
        """One step of every optimiser; the means of what was measured over all processes, and why to stop, if so."""
        self._set_stage(step)
        for parameter in self.net.parameters():
            parameter.grad = None
        measured = Measured()
        samples: list[str] = []
        for numbers in self._plan.numbers(step):
            batch = next(stream).to(self.device)
            samples += batch.names
            torch.manual_seed(stable_seed("dropout", self.settings.run.seed, numbers[0]))
            with self._accelerator.autocast():
                losses = self.task.losses(batch, step)
                part = backpropagate(losses, 1 / self._plan.micro_batches, self._parameters)
            measured.add(part.values, 1.0)
        facts = self._update(step, samples)
        self.ema.update(self.net, step)
        stop = self._agree(measured)
        measured.values |= facts
        return measured, stop

    def _set_stage(self, step: int) -> None:
        """Freeze and unfreeze for this step. Parameters without an optimiser are not touched: a frozen base stays so."""
        stages = self.task.stages()
        if not stages:
            return
        now = [stage for stage in stages if stage.first_step <= step][-1:]
        trained = {id(p) for parameters in self._parameters.values() for p in parameters}
        for name, parameter in self.net.named_parameters():
            if id(parameter) in trained:
                parameter.requires_grad_(not any(stage.frozen(name) for stage in now))

    def _update(self, step: int, samples: list[str]) -> dict[str, float]:
        """Average, clip and step; all norms are looked at before any weight moves. Returns norms and rates for the log."""
        trained = [p for parameters in self._parameters.values() for p in parameters if p.requires_grad]
        average_over_processes(self._accelerator, trained)
        facts: dict[str, float] = {}
        for item in self.task.optimizers:
            end = f"_{item.name}" if len(self.task.optimizers) > 1 else ""
            norm = clip(item, self._parameters[item.name], self.net, step, samples)
            facts |= {f"grad_norm{end}": norm, f"lr{end}": item.rate(step)}
        for item in self.task.optimizers:
            for group in item.optimizer.param_groups:
                group["lr"] = item.rate(step) * group.get("lr_scale", 1.0)
            if any(p.grad is not None for p in self._parameters[item.name]):
                item.optimizer.step()
        return facts

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
        """The averaged weights on the validation data; the main process measures, the others wait."""
        if log is not None:
            step = self._state.step
            try:
                with self.ema.lent_to(self.net):
                    found = self.task.validate(autocast=self._autocast)
                if not math.isfinite(found.score):
                    raise TrainingDivergedError(f"{self.task.score.name} is {found.score}")
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"step {step}, validation: {error}. {ADVICE}") from None
            if self.task.score.better(found.score, self._state.best_score):
                self._state = replace(self._state, best_score=found.score, best_step=step)
            log.add("validation", step - 1, found.values)
            sheet = f", {log.sheet(step, found.sheet)}" if found.sheet else ""
            reporter.info(f"step {step}: validation {found.summary}{sheet}")
        self._wait()

    def _save(self) -> None:
        if self.is_main:
            out_dir, state = self.settings.out_dir, self._state
            save_checkpoint(out_dir, self.task, self.ema, state, self._fence)
            note_best(out_dir, self.task.score.name, state, self._fence)
            prune(out_dir, self.settings.run.keep_last, state.step, state.best_step, self._fence)
        self._wait()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
