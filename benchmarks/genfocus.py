"""What the published Genfocus networks cost: seconds a frame and peak memory, with random weights of the full size.

    python benchmarks/genfocus.py                     # FLUX.1-dev's shapes in bf16 on a GPU: 12 billion parameters, 24 GB
    python benchmarks/genfocus.py --compile --tile_batch 4
    python benchmarks/genfocus.py --offload sequential --repeat 1
    python benchmarks/genfocus.py --quick             # a small network on the CPU: whether it runs, not how fast FLUX is

Weights are random, so the pictures are noise; time and memory do not depend on what the weights are. Reading them from
disk, and the text encoders, are not part of it: an engine does that once.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.device import resolve_device
from pipeline.engines.genfocus.deblur import GUIDANCE
from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.latents import Noise
from pipeline.engines.genfocus.libraries import diffusers
from pipeline.engines.genfocus.load import Parts, dtype_of
from pipeline.engines.genfocus.lora import Lora, adapted_layers
from pipeline.engines.genfocus.network import FluxNetwork, Sampling
from pipeline.engines.genfocus.options import FluxOptions
from pipeline.engines.genfocus.prompts import TOKENS
from pipeline.errors import PipelineError

SIZES = ((848, 480), (1920, 1088))
QUICK_SIZES = ((96, 64), (528, 512))
RANK = 64
# The configuration of black-forest-labs/FLUX.1-dev.
FLUX: dict[str, Any] = {
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "in_channels": 64,
}
SMALL = FLUX | {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "joint_attention_dim": 32,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SMALL_VAE = VAE | {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the two engines: how many conditions it has, how many steps by default, how it is guided."""

    name: str
    conditions: int
    steps: int
    guidance: float


STAGES = (
    Stage(name="genfocus", conditions=1, steps=8, guidance=GUIDANCE),
    Stage(name="bokehnet", conditions=2, steps=30, guidance=1.0),
)


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


def random_parts(quick: bool, kind: torch.dtype, device: str) -> Parts:
    """All that an engine reads, at random, on `device`."""
    config = SMALL if quick else FLUX
    library = diffusers()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=kind) * 0.02

    return Parts(
        net=random_model(library.FluxTransformer2DModel, config, device, kind),
        vae=random_model(library.AutoencoderKL, SMALL_VAE if quick else VAE, device, kind),
        scheduler=library.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        lora=Lora(
            {
                name: (normal(RANK, inputs), normal(outputs, RANK))
                for name, (inputs, outputs) in adapted_layers(config).items()
            }
        ),
        prompt=Prompt(
            normal(1, TOKENS, config["joint_attention_dim"]),
            normal(1, config["pooled_projection_dim"]),
        ),
    )


def measure(network: FluxNetwork, stage: Stage, size: tuple[int, int], repeat: int, device: str) -> dict[str, float]:
    """Median seconds of `repeat` frames after one that is not counted, calls of the network, and the peak memory."""
    width, height = size
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    seconds = []
    for number in range(1 + repeat):
        noise, calls = Noise(number, device), 0
        sampling = Sampling(
            images=[network.condition(frame)] * stage.conditions,
            deltas=[(0, 0)] * stage.conditions,
            guidance=stage.guidance,
            noise=noise,
            posterior_noise=noise,
        )
        started = time.perf_counter()
        network.generate(sampling, count)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds_per_frame": float(np.median(seconds[1:])),
        "network_calls": calls - 1,  # one more lies between encoding and denoising
        "peak_gib": network.peak_gib(),
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and small frames, two steps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--steps", type=int, default=0, help="of both engines; 8 and 30 by default")
    parser.add_argument("--repeat", type=int, default=3, help="frames that are timed")
    parser.add_argument("--tile_batch", type=int, default=1, help="tiles per call of the network")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks; the first frame is slow")
    parser.add_argument("--offload", default="none", help="none, model or sequential")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All sizes and engines; a row each."""
    device = "cpu" if args.quick else resolve_device(args.device)
    if device == "cpu" and not args.quick:
        raise PipelineError("the full size needs a CUDA device; --quick runs a small network on the CPU")
    kind = "fp32" if args.quick else "bf16"
    rows = []
    for stage in STAGES:
        options = FluxOptions(
            steps=args.steps or (2 if args.quick else stage.steps),
            dtype=kind,
            tile_batch=args.tile_batch,
            compile=args.compile,
            offload=args.offload,
        )
        home = "cpu" if options.offload != "none" else device
        network = FluxNetwork(partial(random_parts, args.quick, dtype_of(options), home), options, device)
        for size in QUICK_SIZES if args.quick else SIZES:
            found = measure(network, stage, size, args.repeat, device)
            rows.append({"engine": stage.name, "width": size[0], "height": size[1], "steps": options.steps} | found)
    return rows


def show(rows: list[dict[str, Any]], title: str, console: Console) -> None:
    table = Table(title=title)
    for heading in ("engine", "frame", "steps", "network calls", "s per call", "s per frame", "peak GiB"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in rows:
        table.add_row(
            row["engine"],
            f"{row['width']}x{row['height']}",
            str(row["steps"]),
            str(row["network_calls"]),
            f"{row['seconds_per_frame'] / row['network_calls']:.3f}",
            f"{row['seconds_per_frame']:.2f}",
            f"{row['peak_gib']:.1f}",
        )
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        rows = run(args)
    except (PipelineError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if torch.cuda.is_available() and not args.quick else "CPU"
    where = f"{name}, {'a small network, fp32' if args.quick else 'FLUX.1-dev in bf16'}, offload {args.offload}"
    show(rows, f"{where}, tile_batch {args.tile_batch}{', compiled' if args.compile else ''}", Console())
    if args.json:
        args.json.write_text(json.dumps({"device": where, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
