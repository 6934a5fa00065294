"""What `test_fused.py` runs in processes of its own, since Triton reads TRITON_INTERPRET once, when it is imported.

TRITON_INTERPRET=1 python tests/fused_kernels.py equal     # the kernels in Triton's interpreter, on the CPU
python tests/fused_kernels.py compile [NAME ...]           # for an H100, with the assembler in Triton's wheel
"""

import importlib
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

from pipeline.kernel_launch import watching
from pipeline.optics import Aperture, FixedShapes
from pipeline.optics.fused import render as fused
from pipeline.optics.render import render_traced

# An operation of the interpreter costs the same for one pixel and for thousands, so tiles are as large as each case allows.
SCENES: dict[str, Tensor] = {  # radius at the left and the right, of the square, of the bar, of one pixel
    "both sides of the focus plane": torch.tensor([-3.0, 6.0, -7.0, -5.0, 9.0]),
    "wide discs": torch.tensor([10.0, 13.0, 11.0, 10.5, 14.0]),
    "small discs in many tiles": torch.tensor([-1.5, 1.8, -1.9, -1.0, 1.9]),
}
CASES: list[dict[str, Any]] = [
    {"size": (31, 31), "traced": True, "aperture": Aperture(blades=5, rotation_deg=10.0), "samples": 1, "tile": 32},
    {"size": (26, 31), "traced": False, "aperture": Aperture(), "samples": 2, "tile": 32},
    {"size": (19, 29), "traced": True, "aperture": Aperture(), "samples": 1, "tile": 16},
]


def draw(height: int, width: int, radii: Tensor) -> tuple[Tensor, Tensor]:
    """A textured slope with a square, a thin bar and one pixel of other depths."""
    rng = torch.Generator().manual_seed(height)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=rng), (height, width), mode="bilinear")
    image = (0.8 * image + 0.2 * torch.rand(1, 3, height, width, generator=rng)).clamp(0, 1)
    left, right, square, bar, pixel = radii.tolist()
    radius = torch.linspace(left, right, width).expand(1, 1, height, width).clone()
    radius[..., 8:20, 9:16], radius[..., 4:24, 22:24], radius[..., 0, 0] = square, bar, pixel
    return image, radius


def equal() -> dict[str, float]:
    """Largest differences to the adaptive reference, and the largest value that was compared."""
    found = {}
    for (name, radii), case in zip(SCENES.items(), CASES, strict=True):
        image, radius = draw(*case["size"], radii)
        images = torch.cat([image.roll(5 * k, -1) for k in range(case["samples"])])
        depths = torch.cat([(-1) ** k * radius.roll(5 * k, -1) for k in range(case["samples"])])
        fixed = FixedShapes(max_radius_px=float(radii.abs().max()), kernels="triton")
        how = {"aperture": case["aperture"], "traced": case["traced"]}
        sizes = {"PIXELS": case["tile"] ** 2, "CELLS": 64, "TILE": case["tile"]}
        with torch.inference_mode(), mock.patch.multiple(fused, **sizes):
            truth, given = render_traced(images, depths, **how), render_traced(images, depths, fixed=fixed, **how)
        for what, one, other in zip(("picture", "invented"), truth, given, strict=True):
            if one.numel():
                found[f"{name}: {what}"] = float((one - other).abs().max())
                found[f"{name}: {what} at most"] = float(one.max())
    return found


def compiled(names: list[str]) -> dict[str, dict[str, int]]:
    """Registers, spilled bytes and shared memory of kernels, all without names, compiled for an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    started: dict[str, tuple[Any, tuple[Any, ...], dict[str, int]]] = {}

    def keep(kernel: Any, grid: Any, args: Any, *, reads: Any, writes: Any, **constants: int) -> None:
        started.setdefault(kernel.fn.__name__, (kernel, args, constants))

    image, radius = draw(24, 33, SCENES["wide discs"])
    with mock.patch.object(fused, "launch", keep), torch.inference_mode():
        fused.render(image[0], radius[0], 14.0, Aperture(), traced=True)
    found = {}
    for name, (kernel, args, constants) in started.items():
        if names and name not in names:
            continue
        options = {option: constants.pop(option) for option in ("num_warps",) if option in constants}
        kinds = {torch.float32: "*fp32", torch.int32: "*i32"}
        given = [kinds[value.dtype] if isinstance(value, Tensor) else "i32" for value in args]
        signature = dict(zip(kernel.arg_names, given + ["constexpr"] * len(constants), strict=True))
        source = ASTSource(kernel, signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
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


def counted() -> dict[str, int]:
    """Launches, megabytes and waits of the host for a picture of 1280x720 with radii to 46 px; no kernel is run."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    dispatch = importlib.import_module("dispatch")
    image, radius = torch.rand(1, 3, 720, 1280), torch.linspace(-15, 46, 1280).expand(1, 1, 720, 1280)
    fixed = FixedShapes(max_radius_px=46.5, kernels="triton")
    counter = dispatch.DispatchCounter()
    with torch.inference_mode(), watching(counter.launch, dry=True):
        render_traced(image, radius, fixed=fixed)  # makes what is kept
        counter.parts.clear()
        with counter:
            render_traced(image, radius, fixed=fixed)
    total = counter.total
    return {"launches": total.launches, "megabytes": total.bytes // 10**6, "waits": total.syncs.total()}


PARTS = {"equal": equal, "counted": counted}

if __name__ == "__main__":
    print(json.dumps(compiled(sys.argv[2:]) if sys.argv[1] == "compile" else PARTS[sys.argv[1]]()))
