"""Video Depth Anything once more, slowly: numpy, float64, loops, and none of the network's code.

Written from the facts of docs/engines.md. `Conventions` holds what is easily got wrong; a test breaks one at a time and
makes sure that the result would show it. `tiny_state` is a network small enough for this, in the published file's form.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Array = np.ndarray
State = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """The published ones by default."""

    position_offset: float = 0.1
    norm_every_tap: bool = True
    align_corners: bool = True
    position_encoding_on_values: bool = True
    exact_gelu: bool = True
    value_before_gate: bool = True


PUBLISHED = Conventions()
DIM, DEPTH, GRID, FEATURES, OUT_CHANNELS = 128, 4, 4, 32, (8, 16, 32, 64)
TAPS, ENCODER_HEADS, TEMPORAL_HEADS, GROUPS = (0, 1, 2, 3), 2, 8, 32


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a tiny network's file, written out from the published key layout."""
    d, f, oc = DIM, FEATURES, OUT_CHANNELS
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    shapes |= {"pretrained.cls_token": (1, 1, d), "pretrained.pos_embed": (1, GRID**2 + 1, d)}
    shapes |= {"pretrained.mask_token": (1, d)}
    layer("pretrained.patch_embed.proj", d, 3, 14, 14)
    layer("pretrained.norm", d)
    for number in range(DEPTH):
        block = f"pretrained.blocks.{number}"
        for name, weight in (("norm1", (d,)), ("attn.qkv", (3 * d, d)), ("attn.proj", (d, d)), ("norm2", (d,))):
            layer(f"{block}.{name}", *weight)
        layer(f"{block}.mlp.fc1", 4 * d, d)
        layer(f"{block}.mlp.fc2", d, 4 * d)
        shapes |= {f"{block}.ls1.gamma": (d,), f"{block}.ls2.gamma": (d,)}
    for level in range(4):
        layer(f"head.projects.{level}", oc[level], d, 1, 1)
        shapes[f"head.scratch.layer{level + 1}_rn.weight"] = (f, oc[level], 3, 3)
        fusion = f"head.scratch.refinenet{level + 1}"
        layer(f"{fusion}.out_conv", f, f, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                layer(f"{fusion}.resConfUnit{unit}.conv{conv}", f, f, 3, 3)
    layer("head.resize_layers.0", oc[0], oc[0], 4, 4)
    layer("head.resize_layers.1", oc[1], oc[1], 2, 2)
    layer("head.resize_layers.3", oc[3], oc[3], 3, 3)
    layer("head.scratch.output_conv1", f // 2, f, 3, 3)
    layer("head.scratch.output_conv2.0", 32, f // 2, 3, 3)
    layer("head.scratch.output_conv2.2", 1, 32, 1, 1)
    for number, c in enumerate((oc[2], oc[3], f, f)):
        module = f"head.motion_modules.{number}.temporal_transformer"
        block = f"{module}.transformer_blocks.0"
        layer(f"{module}.norm", c)
        layer(f"{module}.proj_in", c, c)
        layer(f"{module}.proj_out", c, c)
        for attention in (0, 1):
            inner = f"{block}.attention_blocks.{attention}"
            shapes |= {f"{inner}.to_{name}.weight": (c, c) for name in "qkv"}
            layer(f"{inner}.to_out.0", c, c)
            shapes[f"{inner}.pos_encoder.pe"] = (1, 32, c)
            layer(f"{block}.norms.{attention}", c)
        layer(f"{block}.ff.net.0.proj", 8 * c, c)
        layer(f"{block}.ff.net.2", c, 4 * c)
        layer(f"{block}.ff_norm", c)
    return shapes


def tiny_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights whose activations stay near one, and whose depth is a few metres with some structure."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in tiny_shapes().items():
        if name.endswith(".pe"):
            state[name] = torch.from_numpy(position_encoding(shape[2]))[None].float()
            continue
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
        value = torch.randn(shape, generator=random) / math.sqrt(fan_in)
        is_norm = name.endswith(".weight") and len(shape) == 1
        state[name] = 1 + value if is_norm or name.endswith(".gamma") else value
    for name in ("pretrained.pos_embed", "pretrained.cls_token"):
        state[name] = torch.randn(state[name].shape, generator=random)
    state["head.scratch.output_conv2.2.weight"] *= 3
    state["head.scratch.output_conv2.2.bias"] += 15.0
    return state


def save_tiny(folder: Path, encoder: str = "vitl", seed: int = 0) -> Path:
    """A tiny network in the form and under the name of a published file."""
    path = folder / f"metric_video_depth_anything_{encoder}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tiny_state(seed), path)
    return path


def as_arrays(state: dict[str, torch.Tensor]) -> State:
    return {name: value.double().numpy() for name, value in state.items()}


def linear(state: State, name: str, x: Array) -> Array:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def layer_norm(state: State, name: str, x: Array, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


_erf = np.vectorize(math.erf)


def gelu(x: Array, conventions: Conventions) -> Array:
    if conventions.exact_gelu:
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Explicit softmax attention of (tokens, channels), one head after the other."""
    width = q.shape[1] // heads
    out = np.empty_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
    return out


def conv(state: State, name: str, x: Array, stride: int = 1, padding: int = 0) -> Array:
    """(C, H, W), cross-correlation, one output pixel after the other."""
    weight = state[f"{name}.weight"]
    size = weight.shape[2]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows = (padded.shape[1] - size) // stride + 1
    columns = (padded.shape[2] - size) // stride + 1
    out = np.empty((len(weight), rows, columns))
    flat = weight.reshape(len(weight), -1)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            out[:, row, column] = flat @ padded[:, top : top + size, left : left + size].ravel()
    return out + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else out


def conv_transposed(state: State, name: str, x: Array) -> Array:
    """Kernel as large as its stride: each input pixel becomes a tile of its own."""
    weight = state[f"{name}.weight"]  # (in, out, size, size)
    size = weight.shape[2]
    out = np.empty((weight.shape[1], x.shape[1] * size, x.shape[2] * size))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            tile = np.einsum("i,iokl->okl", x[:, row, column], weight)
            out[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = tile
    return out + state[f"{name}.bias"][:, None, None]


def bilinear(x: Array, size: Sequence[int], align_corners: bool) -> Array:
    """(C, H, W) -> (C, *size), one output pixel after the other."""

    def places(length: int, target: int) -> list[tuple[int, int, float]]:
        found = []
        for index in range(target):
            if align_corners:
                at = index * (length - 1) / (target - 1) if target > 1 else 0.0
            else:
                at = max((index + 0.5) * length / target - 0.5, 0.0)
            low = min(int(at), length - 1)
            found.append((low, min(low + 1, length - 1), at - low))
        return found

    rows, columns = places(x.shape[1], size[0]), places(x.shape[2], size[1])
    out = np.empty((len(x), len(rows), len(columns)))
    for i, (top, bottom, down) in enumerate(rows):
        for j, (left, right, across) in enumerate(columns):
            upper = (1 - across) * x[:, top, left] + across * x[:, top, right]
            lower = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
            out[:, i, j] = (1 - down) * upper + down * lower
    return out


def cubic_weight(distance: float) -> float:
    """Keys' kernel with a = -0.75, as OpenCV and PyTorch have it."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def bicubic(x: Array, size: Sequence[int], factors: Sequence[float]) -> Array:
    """(C, H, W) -> (C, *size), pixel centres at halves, the border repeated."""
    matrices = []
    for length, target, factor in zip(x.shape[1:], size, factors, strict=True):
        matrix = np.zeros((target, length))
        for index in range(target):
            at = (index + 0.5) / factor - 0.5
            for tap in range(math.floor(at) - 1, math.floor(at) + 3):
                matrix[index, min(max(tap, 0), length - 1)] += cubic_weight(at - tap)
        matrices.append(matrix)
    return np.einsum("ih,chw,jw->cij", matrices[0], x, matrices[1])


def position_encoding(channels: int) -> Array:
    table = np.empty((32, channels))
    for position in range(32):
        for channel in range(channels):
            angle = position / 10000 ** ((channel - channel % 2) / channels)
            table[position, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    return table


def encode(state: State, frame: Array, conventions: Conventions = PUBLISHED) -> list[Array]:
    """(3, H, W) -> four (N, D)."""
    patches = conv(state, "pretrained.patch_embed.proj", frame, stride=14)
    rows, columns = patches.shape[1:]
    embedding = state["pretrained.pos_embed"][0]
    trained = embedding[1:].T.reshape(DIM, GRID, GRID)
    if (rows, columns) != (GRID, GRID):
        factors = [(side + conventions.position_offset) / GRID for side in (rows, columns)]
        trained = bicubic(trained, (rows, columns), factors)
    x = patches.reshape(DIM, -1).T + trained.reshape(DIM, -1).T
    x = np.concatenate([state["pretrained.cls_token"][0] + embedding[:1], x])
    tapped = []
    for number in range(DEPTH):
        block = f"pretrained.blocks.{number}"
        qkv = linear(state, f"{block}.attn.qkv", layer_norm(state, f"{block}.norm1", x, 1e-6))
        mixed = linear(state, f"{block}.attn.proj", attend(*np.split(qkv, 3, axis=1), ENCODER_HEADS))
        x = x + mixed * state[f"{block}.ls1.gamma"]
        hidden = gelu(linear(state, f"{block}.mlp.fc1", layer_norm(state, f"{block}.norm2", x, 1e-6)), conventions)
        x = x + linear(state, f"{block}.mlp.fc2", hidden) * state[f"{block}.ls2.gamma"]
        if number in TAPS:
            normed = conventions.norm_every_tap or number == TAPS[-1]
            tapped.append((layer_norm(state, "pretrained.norm", x, 1e-6) if normed else x)[1:])
    return tapped


def temporal(state: State, number: int, x: Array, conventions: Conventions = PUBLISHED) -> Array:
    """(T, C, H, W) -> the same."""
    module = f"head.motion_modules.{number}.temporal_transformer"
    block = f"{module}.transformer_blocks.0"
    frames, channels, rows, columns = x.shape
    normed = np.empty_like(x)
    for frame in range(frames):
        for group in np.split(np.arange(channels), GROUPS):
            values = x[frame, group]
            normed[frame, group] = (values - values.mean()) / np.sqrt(values.var() + 1e-6)
    normed = normed * state[f"{module}.norm.weight"][:, None, None] + state[f"{module}.norm.bias"][:, None, None]
    out = x.copy()
    for row in range(rows):
        for column in range(columns):
            y = linear(state, f"{module}.proj_in", normed[:, :, row, column])
            for number in (0, 1):
                attention = f"{block}.attention_blocks.{number}"
                plain = layer_norm(state, f"{block}.norms.{number}", y, 1e-5)
                placed = plain + state[f"{attention}.pos_encoder.pe"][0, :frames]
                values = placed if conventions.position_encoding_on_values else plain
                q, k = linear(state, f"{attention}.to_q", placed), linear(state, f"{attention}.to_k", placed)
                v = linear(state, f"{attention}.to_v", values)
                y = y + linear(state, f"{attention}.to_out.0", attend(q, k, v, TEMPORAL_HEADS))
            first, second = np.split(
                linear(state, f"{block}.ff.net.0.proj", layer_norm(state, f"{block}.ff_norm", y, 1e-5)), 2, axis=1
            )
            value, gate = (first, second) if conventions.value_before_gate else (second, first)
            y = y + linear(state, f"{block}.ff.net.2", value * gelu(gate, conventions))
            out[:, :, row, column] += linear(state, f"{module}.proj_out", y)
    return out


def fuse(state: State, level: int, x: Array, skip: Array | None, size: Sequence[int], align_corners: bool) -> Array:
    name = f"head.scratch.refinenet{level}"

    def unit(number: int, y: Array) -> Array:
        inner = conv(state, f"{name}.resConfUnit{number}.conv1", np.maximum(y, 0), padding=1)
        return y + conv(state, f"{name}.resConfUnit{number}.conv2", np.maximum(inner, 0), padding=1)

    x = unit(2, x if skip is None else x + unit(1, skip))
    return conv(state, f"{name}.out_conv", bilinear(x, size, align_corners))


def decode(
    state: State, levels: Sequence[Sequence[Array]], grid: tuple[int, int], conventions: Conventions = PUBLISHED
) -> Array:
    """Levels of T frames, four (N, D) each -> (T, 14 h, 14 w)."""
    aligned = conventions.align_corners

    def resized(level: int, tokens: Array) -> Array:
        x = conv(state, f"head.projects.{level}", tokens.T.reshape(DIM, *grid))
        name = f"head.resize_layers.{level}"
        if level < 2:
            return conv_transposed(state, name, x)
        return x if level == 2 else conv(state, name, x, stride=2, padding=1)

    def reduced(level: int, maps: Sequence[Array]) -> list[Array]:
        return [conv(state, f"head.scratch.layer{level + 1}_rn", x, padding=1) for x in maps]

    maps = [[resized(level, tokens[level]) for tokens in levels] for level in range(4)]
    maps[2:] = [list(temporal(state, number, np.stack(maps[2 + number]), conventions)) for number in (0, 1)]
    one, two, three, four = (reduced(level, maps[level]) for level in range(4))
    path = [fuse(state, 4, x, None, three[0].shape[1:], aligned) for x in four]
    path = temporal(state, 2, np.stack(path), conventions)
    path = [fuse(state, 3, x, skip, two[0].shape[1:], aligned) for x, skip in zip(path, three, strict=True)]
    path = temporal(state, 3, np.stack(path), conventions)
    depths = []
    for x, skip_2, skip_1 in zip(path, two, one, strict=True):
        x = fuse(state, 2, x, skip_2, skip_1.shape[1:], aligned)
        x = fuse(state, 1, x, skip_1, [2 * side for side in skip_1.shape[1:]], aligned)
        x = conv(state, "head.scratch.output_conv1", x, padding=1)
        x = bilinear(x, (14 * grid[0], 14 * grid[1]), aligned)
        x = np.maximum(conv(state, "head.scratch.output_conv2.0", x, padding=1), 0)
        depths.append(np.maximum(conv(state, "head.scratch.output_conv2.2", x), 0)[0])
    return np.stack(depths)


def network(state: State, frames: Array, conventions: Conventions = PUBLISHED) -> Array:
    """(T, 3, H, W) -> (T, H, W) metres."""
    grid = (frames.shape[2] // 14, frames.shape[3] // 14)
    return decode(state, [encode(state, frame, conventions) for frame in frames], grid, conventions)


def whole_video(
    inputs: Sequence[Array], window: Callable[[Array], Array], replace_inputs: bool = True, crossfade: bool = True
) -> list[Array]:
    """The long-video scheme as it is told, with all frames and all depths in memory and nothing left out.

    Args:
        inputs: prepared frames.
        window: 32 inputs -> 32 depth maps.
        replace_inputs, crossfade: False breaks the scheme on purpose.
    """
    count = len(inputs)
    padded = list(inputs) + [inputs[-1]] * ((22 - count % 22) % 22 + 10)
    keyframes = [0, 12, 24, 25, 26, 27, 28, 29, 30, 31]
    outputs, previous = [], None
    for start in range(0, count, 22):
        current = padded[start : start + 32]
        if previous is not None and replace_inputs:
            current[:10] = [previous[slot] for slot in keyframes]
        outputs.append(window(np.stack(current)))
        previous = current
    emitted = list(outputs[0])
    for new in outputs[1:]:
        scale, shift = 1.0, 0.0  # of a metric network
        for place in range(8):
            weight = place / 7 if crossfade else 0.0
            value = np.maximum(new[2 + place] * scale + shift, 0)
            emitted[-8 + place] = (1 - weight) * emitted[-8 + place] + weight * value
        emitted += [np.maximum(new[slot] * scale + shift, 0) for slot in range(10, 32)]
    return emitted[:count]
