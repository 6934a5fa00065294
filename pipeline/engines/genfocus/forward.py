"""FLUX with image conditions beside the noisy picture: one evaluation of the velocity, the way Genfocus was trained.

Tokens live in branches, always in this order: text, main (the noisy latent), condition 0, condition 1. What is special:
- The LoRA works on condition tokens only; text and main run the plain base model.
- A condition is embedded at time 0 and guidance 1, whatever the step: it is clean. Each branch is modulated by its own
  embedding, in the single blocks too.
- Text and main attend to everything. A condition attends to text, main and itself, never to another condition. Nothing is
  cached between steps, since conditions look at the noisy latent and so change with it.
- Every branch has position ids of its own; a condition that lies on the picture has the picture's.

What this is not: diffusers' own forward. Its modules and weights are used, its blocks' control flow is not, because they know
two branches. `tests/genfocus_reference.py` says the same as one masked sequence.

Shapes: B pictures or tiles in a batch, N tokens of a branch, D model width, H heads, K = D / H.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.engines.genfocus.lora import Lora, Pair, adapted

Rope = tuple[Tensor, Tensor]  # cos, sin: (N, K)
Pairs = dict[str, Pair]
_NONE: Pairs = {}
_ROPE_BASE = 10_000.0
_TIME_SCALE = 1000.0  # times and guidance are both embedded in thousandths
CONDITION_TIME = 0.0
CONDITION_GUIDANCE = 1.0
_TEXT, _MAIN = 0, 1


@dataclass(frozen=True)
class Prompt:
    """The embedded prompt: tokens (1, N, text width) from T5 and the pooled vector (1, pooled width) from CLIP."""

    tokens: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Packed:
    """A picture, noisy or clean, as packed latents: tokens (B, N, channels) and their position ids (N, 3)."""

    tokens: Tensor
    ids: Tensor


def velocity(
    net: Any,
    lora: Lora,
    prompt: Prompt,
    main: Packed,
    conditions: Sequence[Packed],
    time: Tensor,
    guidance: float,
    blocks: "Blocks | None" = None,
) -> Tensor:
    """The velocity (epsilon - x0) of the noisy latent.

    Args:
        net: a FluxTransformer2DModel with guidance embedding.
        lora: for the condition tokens.
        prompt: one for the whole batch.
        main: the noisy latent, in the network's type.
        conditions: in the trained order; same B and type as main.
        time: () in [0, 1], in the network's type: the scheduler's timestep / 1000.
        guidance: the embedded guidance scale of text and main.
        blocks: the block functions; the plain ones by default.

    Returns:
        (B, N, channels) in the network's type.
    """
    blocks = blocks or Blocks()
    batch, dtype = main.tokens.shape[0], main.tokens.dtype
    now = embedding(net, time.reshape(1), guidance, prompt.pooled)
    clean = embedding(net, torch.full_like(time.reshape(1), CONDITION_TIME), CONDITION_GUIDANCE, prompt.pooled)
    text = net.context_embedder(prompt.tokens).expand(batch, -1, -1)
    embedder = lora.pairs["x_embedder"]
    hidden = [text, net.x_embedder(main.tokens), *(adapted(net.x_embedder, c.tokens, embedder) for c in conditions)]
    modulation = [now, now, *(clean for _ in conditions)]
    text_ids = torch.zeros(text.shape[1], 3, device=main.ids.device)
    axes = net.config["axes_dims_rope"]
    rope = [rotation(ids, axes, dtype) for ids in (text_ids, main.ids, *(c.ids for c in conditions))]
    for number, block in enumerate(net.transformer_blocks):
        hidden = blocks.double(block, lora.blocks[f"transformer_blocks.{number}"], hidden, modulation, rope)
    for number, block in enumerate(net.single_transformer_blocks):
        hidden = blocks.single(block, lora.blocks[f"single_transformer_blocks.{number}"], hidden, modulation, rope)
    return net.proj_out(net.norm_out(hidden[_MAIN], now))


def embedding(net: Any, time: Tensor, guidance: float, pooled: Tensor) -> Tensor:
    """(1, D) from time (1,), guidance and the pooled prompt. In the network's type as diffusers does it: bf16 rounds both."""
    scale = torch.full_like(time, guidance)
    return net.time_text_embed(time * _TIME_SCALE, scale * _TIME_SCALE, pooled)


def rotation(ids: Tensor, axes: Sequence[int], dtype: torch.dtype) -> Rope:
    """Rotary angles of position ids (N, 3), computed in float64; each frequency turns two neighbouring channels."""
    parts = []
    for axis, size in enumerate(axes):
        exponents = torch.arange(0, size, 2, dtype=torch.float64, device=ids.device) / size
        parts.append(torch.outer(ids[:, axis].double(), _ROPE_BASE**-exponents))
    angles = torch.cat(parts, dim=1).repeat_interleave(2, dim=1)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    return angles.cos().to(kept), angles.sin().to(kept)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """(B, H, N, K) turned by its positions, at least in float32."""
    cos, sin = rope
    wide = x.to(cos.dtype)
    turned = torch.stack((-wide[..., 1::2], wide[..., 0::2]), dim=-1).flatten(-2)
    return (wide * cos + turned * sin).to(x.dtype)


def pairs_of(branch: int, pairs: Pairs) -> Pairs:
    """The LoRA as a branch sees it."""
    return pairs if branch > _MAIN else _NONE


