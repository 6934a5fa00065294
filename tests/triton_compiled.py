"""Compiles every Triton kernel for an H100 without one, and prints what each needs. In a process of its own.

python tests/triton_compiled.py --small     the kernels of *small*; without it, of a smaller network
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.bokehflow import VARIANTS
from model.bokehflow.blocks import CrossStreamFusion
from model.recurrent.blocks import Block
from model.recurrent.chunked import Tokens
from model.recurrent.triton_check import CheckConfig
from model.recurrent.triton_scan import triton_gated_delta_rule
from pipeline import kernel_launch

OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
found: dict[str, dict[str, int]] = {}


class Compiled:
    """In the place of a kernel: compiled, for the arguments that it is started with, and not started."""

    def __init__(self, kernel) -> None:
        self.kernel, self.fn = kernel, kernel.fn

    def __getitem__(self, grid):
        def start(*args, **constants):
            types = {}
            for name, value in zip(self.kernel.arg_names, args, strict=False):
                if value is None:
                    constants = {**constants, name: None}
                else:
                    kinds = {int: "i32", float: "fp32"}
                    types[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else kinds[type(value)]
            options = {name: constants.pop(name) for name in OPTIONS if name in constants}
            signature = {name: "constexpr" if name in constants else types[name] for name in self.kernel.arg_names}
            aligned = {
                (i,): [["tt.divisibility", 16]] for i, one in enumerate(args) if isinstance(one, torch.Tensor)
            }  # fmt: skip
            source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=aligned)
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            found[self.fn.__name__] = {"cubin_bytes": len(made.asm["cubin"]), "shared_bytes": made.metadata.shared}

        return start


def main() -> None:
    real = kernel_launch.launch

    def launch(kernel, grid, args, **rest):
        real(Compiled(kernel), grid, args, **rest)

    from model.recurrent import triton_backend, triton_block, triton_mix, triton_scan, triton_start

    for module in (triton_block, triton_mix, triton_scan, triton_start):
        module.launch = launch
    torch.manual_seed(0)
    config = CheckConfig() if "--small" not in sys.argv else VARIANTS["small"]
    block = Block(config, 0.5).bfloat16()
    width, heads, size = config.channels, config.heads, config.head_dim
    x, states = torch.zeros(1, 8, 16, width).bfloat16(), torch.zeros(1, 4, heads, size, size)
    with torch.inference_mode():
        q = torch.zeros(1, 64, heads, size)
        triton_gated_delta_rule(Tokens(q, q, q, q[..., 0], q[..., 0]), states[:, 0], config.chunk_size)
        triton_backend.fused_block(block, x, (states, torch.zeros(1, width).bfloat16()), None, torch.zeros(1))
        fusion = CrossStreamFusion(VARIANTS["small" if width == 96 else "nano"]).bfloat16()
        triton_backend.fused_exchange(x, x, fusion.gates, fusion.values)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
