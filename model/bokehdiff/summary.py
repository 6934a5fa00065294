"""What a BokehDiff costs: what trains, what stands still, and the operations of a picture of one tile.

python -m model.summary bokehdiff                       # SDXL's shape, no weights needed
python -m model.summary bokehdiff tiny/RealVisXL_V5.0 --rank 8 --side 512
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.bokehdiff.config import BokehDiffConfig
from pipeline.arguments import ArgumentParser
from pipeline.engines.bokehdiff.load import check_base
from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.step import LATENT_PX, TIMESTEP
from pipeline.engines.bokehdiff.vae import trained_shapes
from pipeline.engines.genfocus.checks import read_config
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.errors import UsageError

SDXL_UNET: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "sample_size": 128, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 1024,
}  # fmt: skip


def networks(base: Path | None) -> tuple[Any, Any]:
    """UNet and VAE without weights, of a folder or in SDXL's shape.

    Raises:
        UsageError: the folder holds no SDXL.
    """
    if base is not None:
        check_base(base)
    shapes = (SDXL_UNET, SDXL_VAE) if base is None else (read_config(base / "unet"), read_config(base / "vae"))
    with torch.device("meta"):
        return (
            diffusers().UNet2DConditionModel.from_config(shapes[0]),
            diffusers().AutoencoderKL.from_config(shapes[1]),
        )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def adapter_size(unet: nn.Module, rank: int) -> int:
    """Parameters of a LoRA of that rank: A takes an input's worth each, B an output's."""
    shapes = adapted_layers(unet).values()
    return sum(rank * (torch.Size(shape[1:]).numel() + shape[0]) for shape in shapes)


def operations(unet: Any, vae: Any, side: int) -> dict[str, float]:
    """GFLOP of encoding, one step and decoding a square picture of `side` px, of plain attention, counted on no data."""
    latent = torch.empty(1, vae.config.latent_channels, side // LATENT_PX, side // LATENT_PX, device="meta")
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    given = {"text_embeds": torch.empty(1, pooled, device="meta"), "time_ids": torch.empty(1, 6, device="meta")}
    words = torch.empty(1, 77, config.cross_attention_dim, device="meta")
    calls: dict[str, Any] = {
        "encode": lambda: vae.encode(torch.empty(1, 3, side, side, device="meta")),
        "step": lambda: unet(latent, TIMESTEP, words, added_cond_kwargs=given),
        "decode": lambda: vae.decode(latent),
    }
    found = {}
    for name, call in calls.items():
        counter: Any = FlopCounterMode(display=False)  # type: ignore[no-untyped-call]
        with torch.no_grad(), counter:
            call()
        found[name] = counter.get_total_flops() / 1e9
    return found


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?", help="folder of an SDXL; SDXL's shape without")
    parser.add_argument("--rank", type=int, default=BokehDiffConfig().rank, help="of the LoRA")
    parser.add_argument("--side", type=int, default=512, help="of the picture, a multiple of 64")
    args = parser.parse_args(argv)
    if args.side < 64 or args.side % 64 or args.rank < 1:
        parser.error(f"--side must be a multiple of 64 and --rank >= 1, got {args.side} and {args.rank}")
    try:
        unet, vae = networks(args.base)
    except UsageError as error:
        parser.error(str(error))
    trained = sum(torch.Size(shape).numel() for shape in trained_shapes(vae).values())
    table = Table("part", "parameters", "trains")
    for row in (
        ("UNet", count(unet), ""),
        (f"LoRA of rank {args.rank} on {len(adapted_layers(unet))} layers", adapter_size(unet, args.rank), "at lr"),
        ("VAE", count(vae) - trained, ""),
        ("three parts of the VAE's encoder", trained, "at 0.1 lr"),
    ):
        table.add_row(row[0], f"{row[1]:,}", row[2])
    console = Console(width=100)
    console.print(table)
    costs = Table(f"{args.side}x{args.side}", "GFLOP")
    for name, value in operations(unet, vae, args.side).items():
        costs.add_row(name, f"{value:,.1f}")
    console.print(costs)
    return 0