def double_block(
    block: nn.Module, pairs: Pairs, hidden: list[Tensor], modulation: list[Tensor], rope: list[Rope]
) -> list[Tensor]:
    """A FluxTransformerBlock over all branches. Text has weights of its own."""
    b: Any = block
    queries, keys, values, rest = [], [], [], []
    for branch, (tokens, temb, angles) in enumerate(zip(hidden, modulation, rope, strict=True)):
        own = pairs_of(branch, pairs)
        norm = b.norm1_context if branch == _TEXT else b.norm1
        shift, scale, *others = modulate(norm, temb, own.get("norm1.linear"), 6)
        normed = norm.norm(tokens) * (1 + scale) + shift
        query, key, value = text_qkv(b.attn, normed) if branch == _TEXT else image_qkv(b.attn, normed, own)
        queries.append(rotate(query, angles))
        keys.append(rotate(key, angles))
        values.append(value)
        rest.append(others)
    attended = attention(queries, keys, values)
    result = []
    for branch, (tokens, attention_out, (gate, ff_shift, ff_scale, ff_gate)) in enumerate(
        zip(hidden, attended, rest, strict=True)
    ):
        own = pairs_of(branch, pairs)
        if branch == _TEXT:
            tokens = tokens + gate * b.attn.to_add_out(attention_out)
            tokens = tokens + ff_gate * b.ff_context(b.norm2_context(tokens) * (1 + ff_scale) + ff_shift)
        else:
            tokens = tokens + gate * adapted(b.attn.to_out[0], attention_out, own.get("attn.to_out.0"))
            inner = b.ff.net[0](b.norm2(tokens) * (1 + ff_scale) + ff_shift)
            tokens = tokens + ff_gate * adapted(b.ff.net[2], inner, own.get("ff.net.2"))
        result.append(tokens)
    return result


def single_block(
    block: nn.Module, pairs: Pairs, hidden: list[Tensor], modulation: list[Tensor], rope: list[Rope]
) -> list[Tensor]:
    """A FluxSingleTransformerBlock over all branches: attention and feed-forward side by side, one set of weights."""
    b: Any = block
    queries, keys, values, inners, gates = [], [], [], [], []
    for branch, (tokens, temb, angles) in enumerate(zip(hidden, modulation, rope, strict=True)):
        own = pairs_of(branch, pairs)
        shift, scale, gate = modulate(b.norm, temb, own.get("norm.linear"), 3)
        normed = b.norm.norm(tokens) * (1 + scale) + shift
        query, key, value = image_qkv(b.attn, normed, own)
        queries.append(rotate(query, angles))
        keys.append(rotate(key, angles))
        values.append(value)
        inners.append(b.act_mlp(adapted(b.proj_mlp, normed, own.get("proj_mlp"))))
        gates.append(gate)
    attended = attention(queries, keys, values)
    return [
        tokens + gate * adapted(b.proj_out, torch.cat((out, inner), dim=2), pairs_of(branch, pairs).get("proj_out"))
        for branch, (tokens, gate, out, inner) in enumerate(zip(hidden, gates, attended, inners, strict=True))
    ]


def modulate(norm: Any, temb: Tensor, pair: Pair | None, parts: int) -> tuple[Tensor, ...]:
    """Shift, scale, gate (, shift, scale, gate), each (1, 1, D), of an adaptive layer norm."""
    return adapted(norm.linear, norm.silu(temb), pair)[:, None].chunk(parts, dim=-1)


def text_qkv(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, N, K) of text tokens in a double block."""
    query, key, value = (_heads(layer(x), attn) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
    return attn.norm_added_q(query), attn.norm_added_k(key), value


def image_qkv(attn: Any, x: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, N, K) of image tokens, and of text in a single block."""
    query, key, value = (
        _heads(adapted(getattr(attn, name), x, pairs.get(f"attn.{name}")), attn) for name in ("to_q", "to_k", "to_v")
    )
    return attn.norm_q(query), attn.norm_k(key), value


def _heads(x: Tensor, attn: Any) -> Tensor:
    return x.view(*x.shape[:2], attn.heads, -1).transpose(1, 2)


def attention(queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Who sees whom, as calls without a mask: text and main together over everything, each condition over what it may see.

    Args:
        queries, keys, values: per branch (B, H, N, K).

    Returns:
        per branch (B, N, D).
    """
    lengths = [query.shape[2] for query in queries]
    every_key, every_value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    # With one condition nothing is blocked, and all branches go together.
    together = len(queries) if len(queries) <= _MAIN + 2 else _MAIN + 1
    out = F.scaled_dot_product_attention(torch.cat(queries[:together], dim=2), every_key, every_value)
    outs = list(torch.split(out, lengths[:together], dim=2))
    free = sum(lengths[: _MAIN + 1])
    for query, key, value in zip(queries[together:], keys[together:], values[together:], strict=True):
        seen_key = torch.cat((every_key[:, :, :free], key), dim=2)
        seen_value = torch.cat((every_value[:, :, :free], value), dim=2)
        outs.append(F.scaled_dot_product_attention(query, seen_key, seen_value))
    return [out.transpose(1, 2).flatten(2) for out in outs]


@dataclass(frozen=True)
class Blocks:
    """The two kinds of block, as functions."""

    double: Callable[..., list[Tensor]] = double_block
    single: Callable[..., list[Tensor]] = single_block


def compiled_blocks(**how: Any) -> Blocks:
    """The blocks through torch.compile (`how` as it takes): compiled once per kind and shape, not once per block."""
    return Blocks(torch.compile(double_block, **how), torch.compile(single_block, **how))
