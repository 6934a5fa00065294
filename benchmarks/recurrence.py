"""The gated delta recurrence: chunks against the token loop, in one run.

    python benchmarks/recurrence.py
    python benchmarks/recurrence.py --quick
    python benchmarks/recurrence.py --device cuda --json recurrence.json

One block of the small network over a square training crop: four scans of (crop / 4)^2 tokens, 4 heads of 24, float32, forward
and backward. Prints medians in seconds, the ratio to the token loop, the largest error against it in float64 relative to the
largest value, and the same for keys that are alike with beta near 1. The loop runs once before and once after the others,
and its faster pass counts. On CUDA fla-core and this project's Triton kernels take part where they are installed and pass
their checks.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.bokehflow import VARIANTS, gated_delta_rule, unit_keys
from model.recurrent.config import DIRECTIONS, STRIDE, Backend
from model.recurrent.fla_backend import why_not_fla
from model.recurrent.triton_backend import why_not_triton

CONFIG = VARIANTS["small"]
CHUNKS = (16, 32, 64)
ACCURACY_TOKENS = 1024  # for the token loop in float64, which would take most of the run with more


def draw(crop: int, device: str, alike: bool) -> list[Tensor]:
    """Leaves q, k, v, log_alpha, beta."""
    rng = torch.Generator().manual_seed(0)
    rows = (DIRECTIONS, (crop // STRIDE) ** 2, CONFIG.heads)
    q, k, v = (torch.randn(*rows, CONFIG.head_dim, generator=rng) for _ in range(3))
    beta, log_alpha = torch.rand(rows, generator=rng), -0.1 * torch.rand(rows, generator=rng)
    if alike:
        k, beta, log_alpha = k[:, :1] + 0.01 * k, torch.full(rows, 0.999), torch.full(rows, -1e-3)
    return [x.to(device).requires_grad_() for x in (q, unit_keys(k), v, log_alpha, beta)]


def seconds(inputs: list[Tensor], backend: Backend, chunk: int, repeat: int, device: str) -> tuple[float, float]:
    """Median seconds of a forward and of a backward pass; of several passes the first only warms up."""
    forward, backward = [], []
    for _ in range(repeat):
        started = _now(device)
        out, state = gated_delta_rule(*inputs, backend=backend, chunk_size=chunk)
        middle = _now(device)
        torch.autograd.grad([out, state], inputs, [torch.ones_like(out), torch.ones_like(state)])
        forward.append(middle - started)
        backward.append(_now(device) - middle)
    return statistics.median(forward[repeat > 1 :]), statistics.median(backward[repeat > 1 :])


def results(inputs: list[Tensor], dtype: torch.dtype, backend: Backend, chunk: int = 32) -> list[Tensor]:
    """Outputs, state and gradients of q, k and v, of one direction's first tokens."""
    leaves = [x.detach()[:1, :ACCURACY_TOKENS].to(dtype).requires_grad_() for x in inputs]
    out, state = gated_delta_rule(*leaves, backend=backend, chunk_size=chunk)
    return [x.detach().double() for x in (out, state, *torch.autograd.grad(out.sum() + state.sum(), leaves[:3]))]


def largest_error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Relative to each tensor's largest value."""
    errors = [(one - two).abs().max() / two.abs().max() for one, two in zip(found, truth, strict=True)]
    return float(torch.stack(errors).max())  # of torch, whose max does not pass over a NaN


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a crop of 128 px, three repetitions")
    parser.add_argument("--crop", type=int, help="px (default 256)")
    parser.add_argument("--repeat", type=int, help="passes of the chunk form (default 9)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    crop, repeat = args.crop or (128 if args.quick else 256), args.repeat or (3 if args.quick else 9)
    inputs, alike = draw(crop, args.device, False), draw(crop, args.device, True)

    runs: list[tuple[str, Backend, int]] = [("token loop", "reference", 32)]
    runs += [(f"chunks of {chunk}", "torch", chunk) for chunk in CHUNKS]
    if args.device == "cuda" and not why_not_fla("cuda"):
        runs.append(("fla-core", "fla", 64))
    if args.device == "cuda" and not why_not_triton(inputs[0].device):
        runs.append(("triton", "triton", 32))
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    truth, truth_alike = (results(x, torch.float64, "reference") for x in (inputs, alike))
    rows: dict[str, dict[str, Any]] = {}
    for name, backend, chunk in [*runs, ("token loop again", "reference", 32)]:
        times = seconds(inputs, backend, chunk, 1 if backend == "reference" else repeat, args.device)
        rows[name] = {"forward_s": times[0], "backward_s": times[1], "total_s": sum(times)}
        if name != "token loop again":
            rows[name] |= {
                "error": largest_error(results(inputs, torch.float32, backend, chunk), truth),
                "error_alike": largest_error(results(alike, torch.float32, backend, chunk), truth_alike),
            }
    again = rows.pop("token loop again")
    if again["total_s"] < rows["token loop"]["total_s"]:
        rows["token loop"] |= again
    loop = rows["token loop"]["total_s"]
    table = Table(title=f"{crop}x{crop} crop, {inputs[0].shape[1]} tokens, {device}")
    for column in ("", "forward s", "backward s", "times faster", "error", "error, alike keys"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        row["times_faster"] = loop / row["total_s"]
        cells = [f"{row['forward_s']:.4f}", f"{row['backward_s']:.4f}", f"{row['times_faster']:.1f}"]
        table.add_row(name, *cells, f"{row['error']:.1e}", f"{row['error_alike']:.1e}")
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps({"device": device, "crop": crop, "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
