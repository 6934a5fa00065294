"""AdamW with decay only where decay belongs, the learning rate as a function of the step, and averaged weights."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.training.settings import OptimSettings


def make_adamw(
    named: Iterable[tuple[str, nn.Parameter]],
    settings: OptimSettings,
    decays: Callable[[str, Tensor], bool],
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW in three groups: what decays, what does not, and scalars, whose rate is `lr_scale` times the others'.

    Args:
        named: parameters and their names; those without requires_grad are left out.
        settings: rates and decay.
        decays: whether weight decay applies to a parameter of one or more dimensions; the family knows.
        eps: what AdamW adds to the root of the second moment.
    """
    trained = [(name, p) for name, p in named if p.requires_grad]
    scalars = [p for _, p in trained if p.ndim == 0]
    decaying = [p for name, p in trained if p.ndim and decays(name, p)]
    steady = [p for name, p in trained if p.ndim and not decays(name, p)]
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay, "lr_scale": 1.0},
        {"params": steady, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": scalars, "weight_decay": 0.0, "lr_scale": settings.scalar_lr_scale},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=eps)


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """Of optimiser step `step`, counted from 0: a linear rise, then half a cosine down to its end at `steps`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return settings.lr * (settings.min_lr_share + (1 - settings.min_lr_share) * cosine)


class Ema:
    """Exponential moving average of the parameters, in float32. What checkpoints publish and validations measure.

    The average after n steps has decay min(decay, (1 + n) / (10 + n)), so that a short run is not an average of its start.

    Args:
        net: whose parameters.
        decay: see above.
        keeps: which of them by name; a frozen base needs no average.
    """

    def __init__(self, net: nn.Module, decay: float, keeps: Callable[[str], bool] = lambda name: True) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone().float() for name, p in net.named_parameters() if keeps(name)}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the parameters after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (2 + step) / (11 + step))
        live = {name: p.detach().float() for name, p in net.named_parameters() if name in self.weights}
        torch._foreach_lerp_(list(self.weights.values()), [live[name] for name in self.weights], 1 - decay)

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Put the averaged weights into a network of the same shape."""
        for name, parameter in net.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])

    @contextmanager
    def lent_to(self, net: nn.Module) -> Iterator[None]:
        """The net with the averaged weights, in evaluation mode, for a `with`; afterwards as it was, to the last bit.

        A second network would hold its memory for the whole run.
        """
        live = {name: p.detach().clone() for name, p in net.named_parameters() if name in self.weights}
        modes = {module: module.training for module in net.modules()}
        self.copy_to(net)
        net.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    if name in live:
                        parameter.copy_(live[name])
            for module, mode in modes.items():
                module.training = mode
