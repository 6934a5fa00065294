"""FLUX.1-dev in small, with random weights, in the folder layout of the real one; and LoRA files that fit it.

2 + 2 blocks of 2 heads, a VAE with the real one's 16 channels, /8 and shift, T5 and CLIP of one layer, tokenizers made here.
Everything random is far from zero, norms too, so that no wrong convention hides behind a one or a nought.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.engines.genfocus.lora import Lora, adapted_layers

TRANSFORMER = {
    "num_layers": 2,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "in_channels": 64,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
}
RANK = 3
SHARPER = 2.5
WORDS = ["a", "an", "and", "photo", "sharp", "with", "everything", "in", "focus", "excellent", "large", "aperture"]


def randomise(model: Any, seed: int) -> Any:
    """Every parameter random; weights about as large as keeps activations near 1, biases and norms away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
            parameter.copy_(drawn * fan_in**-0.5 if fan_in else 0.7 + 0.3 * drawn)
    return model.eval()


def transformer(seed: int = 0, **changes: Any) -> Any:
    """A small FluxTransformer2DModel, float32."""
    from diffusers import FluxTransformer2DModel

    made = randomise(FluxTransformer2DModel(**(TRANSFORMER | changes)), seed)
    with torch.no_grad():  # attention that prefers some tokens: 512 words would drown a few conditions otherwise
        for name, weight in made.named_parameters():
            if ".norm_q." in name or ".norm_k." in name or ".norm_added_" in name:
                weight *= SHARPER
    return made


def vae(seed: int = 1) -> Any:
    """A small AutoencoderKL with FLUX's latent space, float32."""
    from diffusers import AutoencoderKL

    made = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=16,
        sample_size=64,
        shift_factor=0.1159,
        scaling_factor=0.3611,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    randomise(made, seed)
    with torch.no_grad():  # pictures around grey: what is clamped to black and white would hide differences
        made.decoder.conv_out.weight *= 0.3
        made.decoder.conv_out.bias.zero_()
    return made


def scheduler() -> Any:
    """FLUX.1-dev's."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def text_models() -> dict[str, Any]:
    """Encoders and tokenizers by their names in a FluxPipeline."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

    t5_vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    clip_vocab = {f"{word}</w>": number for number, word in enumerate(WORDS)}
    letters = sorted({letter for word in WORDS for letter in word})
    for piece in (*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"):
        clip_vocab.setdefault(piece, len(clip_vocab))
    end = clip_vocab["<|endoftext|>"]
    clip = CLIPTextConfig(
        vocab_size=len(clip_vocab),
        hidden_size=20,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=end,
        bos_token_id=end - 1,
        pad_token_id=end,
    )
    t5 = T5Config(vocab_size=len(t5_vocab) + 5, d_model=24, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return {
        "text_encoder": randomise(CLIPTextModel(clip), 2),
        "tokenizer": CLIPTokenizer(vocab=clip_vocab, merges=[], model_max_length=77),
        "text_encoder_2": randomise(T5EncoderModel(t5), 3),
        "tokenizer_2": T5Tokenizer(vocab=t5_vocab, extra_ids=0, model_max_length=512),
    }


def lora(config: Mapping[str, Any] = TRANSFORMER, seed: int = 4, rank: int = RANK) -> Lora:
    """A random LoRA whose effect is as large as the base's, float32."""
    generator = torch.Generator().manual_seed(seed)
    return Lora(
        {
            name: (
                torch.randn(rank, inputs, generator=generator) * inputs**-0.5,
                torch.randn(outputs, rank, generator=generator) * rank**-0.5,
            )
            for name, (inputs, outputs) in adapted_layers(config).items()
        }
    )


def lora_tensors(adapter: Lora, prefix: str = "transformer.") -> dict[str, torch.Tensor]:
    """As the published files name them."""
    tensors = {}
    for name, (a, b) in adapter.pairs.items():
        tensors[f"{prefix}{name}.lora_A.weight"], tensors[f"{prefix}{name}.lora_B.weight"] = a, b
    return tensors


def write_weights(folder: Path) -> Path:
    """FLUX.1-dev/ and the three LoRA files, as the registry names them."""
    from diffusers import FluxPipeline

    pipe = FluxPipeline(scheduler=scheduler(), vae=vae(), transformer=transformer(), **text_models())
    pipe.save_pretrained(folder / "FLUX.1-dev")
    for seed, name in enumerate(
        ("deblurNet.safetensors", "deblurNet_with_pre_deblur.safetensors", "bokehNet.safetensors"), 10
    ):
        save_file(lora_tensors(lora(seed=seed)), folder / name)
    return folder
