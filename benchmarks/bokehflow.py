"""BokehFlow: frames per second, memory, where the time goes, and how the cost grows with the pixels.

    python benchmarks/bokehflow.py --device cuda --bf16          # all sizes, on a GPU
    python benchmarks/bokehflow.py --quick                       # small sizes, on two CPU cores
    python benchmarks/bokehflow.py --variants nano small --sizes 256x256 512x512 --json bokehflow.json
    python benchmarks/bokehflow.py --quick --backward            # a training step: forward and backward

Inference of one frame with a carried state, batch 1, median of many after a warm-up; with --backward the gradients of a frame
too, the state detached as between stretches of truncated backpropagation. The picture is smooth with edges and the lens blurs
it by up to the largest radius. Beside 720p and 1080p stand what the published prototype claims, the floor, and the marks for
*small* in bf16 on one data-centre GPU. Shares are of the forward pass. Each variant and size runs in a process of its own, so
that its peak memory is its own: what PyTorch allocated on CUDA, weights included; on the CPU what the process grew by over its
imports. The slope is that of log time over log pixels, 1 for a linear cost. Physics is the lens renderer with its correction.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from model.bokehflow import VARIANTS, BokehFlow, BokehFlowState, LensBatch
from model.bokehflow.config import Backend
from pipeline.optics import Lens, px_per_mm

SIZES = ("256x256", "512x512", "854x480", "1280x720", "1920x1088")
QUICK_SIZES = ("128x128", "192x192", "256x256", "384x384")
LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
# What the published prototype claims.
CLAIMS = {"1280x720": "23 frames/s", "1920x1088": "1.8 GB"}
# What this project is after, first and then: for the size meant for use.
MARKS = {("small", "1280x720"): "150, 300 frames/s", ("small", "1920x1088"): "1.8, 1.0 GB"}
PARTS = ("stem", "depth_blocks", "bokeh_blocks", "fusions", "depth_head", "highlight_head", "physics", "correction")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    variant: str
    width: int
    height: int
    device: str
    bf16: bool
    backend: Backend
    repeat: int
    threads: int
    backward: bool


class PartTimes:
    """Seconds spent inside modules, by name; the device is waited for at both ends."""

    def __init__(self, net: BokehFlow, device: str) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        for name in PARTS:
            part = getattr(net, name)
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.register_forward_pre_hook(self._start)
                module.register_forward_hook(self._stop_for(name))

    def _start(self, *_: Any) -> None:
        self._started = now(self._device)

    def _stop_for(self, name: str) -> Callable[..., None]:
        def stop(*_: Any) -> None:
            self.seconds[name] += now(self._device) - self._started

        return stop


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def make_picture(case: Case) -> Tensor:
    """(1, 3, H, W): smooth colours and a few edges."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 16, generator=rng)
    smooth = nn.functional.interpolate(coarse, size=(case.height, case.width), mode="bicubic").clamp(0, 1)
    smooth[..., case.height // 3 : case.height // 2, case.width // 4 : case.width // 2] = 0.9
    return smooth.to(case.device)


def measure(case: Case) -> dict[str, Any]:
    """Run one case in this process."""
    torch.set_num_threads(case.threads)
    resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    net = BokehFlow(replace(VARIANTS[case.variant], backend=case.backend)).train(case.backward).to(case.device)
    if case.bf16 and not case.backward:
        net = net.bfloat16()
    # A depth that varies over the picture, as a trained network's does: untrained it is nearly constant, and the renderer's
    # work depends on it.
    rows = torch.linspace(math.log(0.7), math.log(20.0), case.height, device=case.device).exp()
    depth = rows[None, None, :, None].expand(1, 1, case.height, case.width).contiguous()
    # The predicted depth stays in the graph, so that a backward pass goes through the renderer into it.
    net.physics.register_forward_pre_hook(lambda _, args: (args[0], depth + 0 * args[1], args[2]))
    frame = make_picture(case)
    lens = LensBatch.of(LENS, px_per_mm(case.width)).to(case.device)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def run(state: BokehFlowState | None) -> BokehFlowState:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bf16 and case.backward):
            out, state = net(frame, lens, state)
        if case.backward:
            net.zero_grad()
            (out.bokeh.mean() + out.depth_m.mean()).backward()
        return state.detach()

    times = []
    with torch.inference_mode(not case.backward):
        state = run(None)
        for _ in range(case.repeat):
            started = now(case.device)
            state = run(state)
            times.append(now(case.device) - started)
        if case.device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resting) / 1024
        parts = PartTimes(net, case.device)
        for _ in range(max(1, case.repeat // 3)):
            state = run(state)
    inside = sum(parts.seconds.values())
    return {
        "frame_s": statistics.median(times),
        "frames_per_s": 1 / statistics.median(times),
        "peak_mib": peak,
        "shares": {name: seconds / inside for name, seconds in parts.seconds.items()},
    }


def _in_child(pipe: Any, case: Case) -> None:
    pipe.send(measure(case))


def measure_apart(case: Case) -> dict[str, Any]:
    """Run one case in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(send, case))
    process.start()
    send.close()
    try:
        result: dict[str, Any] = receive.recv()
    except EOFError:
        raise RuntimeError(f"the process for {case} ended without a result; its message stands above") from None
    finally:
        process.join()
    return result


def slope(pixels: list[int], seconds: list[float]) -> float:
    """Least squares slope of log seconds over log pixels."""
    x, y = [math.log(p) for p in pixels], [math.log(s) for s in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def report(variant: str, results: dict[str, dict[str, Any]], title: str, console: Console) -> float | None:
    """Print one variant's table; returns the slope where there are sizes enough."""
    table = Table(title=f"{variant}, {title}")
    claims = any(size in CLAIMS for size in results)
    for column in ("size", "frames/s", "ms", "peak MiB", *(["claimed", "marks"] if claims else []), *PARTS):
        table.add_column(column.replace("_", " "), justify="left" if column == "size" else "right")
    for size, row in results.items():
        cells = [f"{row['frames_per_s']:.2f}", f"{1000 * row['frame_s']:.0f}", f"{row['peak_mib']:.0f}"]
        cells += [CLAIMS.get(size, ""), MARKS.get((variant, size), "")] if claims else []
        table.add_row(size, *cells, *(f"{row['shares'][name]:.0%}" for name in PARTS))
    console.print(table)
    if len(results) < 2:
        return None
    sizes = [math.prod(int(part) for part in size.split("x")) for size in results]
    found = slope(sizes, [row["frame_s"] for row in results.values()])
    console.print(f"cost grows with the pixels to the power {found:.2f}")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the variant nano, small sizes, few repetitions")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: nano, small and base")
    parser.add_argument("--sizes", nargs="+", help=f"WIDTHxHEIGHT (default {' '.join(SIZES)})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16; with --backward autocast")
    parser.add_argument("--backward", action="store_true", help="measure forward and backward, as in training")
    parser.add_argument("--backend", default="auto", choices=get_args(Backend), help="of the recurrence")
    parser.add_argument("--repeat", type=int, help="frames per measurement (default 30 on CUDA, 5 on the CPU)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    console = Console(width=140)
    repeat = args.repeat or (30 if args.device == "cuda" else 5)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    what = "forward and backward" if args.backward else "inference"
    title = f"{what}, {device}, {'bfloat16' if args.bf16 else 'float32'}, median of {repeat}"
    found: dict[str, Any] = {
        "what": what, "device": device, "bf16": args.bf16, "backend": args.backend, "variants": {},
    }  # fmt: skip
    for variant in args.variants or (["nano"] if args.quick else ["nano", "small", "base"]):
        results = {}
        for size in args.sizes or (QUICK_SIZES if args.quick else SIZES):
            width, height = (int(part) for part in size.split("x"))
            case = Case(
                variant=variant, width=width, height=height, device=args.device, bf16=args.bf16, backend=args.backend,
                repeat=repeat, threads=args.threads, backward=args.backward,
            )  # fmt: skip
            results[size] = measure_apart(case)
        found["variants"][variant] = {"sizes": results, "slope": report(variant, results, title, console)}
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
