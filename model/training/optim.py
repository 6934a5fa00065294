"""AdamW with decay only where decay belongs, the learning rate as a function of the step, and averaged weights."""

import math

import torch
from torch import Tensor, nn

from model.training.settings import OptimSettings

# Parts of parameter names: scales and shifts, gates (a gate pulled to 0 is half open, which means nothing), learned states.
_NO_DECAY = ("norm", "bias", "gate", "floor", "keep", "initial", "logit")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels that are neither norms, biases nor gates."""
    return parameter.ndim >= 2 and not any(part in name for part in _NO_DECAY)


def make_optimizer(net: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW in three groups: what decays, what does not, and scalars, whose rate is `lr_scale` times the others'."""
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    scalars = [p for _, p in named if p.ndim == 0]
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": settings.weight_decay, "lr_scale": 1.0},
        {"params": [p for name, p in named if p.ndim and not decays(name, p)], "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": scalars, "weight_decay": 0.0, "lr_scale": settings.scalar_lr_scale},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2))


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
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone().float() for name, p in net.named_parameters()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the parameters after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (2 + step) / (11 + step))
        live = {name: p.detach().float() for name, p in net.named_parameters()}
        torch._foreach_lerp_(list(self.weights.values()), [live[name] for name in self.weights], 1 - decay)

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Put the averaged weights into a network of the same shape."""
        for name, parameter in net.named_parameters():
            parameter.copy_(self.weights[name])
