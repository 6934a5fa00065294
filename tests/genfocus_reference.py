"""Genfocus once more, slow and plain: one sequence of all tokens, a dense attention mask, a LoRA switch per token, float64.

Written from the published facts on nothing but tensors by name: none of the engine's code, none of diffusers' modules but the
VAE. Every convention that is easy to get wrong is a field of `Conventions`, so that a test can also show that breaking it
would be noticed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TEXT, MAIN = -2, -1  # whose a token is; conditions count from 0


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """As published. A test that changes one shows what the equality with the engine rules out."""

    lora_on_text: bool = False
    lora_on_main: bool = False
    lora_scale: float = 1.0
    condition_time: float | None = 0.0  # None: the step's
    condition_guidance: float | None = 1.0  # None: the step's
    conditions_see_each_other: bool = False
    conditions_see_main: bool = True
    whole_schedule: bool = True  # mu from all tokens, tiled or not
    local_ids: bool = True  # a tile's ids begin at 0
    posterior_sample: bool = True  # or its mode
    map_in_unit_range: bool = True  # the defocus map enters the VAE in [0, 1]
    noise_first: bool = True


PUBLISHED = Conventions()


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights by name, float64; LoRA pairs by layer; and what the shapes do not tell."""

    weights: dict[str, Tensor]
    lora: dict[str, tuple[Tensor, Tensor]]
    doubles: int
    singles: int
    heads: int
    axes: tuple[int, ...]

    @classmethod
    def of(cls, transformer: torch.nn.Module, pairs: dict[str, tuple[Tensor, Tensor]], config: dict) -> "Model":
        return cls(
            weights={name: value.double() for name, value in transformer.state_dict().items()},
            lora={name: (a.double(), b.double()) for name, (a, b) in pairs.items()},
            doubles=config["num_layers"],
            singles=config["num_single_layers"],
            heads=config["num_attention_heads"],
            axes=tuple(config["axes_dims_rope"]),
        )


@dataclass(frozen=True)
class Tokens:
    """Packed latents (N, 64) and position ids (N, 3)."""

    values: Tensor
    ids: Tensor


class Pass:
    """One evaluation of the network over one picture."""

    def __init__(self, model: Model, owner: Tensor, conventions: Conventions) -> None:
        self.model, self.owner, self.conventions = model, owner, conventions
        on = owner >= 0
        if conventions.lora_on_text:
            on = on | (owner == TEXT)
        if conventions.lora_on_main:
            on = on | (owner == MAIN)
        self.lora_on = on[:, None].double() * conventions.lora_scale
        self.is_text = (owner == TEXT)[:, None]
        count = len(owner)
        self.allowed = torch.ones(count, count, dtype=torch.bool)
        for query in sorted(set(owner.tolist())):
            for key in sorted(set(owner.tolist())):
                blocked = query >= 0 and key >= 0 and query != key and not conventions.conditions_see_each_other
                blocked |= query >= 0 and key == MAIN and not conventions.conditions_see_main
                if blocked:
                    self.allowed &= ~((owner == query)[:, None] & (owner == key)[None, :])

    def linear(self, name: str, x: Tensor) -> Tensor:
        """W x + b for every token; where the token has the LoRA and the layer is adapted, + B A x."""
        weights = self.model.weights
        y = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        if name in self.model.lora:
            a, b = self.model.lora[name]
            y = y + self.lora_on * ((x @ a.T) @ b.T)
        return y

    def text_or_image(self, text_name: str, image_name: str, x: Tensor) -> Tensor:
        return torch.where(self.is_text, self.linear(text_name, x), self.linear(image_name, x))

    def rms(self, text_name: str, image_name: str, x: Tensor) -> Tensor:
        normed = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
        weight = torch.where(
            self.is_text[..., None],
            self.model.weights[f"{text_name}.weight"],
            self.model.weights[f"{image_name}.weight"],
        )
        return normed * weight

    def attend(self, query: Tensor, key: Tensor, value: Tensor, turns: Tensor) -> Tensor:
        """(N, H, K) each -> (N, D): softmax over what each token may see, head by head."""
        heads = []
        for head in range(self.model.heads):
            q, k = turned(query[:, head], turns), turned(key[:, head], turns)
            scores = (q @ k.T) / math.sqrt(q.shape[-1])
            heads.append(scores.masked_fill(~self.allowed, -math.inf).softmax(-1) @ value[:, head])
        return torch.cat(heads, dim=-1)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.model.heads, -1)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring channels as one complex number, times the position's phase."""
    product = torch.complex(x[:, 0::2].contiguous(), x[:, 1::2].contiguous()) * turns
    return torch.stack((product.real, product.imag), dim=-1).flatten(1)


