"""What `test_fused.py` runs in processes of its own, since Triton reads TRITON_INTERPRET once, when it is imported.

TRITON_INTERPRET=1 python tests/fused_kernels.py equal     # the kernels in Triton's interpreter, on the CPU
python tests/fused_kernels.py compile [NAME ...]           # for an H100, with the assembler in Triton's wheel
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pipeline.kernel_launch import Launch, watching
from pipeline.optics import Aperture, FixedShapes
from pipeline.optics.fused import render as fused
from pipeline.optics.render import render_traced

Case = dict[str, Any]
# Odd sizes, both signs of blur, openings, traced or not, two samples.
CASES: list[Case] = [
    {"size": (37, 45), "most": 9.0, "traced": True, "aperture": Aperture(blades=5, rotation_deg=10.0)},
    {"size": (24, 33), "most": 14.0, "traced": False, "aperture": Aperture(), "samples": 2},
]


def draw(height: int, width: int, most: float) -> tuple[Tensor, Tensor]:
    """A textured slope with a near square, a thin bar and one far pixel."""
    rng = torch.Generator().manual_seed(height)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=rng), (height, width), mode="bilinear")
    image = (0.8 * image + 0.2 * torch.rand(1, 3, height, width, generator=rng)).clamp(0, 1)
    radius = torch.linspace(-3, 6, width).expand(1, 1, height, width).clone()
    radius[..., 8:20, 9:20], radius[..., 4:30, 27:29], radius[..., 0, 0] = -7, -5, most
    return image, radius


def equal() -> dict[str, float]:
    """Largest differences to the adaptive reference."""
    found = {}
    # An operation of the interpreter costs the same for one pixel and for thousands.
    with mock.patch.multiple(fused, PIXELS=2048, CELLS=128, TILE=64):
        for case in CASES:
            image, radius = draw(*case["size"], case["most"])
            samples = case.get("samples", 1)
            images = torch.cat([image.roll(5 * k, -1) for k in range(samples)])
            radii = torch.cat([radius.roll(5 * k, -1) for k in range(samples)])
            fixed = FixedShapes(max_radius_px=case["most"], kernels="triton")
            with torch.inference_mode():
                truth = render_traced(images, radii, aperture=case["aperture"], traced=case["traced"])
                given = render_traced(images, radii, aperture=case["aperture"], traced=case["traced"], fixed=fixed)
            for name, one, other in zip(("picture", "invented"), truth, given, strict=True):
                if one.numel():
                    found[f"{case['size']} {name}"] = float((one - other).abs().max())
                    found[f"{case['size']} {name} at most"] = float(one.max())
    return found


def compiled(names: list[str]) -> dict[str, dict[str, int]]:
    """Registers, spilled bytes and shared memory of kernels, all without names, compiled for an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    started: dict[str, tuple[Any, tuple[Any, ...], dict[str, int]]] = {}

    def keep(kernel: Any, grid: Any, args: Any, *, reads: Any, writes: Any, **constants: int) -> None:
        started.setdefault(kernel.fn.__name__, (kernel, args, constants))

    image, radius = draw(24, 33, 14.0)
    with mock.patch.object(fused, "launch", keep), torch.inference_mode():
        fused.render(image[0], radius[0], 14.0, Aperture(), traced=True)
    found = {}
    for name, (kernel, args, constants) in started.items():
        if names and name not in names:
            continue
        kinds = {torch.float32: "*fp32", torch.int32: "*i32"}
        given = [kinds[value.dtype] if isinstance(value, Tensor) else "i32" for value in args]
        signature = dict(zip(kernel.arg_names, given + ["constexpr"] * len(constants), strict=True))
        source = ASTSource(kernel, signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        found[name] = {"shared": built.metadata.shared, **_resources(built.asm["ptx"])}
    return found


def _resources(ptx: str) -> dict[str, int]:
    """What the assembler says of registers and spills."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        told = subprocess.run(
            [get_ptxas(90).path, "-v", "-arch", "sm_90a", str(path), "-o", str(path.with_suffix(".bin"))],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", told)
    spills = re.search(r"(\d+) bytes spill stores", told)
    assert registers and spills, told
    return {"registers": int(registers[1]), "spilled_bytes": int(spills[1])}


def dry_run(height: int, width: int, most: float) -> dict[str, int]:
    """Kernels of a picture by name, none of them run."""
    counts: dict[str, int] = {}

    def watcher(launch: Launch) -> None:
        counts[launch.name] = counts.get(launch.name, 0) + 1

    with watching(watcher, dry=True), torch.inference_mode():
        fused.render(torch.rand(3, height, width), torch.rand(1, height, width), most, Aperture(), traced=True)
    return counts


if __name__ == "__main__":
    print(json.dumps(equal() if sys.argv[1] == "equal" else compiled(sys.argv[2:])))
