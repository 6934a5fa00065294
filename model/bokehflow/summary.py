"""What a BokehFlow costs: parameters by part, operations and memory at 720p and 1080p. Everything is computed.

    python -m model.summary small
    python -m model.summary nano --size 854x480 --dtype float32

The network runs on tensors without storage, which takes a second; every operation is counted as it is dispatched, and memory
is what lives at the worst moment of inference, weights included. The lens renderer's work depends on the image, so it runs
for real on a slanted depth map that fills its radius range; its Fourier transforms count as 5/2 N log2 N each.
Figures leave out what allocators and libraries add.
"""

import argparse
import math
import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from model.bokehflow.config import BokehFlowConfig, BokehFlowError, variant
from model.bokehflow.lens import LensBatch
from model.bokehflow.network import BokehFlow
from pipeline.arguments import ArgumentParser
from pipeline.optics import Lens, px_per_mm

SIZES = ((1280, 720), (1920, 1080))
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
DEPTH_M = (0.7, 20.0)  # near enough that the lens above reaches the largest radius

PARTS = {
    "stem": "stem",
    "lens embedding": "aperture",
    "depth blocks": "depth_blocks",
    "bokeh blocks": "bokeh_blocks",
    "fusion": "fusions",
    "depth head": "depth_head",
    "highlight head": "highlight_head",
    "correction": "correction",
    "motion": "motion",
}


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that live while it is active, and their peak.

    Args:
        held: modules and tensors that exist before.
    """

    def __init__(self, *held: nn.Module | Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self.now_bytes = self.peak_bytes = 0
        for one in held:
            for tensor in [one] if isinstance(one, Tensor) else [*one.parameters(), *one.buffers()]:
                self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now_bytes -= size


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Floating point operations of one frame (a multiply-add is two), and bytes at the worst moment, weights included."""

    flops: int
    peak_bytes: int


def _fft_flops(shape: torch.Size, dims: list[int], *_: Any, **__: Any) -> int:
    sizes = [shape[dim] for dim in dims]
    return round(2.5 * math.prod(shape) * math.log2(max(2, math.prod(sizes))))


def _solve_flops(system: torch.Size, right: torch.Size, *_: Any, **__: Any) -> int:
    return math.prod(system) * right[-1]


CUSTOM_FLOPS = {
    torch.ops.aten._fft_r2c: _fft_flops,
    torch.ops.aten._fft_c2r: _fft_flops,
    torch.ops.aten.linalg_solve_triangular: _solve_flops,
}


def _counted(work: Any, *held: nn.Module | Tensor) -> Cost:
    counter, memory = FlopCounterMode(display=False, custom_mapping=CUSTOM_FLOPS), PeakMemory(*held)
    with torch.no_grad(), counter, memory:
        kept = work()
    del kept
    return Cost(flops=counter.get_total_flops(), peak_bytes=memory.peak_bytes)


def measure_network(config: BokehFlowConfig, width: int, height: int, dtype: torch.dtype = torch.float32) -> Cost:
    """Inference of everything but PG-CoC, one frame with a state.

    Args:
        config: the network.
        width, height: of the frame, pixels.
        dtype: of weights and features; states and the recurrence are float32 either way.
    """
    with torch.device("meta"):
        net = BokehFlow(replace(config, backend="torch")).eval().to(dtype)
        frame, lens = torch.empty(1, 3, height, width), torch.empty(1, config.aperture_dim, dtype=dtype)
        blur = torch.empty(1)
        with torch.no_grad():
            state = net.predict(torch.empty(1, 3, 8, 8), lens, blur, None).state
        return _counted(lambda: net.predict(frame, lens, blur, state), net, frame, *state.state_dict().values())


def measure_physics(config: BokehFlowConfig, width: int, height: int) -> Cost:
    """PG-CoC in float32 on a slanted depth map, really run."""
    net = BokehFlow(replace(config, depth_blocks=1, bokeh_blocks=1, fusion_every=0)).eval()
    rng = torch.Generator().manual_seed(0)
    frame = torch.rand(1, 3, height, width, generator=rng)
    ramp = torch.linspace(math.log(DEPTH_M[0]), math.log(DEPTH_M[1]), height).exp()
    depth = ramp[None, None, :, None].expand(1, 1, height, width).contiguous()
    lens = LensBatch.of(LENS, px_per_mm(width, config.sensor_width_mm))
    return _counted(lambda: net.physics(frame, depth, lens), net.physics, frame, depth)


def parameters_by_part(net: BokehFlow) -> dict[str, int]:
    """Part -> number of parameters; what belongs to no part is "other", parts that are switched off are absent."""
    parts = {name: part for name, attribute in PARTS.items() if (part := getattr(net, attribute)) is not None}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counts["other"] = sum(p.numel() for p in net.parameters()) - sum(counts.values())
    return counts


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, e.g. 1280x720, got {text!r}") from None
    if min(width, height) < 4:
        raise argparse.ArgumentTypeError(f"a size must be at least 4x4, got {text!r}")
    return width, height


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="demo, nano, small or base")
    parser.add_argument(
        "--size", type=_size, action="append", help="WIDTHxHEIGHT; again for more (default 720p and 1080p)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of weights and features (default bfloat16)"
    )
    args = parser.parse_args(argv)
    try:
        config = variant(args.variant)
    except BokehFlowError as error:
        parser.error(str(error))
    console = Console(width=100)
    with torch.device("meta"):
        counts = parameters_by_part(BokehFlow(config))
    table = Table(title=f"{args.variant}: {sum(counts.values()):,} parameters")
    for column in ("part", "parameters", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}", f"{count / sum(counts.values()):.1%}")
    console.print(table)

    table = Table(title=f"one frame, inference, network in {args.dtype}, physics in float32")
    for column in ("size", "network GFLOP", "network MiB", "physics GFLOP", "physics MiB"):
        table.add_column(column, justify="left" if column == "size" else "right")
    for width, height in args.size or SIZES:
        network = measure_network(config, width, height, DTYPES[args.dtype])
        physics = measure_physics(config, width, height)
        cells = [
            f"{value:,.1f}" for cost in (network, physics) for value in (cost.flops / 1e9, cost.peak_bytes / 2**20)
        ]
        table.add_row(f"{width}x{height}", *cells)
    console.print(table)
    return 0
