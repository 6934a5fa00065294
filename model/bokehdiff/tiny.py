"""A tiny SDXL in the folder layout of the real one, made and not trained, that returns the picture it is given.

python -m model.bokehdiff.tiny tiny/RealVisXL_V5.0          # then: model.base = "tiny/RealVisXL_V5.0"

SDXL knows pictures before BokehDiff teaches it blur. So does this one, in the way that weights written by hand allow: its VAE
keeps the means of 4 x 4 pixels and interpolates them, and its UNet calls that part of a clean latent noise which leaves the
latent as it is. Everything beside these paths is random from a seed, and takes part once something is trained. What it is not:
a network worth looking at; it is for trainings on a CPU and for trying every step of the way.

Norms would take brightness and contrast out of a path. Two channels of +M and -M, far larger than the picture, fix the scale of
all; each number travels as a pair of channels, x and -x, whose difference knows no mean and passes SiLU unbent.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.engines.bokehdiff.step import TIMESTEP
from pipeline.engines.genfocus.libraries import diffusers, transformers
from pipeline.engines.genfocus.prompts import BOKEH_PROMPT
from pipeline.errors import ExitCode, UsageError
from pipeline.seeds import stable_seed

LATENTS = 12  # 2 x 2 means of three colours: a latent of 8 px
_VAE_WIDTHS = (16, 24, 40, 40)
_UNET_WIDTHS = (48, 64, 64)
_TEXT_WIDTHS, _POOLED = (20, 12), 10
_SCALING = 0.13025  # SDXL's
_STD = 1.5  # of a scaled latent, over that of pixels in [-1, 1]
_CONSTANT = 8.0  # M


def _set(layer: Any, entries: dict[tuple[int, ...], float], bias: dict[int, float] | None = None) -> None:
    """Write the named output channels of a layer and leave the others random."""
    with torch.no_grad():
        for row in {key[0] for key in entries} | set(bias or {}):
            layer.weight[row] = 0
            if layer.bias is not None:
                layer.bias[row] = (bias or {}).get(row, 0.0)
        for key, value in entries.items():
            layer.weight[key] = value


def _pairs(count: int) -> tuple[int, int]:
    """Where the two constants stand behind `count` numbers and their negatives."""
    return 2 * count, 2 * count + 1


def _into_pairs(layer: nn.Conv2d, count: int, scale: float = 1.0) -> None:
    """Channels 0 .. count - 1 as x and -x, and the constants from the bias."""
    entries: dict[tuple[int, ...], float] = {
        (n + part * count, n, 1, 1): scale * (1 - 2 * part) for n in range(count) for part in (0, 1)
    }
    plus, minus = _pairs(count)
    _set(layer, entries, {plus: _CONSTANT, minus: -_CONSTANT})


def _out_of_pairs(norm: Any, layer: nn.Conv2d, count: int, scale: float) -> None:
    """scale x behind the norm and SiLU, since silu(x) - silu(-x) = x."""
    std = _CONSTANT * (2 / layer.weight.shape[1]) ** 0.5
    with torch.no_grad():
        norm.weight[: 2 * count] = std
    _set(layer, {(n, n + part * count, 1, 1): scale * (1 - 2 * part) for n in range(count) for part in (0, 1)})


def _carry(layer: nn.Conv2d, count: int, tap: tuple[int, ...]) -> None:
    """The first numbers, negatives and constants go through unchanged, at one tap of the kernel."""
    _set(layer, {(n, n, *tap): 1.0 for n in range(2 * count + 2)})


def _quiet(model: Any) -> None:
    """Residual branches of the VAE add nothing at first; what is trained wakes them."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("conv2", "to_out.0")):
                module.weight.zero_()
                module.bias.zero_()


def _spread(layer: nn.Conv2d, taps: dict[tuple[int, int], float], count: int, constants: tuple[int, int]) -> None:
    """The same taps for each of `count` numbers and their negatives; the constants at the tap in the middle, or the first."""
    entries: dict[tuple[int, ...], float] = {}
    for n in range(2 * count):
        entries |= {(n, n, *tap): value for tap, value in taps.items()}
    middle = (1, 1) if (2, 2) in taps else (0, 0)
    entries |= {(at, at, *middle): 1.0 for at in constants}
    _set(layer, entries)


_MEAN = {(row, column): 0.25 for row in (0, 1) for column in (0, 1)}
_LINE = (0.25, 0.5, 0.25)  # behind doubled pixels: interpolation between the middles of the coarser ones
_SMOOTH = {(row, column): _LINE[row] * _LINE[column] for row in range(3) for column in range(3)}
_PHASE = ((0.0, 0.25, 0.25), (0.25, 0.25, 0.0))  # half the number itself, half its neighbours' mean


