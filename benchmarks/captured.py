"""Renderer and whole frames in fixed shapes: eager, and captured as one CUDA graph where there is a GPU.

    python benchmarks/captured.py --device cuda --sizes 1280x720 1920x1088
    python benchmarks/captured.py --quick                        # small sizes on a CPU, where nothing can be captured

Beside each stands the adaptive form, which asks the device what the picture holds. Milliseconds, median of many after a
warm-up; errors are largest differences: of the fixed form to the adaptive one, of the graph to the fixed form.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from model.bokehflow import VARIANTS, BokehFlow, LensBatch
from pipeline.optics import FixedShapes, Lens, px_per_mm, render_lens_blur
from pipeline.optics.fixed import Kernels

LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
RENDERERS: dict[str, Kernels] = {"renderer": "auto", "renderer_plain": "plain"}
RADIUS_SHARE = 31 / 854  # largest radius over the width


def picture(width: int, height: int, device: str) -> Tensor:
    """(1, 3, H, W): smooth colours and a bright square."""
    rng = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(1, 3, 9, 16, generator=rng), size=(height, width), mode="bicubic")
    smooth = smooth.clamp(0, 1)
    smooth[..., height // 3 : height // 2, width // 4 : width // 2] = 0.9
    return smooth.to(device)


def median_ms(call: Callable[[], Any], repeat: int, device: str) -> float:
    """Of `repeat` calls, each waited for; the first two warm up."""
    times = []
    for _ in range(repeat + 2):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def captured(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of the call and the tensor that it writes; PyTorch refuses whatever would make the host wait."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out


def measure(adaptive: Callable[[], Tensor], fixed: Callable[[], Tensor], repeat: int, device: str) -> dict[str, Any]:
    """Milliseconds of both forms and of the graph, and how far the pictures lie apart."""
    row: dict[str, Any] = {"adaptive_ms": median_ms(adaptive, repeat, device)}
    row |= {"fixed_ms": median_ms(fixed, repeat, device), "graph_ms": None, "graph_error": None}
    row["fixed_error"] = float((adaptive() - fixed()).abs().max())
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        graph, out = captured(fixed)
        row["graph_ms"] = median_ms(graph.replay, repeat, device)
        row["graph_error"] = float((out - fixed()).abs().max())
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def renderer_case(
    width: int, height: int, device: str, kernels: Kernels
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The renderer alone: a slope from near to far with a near square."""
    image, largest = picture(width, height, device), RADIUS_SHARE * width
    radius = torch.linspace(-0.3 * largest, largest, height)[None, None, :, None].repeat(1, 1, 1, width)
    radius[..., height // 3 : height // 2, width // 4 : width // 2] = -0.6 * largest
    radius, fixed = radius.to(device), FixedShapes(max_radius_px=largest, kernels=kernels)
    return lambda: render_lens_blur(image, radius), lambda: render_lens_blur(image, radius, fixed=fixed)


def network_case(variant: str, width: int, height: int, device: str) -> tuple[Callable[[], Tensor], ...]:
    """A whole frame with its state, weights in bfloat16 on CUDA; depth falls from the picture's top to its bottom."""
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS[variant]).eval().to(device)
    net = net.bfloat16() if device == "cuda" else net
    depth = torch.logspace(-0.15, 1.3, height)[None, None, :, None].repeat(1, 1, 1, width).to(device)
    net.physics.register_forward_pre_hook(lambda _, given: (given[0], depth, *given[2:]))
    frame, lens = picture(width, height, device), LensBatch.of(LENS, px_per_mm(width)).to(device)
    _, state = net(frame, lens)

    def through(held: LensBatch | None) -> Callable[[], Tensor]:
        def call() -> Tensor:
            if (net.physics.fixed is None) != (held is None):
                net.fix_shapes(held)
            return net(frame, lens, state)[0].bokeh

        return call

    return through(None), through(lens)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, the variant demo, two repetitions")
    parser.add_argument(
        "--what",
        nargs="+",
        default=["renderer", "small"],
        help="renderer (with kernels on CUDA), renderer_plain, or variants of the network",
    )
    parser.add_argument("--sizes", nargs="+", default=["1280x720"], help="WIDTHxHEIGHT")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.what, args.sizes, args.repeat = ["renderer", "demo"], ["96x64"], 2
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    table, rows = Table(title=f"fixed shapes, {device}"), []
    for column in ("what", "size", "adaptive ms", "fixed ms", "graph ms", "fixed error", "graph error"):
        table.add_column(column)
    for what in args.what:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            with torch.inference_mode():
                case = (
                    renderer_case(width, height, args.device, RENDERERS[what])
                    if what in RENDERERS
                    else network_case(what, width, height, args.device)
                )
                row = measure(case[0], case[1], args.repeat, args.device)
            rows.append({"what": what, "size": size, **row})
            shown = [row[name] for name in ("adaptive_ms", "fixed_ms", "graph_ms", "fixed_error", "graph_error")]
            table.add_row(what, size, *("" if value is None else f"{value:.3g}" for value in shown))
            if args.json:  # after each, so that a time box that ends loses one
                args.json.write_text(json.dumps({"device": device, "rows": rows}, indent=2) + "\n")
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
