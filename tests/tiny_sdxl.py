"""SDXL in small, with random weights, in the folder layout of the real one; a LoRA and a vae.ckpt that fit it.

The real one's block types, two transformer blocks where PISA sits, a VAE with /8 and SDXL's scaling, two CLIP encoders,
tokenizers made here. Everything random is far from zero, norms too, so that no wrong convention hides behind a one or a nought.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_flux import WORDS, randomise

from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.options import BASE, LORA, VAE
from pipeline.engines.bokehdiff.vae import trained_shapes

WIDTHS = (20, 12)  # of the two text encoders
POOLED = 10
UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2, 1),
    "attention_head_dim": (1, 2, 2),
    "cross_attention_dim": sum(WIDTHS),
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": POOLED + 6 * 4,
}
RANK = 3
LOUDER = 5.0


def unet(seed: int = 0, **changes: Any) -> Any:
    """A small UNet2DConditionModel, float32."""
    from diffusers import UNet2DConditionModel

    made = randomise(UNet2DConditionModel(**(UNET | changes)), seed)
    block = made.down_blocks[1].attentions[0]
    with torch.no_grad():  # where light goes must show in a picture
        block.proj_out.weight *= LOUDER
        for inner in block.transformer_blocks:
            inner.attn1.to_out[0].weight *= LOUDER
    return made


def vae(seed: int = 1) -> Any:
    """A small AutoencoderKL with SDXL's latent space, float32."""
    from diffusers import AutoencoderKL

    made = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
        scaling_factor=0.13025,
    )
    randomise(made, seed)
    with torch.no_grad():  # pictures around grey: what is clamped to black and white would hide differences
        made.decoder.conv_out.weight *= 0.25
        made.decoder.conv_out.bias.zero_()
    return made


def scheduler() -> Any:
    """SDXL's schedule; the published bases name one sampler or another, and the betas are the same."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def text_models() -> dict[str, Any]:
    """Encoders and tokenizers by their names in a StableDiffusionXLPipeline."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    vocab = {f"{word}</w>": number for number, word in enumerate(WORDS)}
    letters = sorted({letter for word in WORDS for letter in word})
    for piece in (*letters, *(f"{letter}</w>" for letter in letters), "!", "<|startoftext|>", "<|endoftext|>"):
        vocab.setdefault(piece, len(vocab))
    end = vocab["<|endoftext|>"]

    def config(width: int) -> Any:
        return CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=POOLED,
            eos_token_id=end,
            bos_token_id=end - 1,
            pad_token_id=end,
        )

    tokenizers = [
        CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token=pad) for pad in ("<|endoftext|>", "!")
    ]
    return {
        "text_encoder": randomise(CLIPTextModel(config(WIDTHS[0])), 2),
        "text_encoder_2": randomise(CLIPTextModelWithProjection(config(WIDTHS[1])), 3),
        "tokenizer": tokenizers[0],
        "tokenizer_2": tokenizers[1],
    }


def lora(net: Any, seed: int = 4) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of every adapted layer, float32, as large in effect as half the weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[1] ** -0.5 / 2

    return {
        name: (draw(RANK, *shape[1:]), draw(shape[0], RANK, *(1,) * (len(shape) - 2)))
        for name, shape in adapted_layers(net).items()
    }


def lora_tensors(
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    prefix: str = "unet.",
    names: tuple[str, str] = ("lora_A", "lora_B"),
) -> dict[str, torch.Tensor]:
    """As one layout or another names them."""
    return {
        f"{prefix}{layer}.{name}.weight": tensor.clone()
        for layer, pair in pairs.items()
        for name, tensor in zip(names, pair, strict=True)
    }


def trained_vae(base: Any, seed: int = 5) -> dict[str, torch.Tensor]:
    """What vae.ckpt holds: the three parts of the encoder, moved a little."""
    generator = torch.Generator().manual_seed(seed)
    state = base.state_dict()
    return {
        name: state[name] + 0.05 * torch.randn(shape, generator=generator)
        for name, shape in trained_shapes(base).items()
    }


def write_weights(folder: Path) -> Path:
    """The base and BokehDiff's two files, as the registry names them."""
    net, coder, base = unet(), vae(), folder / BASE
    parts = {"unet": net, "vae": coder, "scheduler": scheduler(), **text_models()}
    for name, part in parts.items():
        part.save_pretrained(base / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"} | index))
    (folder / "bokehdiff").mkdir()
    save_file(lora_tensors(lora(net)), folder / "bokehdiff" / LORA)
    torch.save(trained_vae(coder), folder / "bokehdiff" / VAE)
    return folder