def make_vae(seed: int) -> Any:
    """An AutoencoderKL that keeps means of 4 x 4 pixels and interpolates them."""
    torch.manual_seed(stable_seed("tiny vae", seed))
    made = diffusers().AutoencoderKL(
        block_out_channels=_VAE_WIDTHS, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=1, latent_channels=LATENTS,
        sample_size=64, scaling_factor=_SCALING,
    )  # fmt: skip
    _quiet(made)
    scale = _STD / _SCALING
    encoder, decoder, old, new = made.encoder, made.decoder, _pairs(3), _pairs(LATENTS)
    _into_pairs(encoder.conv_in, 3)
    for number, block in enumerate(encoder.down_blocks):
        if hasattr(block.resnets[0], "conv_shortcut") and block.resnets[0].conv_shortcut is not None:
            _carry(block.resnets[0].conv_shortcut, 3, (0, 0))
        if number < 2:
            _spread(block.downsamplers[0].conv, _MEAN, 3, old)
    parted: dict[tuple[int, ...], float] = {}
    gathered: dict[tuple[int, ...], float] = {}
    for n in range(LATENTS):
        colour, row, column = n // 4, n // 2 % 2, n % 2
        for part in (0, 1):
            parted[n + part * LATENTS, colour + part * 3, row, column] = 1.0
            for y in range(3):
                for x in range(3):
                    share = _PHASE[row][y] * _PHASE[column][x]
                    gathered[colour + part * 3, n + part * LATENTS, y, x] = share
    for here, there in zip(old, new, strict=True):
        parted[there, here, 0, 0] = gathered[here, there, 1, 1] = 1.0
    _set(encoder.down_blocks[2].downsamplers[0].conv, parted)
    _out_of_pairs(encoder.conv_norm_out, encoder.conv_out, LATENTS, scale)
    _set(made.quant_conv, {(n, n, 0, 0): 1.0 for n in range(LATENTS)})
    _set(made.post_quant_conv, {(n, n, 0, 0): 1.0 for n in range(LATENTS)})
    _into_pairs(decoder.conv_in, LATENTS, 1 / scale)
    _set(decoder.up_blocks[0].upsamplers[0].conv, gathered)
    for number, block in enumerate(decoder.up_blocks):
        if number and block.resnets[0].conv_shortcut is not None:
            _carry(block.resnets[0].conv_shortcut, 3, (0, 0))
        if number in (1, 2):
            _spread(block.upsamplers[0].conv, _SMOOTH, 3, old)
    _out_of_pairs(decoder.conv_norm_out, decoder.conv_out, 3, 1.0)
    return made.eval()


def make_unet(seed: int) -> Any:
    """A UNet2DConditionModel with SDXL's blocks; one step of it returns the latent that it is given."""
    torch.manual_seed(stable_seed("tiny unet", seed))
    made = diffusers().UNet2DConditionModel(
        sample_size=128, in_channels=LATENTS, out_channels=LATENTS, block_out_channels=_UNET_WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1,
        transformer_layers_per_block=(1, 2, 1), attention_head_dim=(2, 4, 4), cross_attention_dim=sum(_TEXT_WIDTHS),
        norm_num_groups=1, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=_POOLED + 6 * 4,
    )  # fmt: skip
    alpha = float(make_scheduler().alphas_cumprod[TIMESTEP])
    _into_pairs(made.conv_in, LATENTS)
    last, width = made.up_blocks[-1].resnets[-1], _UNET_WIDTHS[0]
    with torch.no_grad():
        last.conv2.weight.zero_()
        last.conv2.bias.zero_()
    # Behind the block's own channels come those of the first skip, which is conv_in's output.
    _set(last.conv_shortcut, {(n, width + n, 0, 0): 1.0 for n in range(2 * LATENTS + 2)})
    _out_of_pairs(made.conv_norm_out, made.conv_out, LATENTS, (1 - alpha**0.5) / (1 - alpha) ** 0.5)
    return made.eval()


def make_scheduler() -> Any:
    """SDXL's schedule."""
    return diffusers().DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )


def make_text() -> dict[str, Any]:
    """Two text encoders of one width each and tokenizers that know the words of the one prompt."""
    library = transformers()
    vocabulary: dict[str, int] = {}
    words = BOKEH_PROMPT.split()
    letters = sorted(set("".join(words)))
    for piece in (*(f"{word}</w>" for word in words), *letters, *(f"{letter}</w>" for letter in letters)):
        vocabulary.setdefault(piece, len(vocabulary))
    for piece in ("!", "<|startoftext|>", "<|endoftext|>"):
        vocabulary[piece] = len(vocabulary)
    end = vocabulary["<|endoftext|>"]
    made: dict[str, Any] = {}
    for suffix, width, kind, pad in (
        ("", _TEXT_WIDTHS[0], "CLIPTextModel", "<|endoftext|>"),
        ("_2", _TEXT_WIDTHS[1], "CLIPTextModelWithProjection", "!"),
    ):
        config = library.CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=width, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, projection_dim=_POOLED, eos_token_id=end, bos_token_id=end - 1, pad_token_id=end,
        )  # fmt: skip
        torch.manual_seed(stable_seed("tiny text", kind))
        made[f"text_encoder{suffix}"] = getattr(library, kind)(config)
        made[f"tokenizer{suffix}"] = library.CLIPTokenizer(
            vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad
        )
    return made


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """The whole folder.

    Raises:
        UsageError: it exists already.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already; remove it, or give another folder")
    return write_base(folder, {"unet": make_unet(seed), "vae": make_vae(seed)})


def write_base(folder: Path, networks: dict[str, Any]) -> Path:
    """UNet and VAE with a schedule and text encoders, as diffusers writes a pipeline."""
    parts = {**networks, "scheduler": make_scheduler(), **make_text()}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"} | index))
    return folder


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it is written")
    parser.add_argument("--seed", type=int, default=0, help="of what is random in it")
    args = parser.parse_args(argv)

    def body() -> ExitCode:
        write_tiny(args.folder, args.seed)
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
