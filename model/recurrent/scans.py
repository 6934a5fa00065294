"""Four directed scans over an image: the part of a block that sees all of it.

Special: raster, reverse raster, column and reverse column are stacked in the batch of one recurrence call. Each has its own
projections, gates and normalisation; a softmax per pixel weighs them.

Shape letters: B = samples; h, w = tokens; C = channels; H = heads; D = head size; S = directions done together; L = h * w.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.recurrent.config import DIRECTIONS, StreamConfig
from model.recurrent.recurrence import gated_delta_rule, unit_keys

# More tokens than this (512x512 pixels) are scanned one direction after the other when no gradients are needed. One direction
# fills a device by then, and four at once would hold most of the memory of 1080p inference.
TOKENS_TOGETHER = 1 << 14
FAST_LOGIT = 2.0  # of the fastest head's decay at the start: a token is kept for 1 + e^2 = 8.4 steps
FLOOR_LOGITS = (-2.0, 2.0)  # of the first and the last layer


class DecayGate(nn.Module):
    """log of the decay, with a floor that grows with the layer and with the mean blur (DAHG).

    a = a_min + (1 - a_min) sigmoid(logit), a_min = sigmoid(a_l + lambda * mean blur): late layers, and all layers under a lens
    that blurs much, look farther.

    Args:
        config: enable_dahg, dahg_lambda.
        depth: of the layer, 0 first to 1 last.
    """

    def __init__(self, config: StreamConfig, depth: float) -> None:
        super().__init__()
        self.weight: float | Tensor = config.dahg_lambda
        first, last = FLOOR_LOGITS
        self.floor = nn.Parameter(torch.tensor(first + (last - first) * depth)) if config.enable_dahg else None

    def learn_weight(self) -> None:
        """Make lambda a parameter, as published, where the mean blur comes in pixels."""
        weight = torch.tensor(float(self.weight))
        del self.weight
        self.weight = nn.Parameter(weight)

    def forward(self, logits: Tensor, mean_blur: Tensor | None) -> Tensor:
        """Logits (B, ..., H) and the mean blur over the largest (B,), None for a stream that has none -> log a, <= 0."""
        if self.floor is None:
            return F.logsigmoid(logits)
        floor = self.floor.to(logits.dtype)
        if mean_blur is not None:
            floor = (floor + self.weight * mean_blur.to(logits.dtype)).reshape(-1, *[1] * (logits.dim() - 1))
        # in logarithms: finite for any logits
        return torch.logaddexp(F.logsigmoid(floor), F.logsigmoid(-floor) + F.logsigmoid(logits))


def gate_logits(heads: int, memory_tokens: int) -> Tensor:
    """(heads,) logits of the decay a to start from; those of the step b are their negatives.

    A head that remembers n tokens keeps a = 1 - 1/n of its state and writes b = 1/n of what is new, a running mean over n
    tokens: logit a = log(n - 1) = -logit b. With a step of its own size a slow head would write over its state long before
    it decays. n goes geometrically from 8.4 to `memory_tokens`; where that is less, all heads start at 8.4. An image is
    thousands of tokens, so only slow heads carry anything of one frame into the middle of the next.
    """
    slow_logit = max(FAST_LOGIT, math.log(max(memory_tokens, 2) - 1))
    return torch.linspace(FAST_LOGIT, slow_logit, heads)


class BiGDR(nn.Module):
    """Bidirectional gated delta recurrence in rows and columns.

    Args:
        config: widths, backend.
        depth: of the layer, 0 first to 1 last.
    """

    def __init__(self, config: StreamConfig, depth: float) -> None:
        super().__init__()
        self.config = config
        width, inner = config.channels, config.heads * config.head_dim
        self.features = 3 * inner + 2 * config.heads  # q, k, v, logits of a and b
        # Weights of all directions in one tensor, direction first.
        self.project = nn.Parameter(torch.randn(DIRECTIONS, self.features, width) / math.sqrt(width))
        logits = gate_logits(config.heads, config.memory_tokens)
        self.gate_bias = nn.Parameter(torch.cat([logits, -logits]).repeat(DIRECTIONS, 1))
        self.out_gate = nn.Parameter(torch.randn(DIRECTIONS, inner, width) / math.sqrt(width))
        self.out_gate_bias = nn.Parameter(torch.zeros(DIRECTIONS, inner))
        self.out = nn.Parameter(0.1 * torch.randn(DIRECTIONS, inner, width) / math.sqrt(inner))
        self.norm_weight = nn.Parameter(torch.ones(DIRECTIONS, width))
        self.norm_bias = nn.Parameter(torch.zeros(DIRECTIONS, width))
        self.direction_gate = nn.Linear(width, DIRECTIONS)
        self.norm = nn.LayerNorm(width)
        self.decay = DecayGate(config, depth)
        self.used = (
            DIRECTIONS  # the first so many: rows both ways, then columns; states of the others stay as they were
        )

    def forward(self, x: Tensor, start: Tensor, mean_blur: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scan.

        Args:
            x: (B, h, w, C), normalised.
            start: (B, 4, H, D, D) states that the scans begin with.
            mean_blur: (B,) or None, see `DecayGate`.

        Returns:
            (B, h, w, C), and the final states like `start`.
        """
        together = torch.is_grad_enabled() or x[..., 0].numel() <= TOKENS_TOGETHER
        directions = list(range(self.used))
        groups = [directions] if together else [[direction] for direction in directions]
        # In float32: under autocast four shares that should sum to one would not.
        share = torch.softmax(self.direction_gate(x)[..., : self.used].float(), dim=-1).to(x.dtype)
        total: Tensor | None = None
        finals = []
        for group in groups:
            planes, final = self._directions(x, start, mean_blur, group)
            for direction, plane in zip(group, planes, strict=True):
                weight = share[..., direction, None]
                total = plane * weight if total is None else torch.addcmul(total, plane, weight)
            finals.append(final)
        assert total is not None
        rested = [start[:, self.used :]] if self.used < DIRECTIONS else []
        return self.norm(total), torch.cat([*finals, *rested], dim=1) if len(finals) + len(rested) > 1 else finals[0]

    def _directions(
        self, x: Tensor, start: Tensor, mean_blur: Tensor | None, group: list[int]
    ) -> tuple[list[Tensor], Tensor]:
        """Some of the directions: each one's (B, h, w, C) normalised output, and (B, S, H, D, D) final states."""
        batch, height, width, channels = x.shape
        heads, size = self.config.heads, self.config.head_dim
        part = slice(group[0], group[-1] + 1)
        # The input is put in the scans' orders, not the several times wider features: they are made where they are used.
        tokens = to_scans(x, group).flatten(1, 2)  # (S, B*L, C)
        features = torch.bmm(tokens, self.project[part].mT.to(tokens.dtype)).view(len(group) * batch, -1, self.features)
        q, k, v, gates = torch.split(features, [heads * size] * 3 + [2 * heads], dim=-1)
        # Directions lie before samples, so a direction's bias is repeated for each sample.
        bias = self.gate_bias[part].repeat_interleave(batch, dim=0)[:, None]
        # Gates near 1 decide how long a state lives: bf16 has 8 bits there, too few to tell 0.998 from 1.
        alpha_logit, beta_logit = (gates.float() if gates.dtype != torch.float64 else gates).add(bias).chunk(2, dim=-1)
        blur = None if mean_blur is None else mean_blur.repeat(len(group))
        q, k, v = (torch.unflatten(x, -1, (heads, size)) for x in (q, k, v))
        out, final = gated_delta_rule(
            q,
            unit_keys(k),  # of length 1, so that a write replaces what its key held and nothing else
            v,
            self.decay(alpha_logit, blur),
            torch.sigmoid(beta_logit),
            start[:, part].transpose(0, 1).flatten(0, 1),
            chunk_size=self.config.chunk_size,
            backend=self.config.backend,
        )
        gate = torch.sigmoid(torch.baddbmm(self.out_gate_bias[part][:, None], tokens, self.out_gate[part].mT))
        y = torch.bmm(out.reshape(gate.shape) * gate, self.out[part])
        # Normalised before they are weighed: a direction must not win by being loud.
        normed = [
            F.layer_norm(y[s], (channels,), self.norm_weight[direction], self.norm_bias[direction])
            for s, direction in enumerate(group)
        ]
        planes = [
            from_scan(one.view(batch, -1, channels), direction, height, width)
            for one, direction in zip(normed, group, strict=True)
        ]
        return planes, torch.unflatten(final, 0, (len(group), batch)).transpose(0, 1)


def to_scans(x: Tensor, group: list[int]) -> Tensor:
    """(B, h, w, C) -> (S, B, L, C): the tokens in the order each direction meets them."""
    sequences = []
    for direction in group:
        # 0 and 1 run along rows, 2 and 3 along columns; the odd ones from the end.
        tokens = (x if direction < 2 else x.transpose(1, 2)).flatten(1, 2)
        sequences.append(tokens.flip(1) if direction % 2 else tokens)
    return torch.stack(sequences)


def from_scan(tokens: Tensor, direction: int, height: int, width: int) -> Tensor:
    """(B, L, C) in a direction's order -> (B, h, w, C), the way back."""
    tokens = tokens.flip(1) if direction % 2 else tokens
    if direction < 2:
        return torch.unflatten(tokens, 1, (height, width))
    return torch.unflatten(tokens, 1, (width, height)).transpose(1, 2)