def phases(ids: Tensor, axes: Sequence[int]) -> Tensor:
    columns = []
    for axis, size in enumerate(axes):
        for pair in range(size // 2):
            columns.append(ids[:, axis].double() / 10_000 ** (2 * pair / size))
    angle = torch.stack(columns, dim=1)
    return torch.complex(angle.cos(), angle.sin())


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sinusoid(value: float) -> Tensor:
    """256 numbers, cosines first. In float32, since that is what the network was trained with."""
    rate = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = torch.tensor(value, dtype=torch.float32) * rate
    return torch.cat((angle.cos(), angle.sin())).double()


def embed_scalar(model: Model, name: str, value: float) -> Tensor:
    w = model.weights
    hidden = silu(w[f"{name}.linear_1.weight"] @ sinusoid(value) + w[f"{name}.linear_1.bias"])
    return w[f"{name}.linear_2.weight"] @ hidden + w[f"{name}.linear_2.bias"]


def embedding(model: Model, time: float, guidance: float, pooled: Tensor) -> Tensor:
    """Time, guidance and prompt as one vector (D,)."""
    w, name = model.weights, "time_text_embed.text_embedder"
    text = silu(w[f"{name}.linear_1.weight"] @ pooled + w[f"{name}.linear_1.bias"])
    return (
        embed_scalar(model, "time_text_embed.timestep_embedder", 1000 * time)
        + embed_scalar(model, "time_text_embed.guidance_embedder", 1000 * guidance)
        + w[f"{name}.linear_2.weight"] @ text
        + w[f"{name}.linear_2.bias"]
    )


def velocity(
    model: Model,
    text: Tensor,
    pooled: Tensor,
    main: Tokens,
    conditions: Sequence[Tokens],
    time: float,
    guidance: float,
    conventions: Conventions = PUBLISHED,
) -> Tensor:
    """(N, 64) velocity of the noisy tokens, float64. text (N, width), pooled (width,)."""
    images = [main, *conditions]
    owner = torch.tensor(
        [TEXT] * len(text) + [n - 1 for n, image in enumerate(images) for _ in range(len(image.values))]
    )
    run = Pass(model, owner, conventions)
    width = model.weights["x_embedder.bias"].numel()
    packed = torch.cat(
        [torch.zeros(len(text), images[0].values.shape[1]).double(), *(i.values.double() for i in images)]
    )
    words = torch.cat([text.double(), torch.zeros(len(packed) - len(text), text.shape[1]).double()])
    x = torch.where(run.is_text, run.linear("context_embedder", words), run.linear("x_embedder", packed))
    now = embedding(model, time, guidance, pooled.double())
    clean = embedding(
        model,
        time if conventions.condition_time is None else conventions.condition_time,
        guidance if conventions.condition_guidance is None else conventions.condition_guidance,
        pooled.double(),
    )
    vector = torch.where((owner >= 0)[:, None], clean, now)
    turns = phases(torch.cat([torch.zeros(len(text), 3), *(image.ids.float() for image in images)]), model.axes)
    for number in range(model.doubles):
        x = double(run, f"transformer_blocks.{number}", x, vector, turns)
    for number in range(model.singles):
        x = single(run, f"single_transformer_blocks.{number}", x, vector, turns)
    scale, shift = run.linear("norm_out.linear", silu(vector)).split(width, dim=-1)
    out = run.linear("proj_out", layer_norm(x) * (1 + scale) + shift)
    return out[owner == MAIN]


def double(run: Pass, name: str, x: Tensor, vector: Tensor, turns: Tensor) -> Tensor:
    modulation = run.text_or_image(f"{name}.norm1_context.linear", f"{name}.norm1.linear", silu(vector))
    shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.chunk(6, dim=-1)
    normed = layer_norm(x) * (1 + scale) + shift
    query, key, value = (
        run.split_heads(run.text_or_image(f"{name}.attn.add_{part}_proj", f"{name}.attn.to_{part}", normed))
        for part in "qkv"
    )
    query = run.rms(f"{name}.attn.norm_added_q", f"{name}.attn.norm_q", query)
    key = run.rms(f"{name}.attn.norm_added_k", f"{name}.attn.norm_k", key)
    attended = run.attend(query, key, value, turns)
    x = x + gate * run.text_or_image(f"{name}.attn.to_add_out", f"{name}.attn.to_out.0", attended)
    normed = layer_norm(x) * (1 + ff_scale) + ff_shift
    inner = gelu(run.text_or_image(f"{name}.ff_context.net.0.proj", f"{name}.ff.net.0.proj", normed))
    return x + ff_gate * run.text_or_image(f"{name}.ff_context.net.2", f"{name}.ff.net.2", inner)


def single(run: Pass, name: str, x: Tensor, vector: Tensor, turns: Tensor) -> Tensor:
    shift, scale, gate = run.linear(f"{name}.norm.linear", silu(vector)).chunk(3, dim=-1)
    normed = layer_norm(x) * (1 + scale) + shift
    query, key, value = (run.split_heads(run.linear(f"{name}.attn.to_{part}", normed)) for part in "qkv")
    query = run.rms(f"{name}.attn.norm_q", f"{name}.attn.norm_q", query)
    key = run.rms(f"{name}.attn.norm_k", f"{name}.attn.norm_k", key)
    both = torch.cat((run.attend(query, key, value, turns), gelu(run.linear(f"{name}.proj_mlp", normed))), dim=-1)
    return x + gate * run.linear(f"{name}.proj_out", both)


def grid_ids(rows: int, columns: int, delta: tuple[int, int] = (0, 0)) -> Tensor:
    return torch.tensor([(0, r + delta[0], c + delta[1]) for r in range(rows) for c in range(columns)])


def starts(count: int) -> list[int]:
    found, at = [], 0
    while at + 32 <= count:
        found.append(at)
        at += 28
    return found if found[-1] == count - 32 else [*found, count - 32]


def tiled_velocity(
    model: Model,
    text: Tensor,
    pooled: Tensor,
    grids: Sequence[Tensor],
    time: float,
    guidance: float,
    conventions: Conventions = PUBLISHED,
) -> Tensor:
    """(rows, columns, 64) from overlapping tiles of the noisy grid and the conditions' grids, each (rows, columns, 64)."""
    rows, columns = grids[0].shape[:2]
    total, weight = torch.zeros_like(grids[0], dtype=torch.float64), torch.zeros(rows, columns, 1).double()
    for top in starts(rows):
        for left in starts(columns):
            ids = grid_ids(32, 32, (0, 0) if conventions.local_ids else (top, left))
            parts = [Tokens(grid[top : top + 32, left : left + 32].reshape(1024, -1), ids) for grid in grids]
            tile = velocity(model, text, pooled, parts[0], parts[1:], time, guidance, conventions).view(32, 32, -1)
            for row in range(32):
                for column in range(32):
                    x, y = -2 + 4 * column / 31, -2 + 4 * row / 31
                    share = math.exp(-(x * x + y * y))
                    total[top + row, left + column] += share * tile[row, column]
                    weight[top + row, left + column] += share
    return total / weight


def sigmas(tokens: int, steps: int) -> list[float]:
    """The noise levels, ending with 0."""
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    levels = np.linspace(1, 1 / steps, steps)
    return [math.exp(mu) / (math.exp(mu) + (1 / level - 1)) for level in levels] + [0.0]


def patches(latent: Tensor) -> Tensor:
    """(16, 2 h, 2 w) -> (h w, 64), written as loops."""
    channels, height, width = latent.shape
    tokens = []
    for row in range(height // 2):
        for column in range(width // 2):
            patch = latent[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            tokens.append(
                torch.stack([patch[c, dy, dx] for c in range(channels) for dy in range(2) for dx in range(2)])
            )
    return torch.stack(tokens)


def unpatches(tokens: Tensor, rows: int, columns: int) -> Tensor:
    latent = torch.zeros(tokens.shape[1] // 4, 2 * rows, 2 * columns, dtype=tokens.dtype)
    for number, token in enumerate(tokens):
        row, column = divmod(number, columns)
        latent[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = token.view(-1, 2, 2)
    return latent


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an engine is asked: VAE inputs (3, H, W) in their trained range, and how to sample."""

    images: Sequence[Tensor]
    deltas: Sequence[tuple[int, int]]
    text: Tensor
    pooled: Tensor
    guidance: float
    steps: int
    seed: int
    posterior_seed: int | None = None  # None: the stream goes on after the noise


@torch.no_grad()
def picture(model: Model, vae: torch.nn.Module, job: Job, conventions: Conventions = PUBLISHED) -> np.ndarray:
    """(H, W, 3) uint8, untiled, with noise from PyTorch's global stream as the published code draws it."""
    height, width = job.images[0].shape[-2:]
    rows, columns = height // 16, width // 16
    torch.manual_seed(job.seed)
    shape = (1, 16, height // 8, width // 8)
    noise = torch.randn(shape) if conventions.noise_first else None
    if job.posterior_seed is not None:
        torch.manual_seed(job.posterior_seed)
    conditions = []
    for image, delta in zip(job.images, job.deltas, strict=True):
        posterior = vae.encode(image[None].float()).latent_dist
        latent = posterior.sample() if conventions.posterior_sample else posterior.mode()
        conditions.append(Tokens(patches((latent[0] - 0.1159) * 0.3611), grid_ids(rows, columns, delta)))
    if noise is None:
        noise = torch.randn(shape)
    x = patches(noise[0]).double()
    levels = sigmas(len(x), job.steps)
    for level, lower in itertools.pairwise(levels):
        main = Tokens(x, grid_ids(rows, columns))
        v = velocity(model, job.text, job.pooled, main, conditions, level, job.guidance, conventions)
        x = x + (lower - level) * v
    decoded = vae.decode((unpatches(x, rows, columns) / 0.3611 + 0.1159).float()[None]).sample[0]
    levels_8bit = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()
    return levels_8bit.permute(1, 2, 0).numpy().astype(np.uint8)
