"""Gradients of one step: backward passes that add up, their mean over processes, and clipping."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from model.errors import ADVICE, TrainingDivergedError
from model.training.task import Loss, ScheduledOptimizer


@dataclass
class Measured:
    """Weighted sums of what was run so far, as numbers: means, once the weights add up to 1."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], weight: float) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + weight * value


def parameters_of(net: nn.Module, optimizers: Sequence[ScheduledOptimizer]) -> dict[str, list[nn.Parameter]]:
    """Each optimiser's parameters, in the net's order (norms sum in it, so it decides their rounding)."""
    owner: dict[int, str] = {}
    for item in optimizers:
        for group in item.optimizer.param_groups:
            for p in group["params"]:
                assert id(p) not in owner, f"a parameter belongs to the optimisers {owner[id(p)]} and {item.name}"
                owner[id(p)] = item.name
    found: dict[str, list[nn.Parameter]] = {item.name: [] for item in optimizers}
    for p in net.parameters():
        if id(p) in owner:
            found[owner.pop(id(p))].append(p)
    assert not owner, "an optimiser's parameters must be the net's"
    return found


def backpropagate(
    losses: Iterable[Loss], weight: float = 1.0, parameters: Mapping[str, Sequence[nn.Parameter]] | None = None
) -> Measured:
    """Follow a micro-batch's losses backwards, one after the other, adding to the gradients.

    Args:
        losses: as `Task.losses` yields them.
        weight: share of the micro-batch in the step.
        parameters: of each optimiser, for losses that name theirs.

    Returns:
        The losses' values, weighted.
    """
    measured = Measured()
    for loss in losses:
        part, whole = loss.share
        share = weight * part / whole
        if not loss.optimizers:
            (loss.total * share).backward()  # type: ignore[no-untyped-call]
        else:
            assert parameters is not None, "losses that name optimisers need the optimisers' parameters"
            moved = [p for name in loss.optimizers for p in parameters[name] if p.requires_grad]
            if moved and loss.total.requires_grad:  # else everything it would move stands still at this stage
                torch.autograd.backward([loss.total * share], inputs=moved)
        measured.add(loss.values, share)
    return measured


def average_over_processes(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """The mean gradient, as one flat all-reduce, so that graphs may differ from process to process.

    A parameter that only some processes used counts as 0 in the others. One that no process used keeps no gradient, since an
    optimiser would decay it: the steps must be those of a single process.
    """
    if accelerator.num_processes == 1 or not parameters:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = accelerator.reduce(torch.cat([*(g.flatten() for g in gradients), used]), "mean")
    *pieces, anywhere = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for p, piece, share in zip(parameters, pieces, anywhere.tolist(), strict=True):
        p.grad = piece.view_as(p).clone() if share > 0 else None


def clip(
    item: ScheduledOptimizer, parameters: Sequence[nn.Parameter], net: nn.Module, step: int, samples: Sequence[str]
) -> float:
    """Scale an optimiser's gradients down to its norm; returns the norm they had.

    Raises:
        TrainingDivergedError: it is not finite; the message names step, parameter and samples.
    """
    norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, item.clip_norm)
    if not bool(torch.isfinite(norm)):
        bad = [n for n, p in net.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
        raise TrainingDivergedError(
            f"step {step}: the gradient of {bad[0] if bad else 'all parameters together'} is not a finite number; "
            f"samples of this process: {'; '.join(samples)}. {ADVICE}"
        )
    return float(norm)
