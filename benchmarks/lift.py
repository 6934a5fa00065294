"""LIFT: parameters, time and memory of a picture and of a training step, per sample; full against windowed attention.

    python benchmarks/lift.py --device cuda --bf16                                    # the design, on a GPU
    python benchmarks/lift.py --device cuda --bf16 --sizes 1920x1080 3840x2160 --forward_only
    python benchmarks/lift.py --variants nano --sizes 96x96 --frames 14               # on a CPU core

Median of --repeat after one warm-up. Memory is what PyTorch allocated at the most on CUDA, weights included; on the CPU it is
what the process grew by over its imports, each case in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from model.lift.config import variant
from model.lift.layouts import dense
from model.lift.network import LiftNet


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    variant: str
    attention: str
    width: int
    height: int
    frames: int
    batch: int
    device: str
    bf16: bool
    backward: bool
    checkpointing: bool
    repeat: int


def measure(case: Case) -> tuple[int, float, float]:
    """Parameters, seconds per sample, MiB per sample."""
    config = replace(variant(case.variant), attention=case.attention)  # type: ignore[arg-type]
    torch.manual_seed(0)
    cuda = case.device.startswith("cuda")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = LiftNet(config).to(case.device).train(case.backward)
    if net.temporal is not None:
        net.temporal.checkpointing = case.checkpointing
    layout = dense(case.frames - case.frames // 2, case.frames // 2)
    frames = torch.rand(case.batch, case.frames, 3, case.height, case.width, device=case.device)
    offsets = torch.tensor(layout.offsets, device=case.device).expand(case.batch, -1)
    inputs = (
        frames,
        offsets,
        torch.ones_like(offsets, dtype=torch.bool),
        torch.full((case.batch,), 0.5, device=case.device),
    )
    times = []
    for _ in range(case.repeat + 1):
        start = time.perf_counter()
        with (
            torch.set_grad_enabled(case.backward),
            torch.autocast(frames.device.type, torch.bfloat16, enabled=case.bf16),
        ):
            raw = net(*inputs).raw
        if case.backward:
            raw.abs().mean().backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    grown = torch.cuda.max_memory_allocated() / 2**20 if cuda else (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ) / 2**10  # fmt: skip
    count = sum(parameter.numel() for parameter in net.parameters())
    return count, statistics.median(times[1:]) / case.batch, grown / case.batch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["base"])
    parser.add_argument("--sizes", nargs="+", default=["256x256"], metavar="WxH")
    parser.add_argument("--frames", nargs="+", type=int, default=[14])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--forward_only", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> int:
    args, rows = parse(), []
    table = Table("variant", "attention", "size", "frames", "what", "parameters", "s per sample", "MiB per sample")
    for name in args.variants:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            for frames in args.frames:
                for attention in ("full", "window"):
                    for backward in (False,) if args.forward_only else (False, True):
                        case = Case(
                            variant=name, attention=attention, width=width, height=height, frames=frames, batch=args.batch,
                            device=args.device, bf16=args.bf16, backward=backward, checkpointing=args.checkpointing,
                            repeat=args.repeat,
                        )  # fmt: skip
                        with multiprocessing.get_context("spawn").Pool(1) as pool:
                            count, seconds, mib = pool.apply(measure, (case,))
                        what = "training step" if backward else "picture"
                        rows.append({"what": f"{name} {attention} {what}", "size": size, "s": seconds, "mib": mib})
                        cells = (f"{count:,}", f"{seconds:.3f}", f"{mib:.0f}")
                        table.add_row(name, attention, size, str(frames), what, *cells)
                        if args.json:  # after each: a time box may end the run
                            args.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
