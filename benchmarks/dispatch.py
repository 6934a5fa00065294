"""Kernel launches, bytes, FLOPs and host synchronisations of a frame, counted on any machine.

    python benchmarks/dispatch.py                                    # nano and small at 256x144, seconds on a laptop
    python benchmarks/dispatch.py --variants small --sizes 1280x720  # the size that docs/benchmarks.md quotes; minutes on a CPU
    python benchmarks/dispatch.py --fixed --bf16                     # as a CUDA graph would hold it
    python benchmarks/dispatch.py --backend triton --kernels triton --bf16 --fixed  # kernels are counted but not run
    python benchmarks/dispatch.py --json dispatch.json

Special: nothing is timed. PyTorch's dispatcher names every operation it is about to run, so the counts are the same on a
laptop and beside a GPU, and a change is judged by what it removes. What is counted:

- launch: an operation that computes or copies. Views, shapes and empty allocations launch nothing. A GPU may need more than
  one kernel for some (a sort) and a compiler fewer for several, so this is the count of an eager program.
- bytes: what the inputs read and the outputs written hold, each operation for itself: the traffic if nothing stays in a cache.
  A Triton kernel, which the dispatcher does not see, is one launch; its bytes are what its own loads and stores move, weights
  once (`pipeline.kernel_launch`).
- FLOPs: matrix products and convolutions, two per multiplication with addition.
- sync: the host waits for a number from the device (`item`, `nonzero`, boolean masks) or hands it one that it has just made
  (`torch.tensor` in the middle of the frame). One is enough to keep a frame out of a CUDA graph.

The floor beside them is what any program must do: read the weights and the frame once, write the image once, one launch.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from model.bokehflow import VARIANTS, BokehFlow, LensBatch
from model.recurrent import chunked
from pipeline.kernel_launch import Launch, watching
from pipeline.optics import Lens, px_per_mm
from pipeline.optics.fixed import Kernels

aten = torch.ops.aten
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}
# The first three wait for a number, the others for a shape.
READS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2}
UPLOADS = {aten.lift_fresh}  # a tensor made of Python numbers: a copy from pageable memory, for which the host waits
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # with a boolean index: nonzero inside
PARTS = (
    "stem",
    "aperture",
    "depth_blocks",
    "bokeh_blocks",
    "fusions",
    "depth_head",
    "highlight_head",
    "motion",
    "physics",
    "correction",
)
COMPOUND = "CompositeImplicitAutograd"  # PyTorch's word for an operation that is made of others
LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)


@dataclass
class Count:
    """What one part of a frame costs."""

    launches: int = 0
    bytes: int = 0
    flops: int = 0
    syncs: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.launches + other.launches,
            self.bytes + other.bytes,
            self.flops + other.flops,
            self.syncs + other.syncs,
        )

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "syncs": dict(self.syncs), "syncs_total": self.syncs.total()}


class DispatchCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what PyTorch runs while it is active, by the part that is named at the time.

    Example:
        >>> with DispatchCounter() as counter:
        ...     (torch.ones(4) + 1).sum().item()
        8.0
        >>> counter.total.launches, counter.total.syncs.total()
        (3, 1)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parts: dict[str, Count] = {}
        self._names = ["other"]

    @property
    def total(self) -> Count:
        return sum(self.parts.values(), Count())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count under this name for a while; of nested names the innermost counts."""
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()

    def watch(self, module: nn.Module, name: str) -> None:
        """Count a module's forward pass under a name."""
        module.register_forward_pre_hook(lambda *_: self._names.append(name))
        module.register_forward_hook(lambda *_: self._names.pop() and None)

    def launch(self, told: Launch) -> None:
        """Count a Triton kernel."""
        count = self.parts.setdefault(self._names[-1], Count())
        count.launches += 1
        count.bytes += told.read + told.written
        count.flops += told.flops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOUND):
            # Inference mode hands over compound operations whole: count what they are made of, by the code that runs them and
            # not by `func.decompose`, which prefers a compiler's recipes (bilinear enlargement in 37 operations for 1).
            with self:
                return func._op_dk(getattr(torch._C.DispatchKey, COMPOUND), *args, **kwargs)
        out = func(*args, **kwargs)
        count = self.parts.setdefault(self._names[-1], Count())
        if packet in READS | UPLOADS or (packet in MASKED and _has_mask(args[1])):
            count.syncs[packet.__name__] += 1
        if func.is_view or packet in ALLOCATIONS | UPLOADS:
            return out
        count.launches += 1
        tensors = [value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)]
        count.bytes += sum(value.numel() * value.element_size() for value in tensors)
        if packet in flop_registry:
            count.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def count_frame(
    net: BokehFlow, width: int, height: int, fixed: bool = False, kernels: Kernels = "plain"
) -> DispatchCounter:
    """Count one frame in the middle of a video: the state is there already.

    Args:
        net: in evaluation mode.
        width, height: px.
        fixed: the renderer in fixed shapes (`BokehFlow.fix_shapes`), as on a GPU.
        kernels: of the renderer in fixed shapes.

    Returns:
        The counter, with the parts of the network; "physics" is the lens renderer.
    """
    rng = torch.Generator().manual_seed(0)
    frame = nn.functional.interpolate(torch.rand(1, 3, 9, 16, generator=rng), size=(height, width), mode="bilinear")
    lens = LensBatch.of(LENS, px_per_mm(width))
    # The renderer's work depends on depth, which an untrained network predicts nearly constant.
    depth = torch.logspace(-0.15, 1.3, height)[None, None, :, None].expand(1, 1, height, width).contiguous()
    net.physics.register_forward_pre_hook(lambda _, given: (given[0], depth, given[2]))
    net.fix_shapes(lens if fixed else None, kernels)
    # Kernels are left out: what they would compute moves no count.
    with torch.inference_mode(), as_on_a_gpu(), watching(lambda told: None, dry=True):
        _, state = net(frame, lens)
        counter = DispatchCounter()
        for name in PARTS:
            part = getattr(net, name)
            for module in part if isinstance(part, nn.ModuleList) else [part] * (part is not None):
                counter.watch(module, name)
        with watching(counter.launch, dry=True), counter:
            net(frame, lens, state)
    return counter


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Scan states in levels, as other devices than a CPU do."""
    before, chunked.walks = chunked.walks, lambda device: False
    try:
        yield
    finally:
        chunked.walks = before


def floor_bytes(net: nn.Module, width: int, height: int) -> int:
    """Weights and frame read once, image written once."""
    weights = sum(value.numel() * value.element_size() for value in net.parameters())
    return weights + 2 * 3 * height * width * next(net.parameters()).element_size()


def _table(title: str, counter: DispatchCounter, floor: int) -> Table:
    table = Table(title=title)
    for name in ("part", "launches", "GB", "GFLOP", "syncs", "which"):
        table.add_column(name, justify="left" if name in ("part", "which") else "right")
    for name, count in [*counter.parts.items(), ("all", counter.total)]:
        which = ", ".join(f"{many} {kind}" for kind, many in count.syncs.most_common(3))
        table.add_row(
            name,
            f"{count.launches:,}",
            f"{count.bytes / 1e9:.3f}",
            f"{count.flops / 1e9:.2f}",
            str(count.syncs.total()),
            which,
        )
    table.add_row("floor", "1", f"{floor / 1e9:.3f}", "", "0", "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Launches, bytes, FLOPs and host synchronisations of a frame")
    parser.add_argument("--variants", nargs="+", default=["nano", "small"], choices=[*VARIANTS])
    parser.add_argument("--sizes", nargs="+", default=["256x144"], help="WIDTHxHEIGHT")
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16, as apply_bokeh has them on a GPU")
    parser.add_argument(
        "--fixed", action="store_true", help="the renderer in fixed shapes, without host synchronisation"
    )
    parser.add_argument("--backend", default="", help="of the recurrence; the config's by default")
    parser.add_argument("--kernels", default="plain", choices=["plain", "triton"], help="of the renderer, with --fixed")
    parser.add_argument("--json", type=Path, help="write the counts here too")
    args = parser.parse_args()
    if "triton" in (args.backend, args.kernels) and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # Triton is not imported yet
    console, found = Console(width=120), []
    for variant in args.variants:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            torch.manual_seed(0)
            config = replace(VARIANTS[variant], **({"backend": args.backend} if args.backend else {}))
            net = BokehFlow(config).eval()
            net = net.bfloat16() if args.bf16 else net
            counter, floor = count_frame(net, width, height, args.fixed, args.kernels), floor_bytes(net, width, height)
            title = f"{variant}, {size}, {'bfloat16' if args.bf16 else 'float32'}, one frame"
            console.print(_table(title, counter, floor))
            parts = {name: count.facts() for name, count in counter.parts.items()}
            found.append({"case": title, "parts": parts, "all": counter.total.facts(), "floor_bytes": floor})
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
