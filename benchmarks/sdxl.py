"""What BokehDiff costs: seconds a frame and peak memory, with random weights of SDXL's full size.

    python benchmarks/sdxl.py                    # SDXL's shapes in bf16 on a GPU: 2.6 billion parameters, 5.3 GB
    python benchmarks/sdxl.py --tile_batch 15    # all tiles of a 1080p frame at once
    python benchmarks/sdxl.py --quick            # a small network on the CPU: whether it runs, not how fast SDXL is
    python benchmarks/sdxl.py --count            # parameters and adapted layers, from shapes alone

Weights are random, so the pictures are noise; time and memory do not depend on what the weights are. Thirty steps of BokehNet
to compare with: benchmarks/genfocus.py.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.device import resolve_device
from pipeline.engines.bokehdiff.load import Parts, pisa_of
from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.network import SdxlNetwork
from pipeline.engines.bokehdiff.options import BokehDiffOptions
from pipeline.engines.bokehdiff.pisa import Defocus
from pipeline.engines.bokehdiff.processor import install
from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.errors import PipelineError

SIZES = ((848, 480), (1920, 1088))
QUICK_SIZES = ((96, 64),)
# The configuration of SDXL's base model.
UNET: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL = UNET | {
    "block_out_channels": (32, 32, 32),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2, 1),
    "attention_head_dim": (1, 2, 2),
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
}
SMALL_VAE = VAE | {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}


def random_model(kind_of: Any, config: dict[str, Any], device: str, kind: torch.dtype) -> Any:
    """A diffusers model with small random weights, made where it is to be; its size in float32 is never held."""
    torch.set_default_dtype(kind)
    try:
        with torch.device("meta"):
            made = kind_of(**config)
    finally:
        torch.set_default_dtype(torch.float32)
    model = made.to_empty(device=device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


def random_parts(quick: bool, options: BokehDiffOptions, device: str) -> Parts:
    """All that the engine reads, at random, on `device`."""
    kind = torch.float32 if options.dtype == "fp32" else torch.bfloat16
    library = diffusers()
    unet = random_model(library.UNet2DConditionModel, SMALL if quick else UNET, device, kind)
    return Parts(
        unet=unet,
        vae=random_model(library.AutoencoderKL, SMALL_VAE if quick else VAE, device, kind),
        pisa=install(unet, pisa_of(options)),
        text=Prompt(torch.randn(1, 77, 2048), torch.randn(1, 1280)),
        alpha=0.28,
    )


def measure(network: SdxlNetwork, size: tuple[int, int], repeat: int, on_cuda: bool) -> dict[str, float]:
    """Median seconds of `repeat` frames after one that is not counted, calls of the network, and the peak memory."""
    width, height = size
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    disparity = torch.linspace(0, 1, width).expand(1, height, width)
    defocus = Defocus(disparity=disparity, focus=0.5, gain_px=60.0)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    seconds = []
    for _ in range(1 + repeat):
        calls = 0
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        network.render(frame, defocus, count)
        seconds.append(time.perf_counter() - started)
    used = torch.cuda.max_memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds_per_frame": float(np.median(seconds[1:])), "network_calls": calls, "peak_gib": used / 2**30}


def counted() -> dict[str, int]:
    """Parameters and adapted layers of the full shapes; nothing is held."""
    library = diffusers()
    with torch.device("meta"):
        unet, vae = library.UNet2DConditionModel(**UNET), library.AutoencoderKL(**VAE)
    layers = adapted_layers(unet)
    return {
        "unet_parameters": sum(value.numel() for value in unet.parameters()),
        "vae_parameters": sum(value.numel() for value in vae.parameters()),
        "adapted_layers": len(layers),
        "lora_parameters": sum(8 * (shape[0] + int(np.prod(shape[1:]))) for shape in layers.values()),
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and a small frame")
    parser.add_argument("--count", action="store_true", help="count parameters and stop")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--repeat", type=int, default=3, help="frames that are timed")
    parser.add_argument("--tile_batch", type=int, default=4, help="tiles per call of the network")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All sizes; a row each."""
    device = "cpu" if args.quick else resolve_device(args.device)
    if device == "cpu" and not args.quick:
        raise PipelineError("the full size needs a CUDA device; --quick runs a small network on the CPU")
    options = BokehDiffOptions(dtype="fp32" if args.quick else "bf16", tile_batch=args.tile_batch)
    network = SdxlNetwork(lambda: random_parts(args.quick, options, device), options, device)
    return [
        {"width": size[0], "height": size[1]} | measure(network, size, args.repeat, device != "cpu")
        for size in (QUICK_SIZES if args.quick else SIZES)
    ]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.count:
        print("\n".join(f"{name} {value:,}" for name, value in counted().items()))
        return 0
    try:
        rows = run(args)
    except (PipelineError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = "CPU, a small network" if args.quick else f"{torch.cuda.get_device_name()}, SDXL in bf16"
    for row in rows:
        print(
            f"{name}, {row['width']}x{row['height']}, {row['network_calls']} calls of up to {args.tile_batch} tiles: "
            f"{row['seconds_per_frame']:.3f} s a frame, peak {row['peak_gib']:.1f} GiB"
        )
    if args.json:
        args.json.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
