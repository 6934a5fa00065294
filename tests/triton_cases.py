"""What tests/test_triton.py looks at, in a process of its own, since Triton decides at its import whether it interprets.

TRITON_INTERPRET=1 PYTHONPATH=.:tests python tests/triton_cases.py      prints JSON
"""

import copy
import json
import sys
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from quick_interpreter import speed_up
from test_dispatch import load_dispatch
from triton.runtime import interpreter

from model.bokehflow import VARIANTS, BokehFlow
from model.bokehflow.blocks import ApertureFilm, CrossStreamFusion
from model.recurrent import gated_delta_rule, gated_delta_rule_reference, triton_backend, unit_keys
from model.recurrent.blocks import Block
from model.recurrent.triton_check import CheckConfig, block_errors, relative, scan_errors
from pipeline.kernel_launch import Launch, watching

CPU = torch.device("cpu")
BF16 = torch.bfloat16


def recurrence() -> dict[str, list[float]]:
    return {
        "odd, gradients": scan_errors(CPU, size=24, length=77, heads=3, gradients=True),
        "one token, from zero": scan_errors(CPU, size=5, length=1, heads=1, from_zero=True, gradients=True),
        "alike keys": scan_errors(CPU, size=16, length=70, heads=1, alike=1e-3),
    }


def half() -> list[float]:
    """Of bfloat16 tokens through the public function, computed in float32: outputs, to the last bit, and the state."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 37, 2, 24, generator=rng).bfloat16().unbind()
    k, gate = unit_keys(k).bfloat16(), torch.rand(1, 37, 2, generator=rng)
    out, state = gated_delta_rule(q, k, v, -gate, gate, backend="triton")
    right, right_state = gated_delta_rule_reference(*(x.double() for x in (q, k, v, -gate, gate)))
    assert out.dtype == BF16 and state.dtype == torch.float32
    return [relative(out, right.bfloat16().double()), relative(state, right_state)]


def blocks() -> dict[str, list[float]]:
    small, wide = CheckConfig(), CheckConfig(channels=96, heads=3, head_dim=32, enable_dahg=False)
    # On a GPU this comparison is what the backend is admitted by: it must not ask whether it is.
    with mock.patch.object(triton_backend, "why_not_triton", side_effect=AssertionError("asked")):
        return {
            "float32": block_errors(small, CPU, torch.float32, height=7, width=11),
            "float32, 3 x 32, rows, first frame": block_errors(
                wide, CPU, torch.float32, height=3, width=5, used=2, first=True, blur=False
            ),
            "bfloat16": block_errors(small, CPU, BF16, height=7, width=11),
        }


def plain_bfloat16() -> list[float]:
    """Errors of the plain block in bfloat16, to compare."""
    return block_errors(CheckConfig(backend="torch"), CPU, BF16, height=7, width=11)


def lens_and_exchange() -> dict[str, list[float]]:
    torch.manual_seed(0)
    config = replace(VARIANTS["nano"], backend="triton")
    block, fusion = Block(config, 0.5, lambda: ApertureFilm(config)).eval(), CrossStreamFusion(config).eval()
    for parameter in (*block.parameters(), *fusion.parameters()):
        parameter.data += 0.05 * torch.randn_like(parameter)
    exact, exact_fusion = copy.deepcopy(block).double(), copy.deepcopy(fusion).double()
    exact.config = exact.scans.config = exact_fusion.config = replace(config, backend="torch")
    x, lens = torch.randn(1, 3, 4, 48), torch.randn(1, 64)
    with torch.no_grad():
        found, truth = block(x, None, lens, None), exact(x.double(), None, lens.double(), None)
        mixed, right = fusion(x, x.flip(1)), exact_fusion(x.double(), x.flip(1).double())
    return {"lens": [relative(*pair) for pair in zip(found, truth, strict=True)],
            "exchange": [relative(*pair) for pair in zip(mixed, right, strict=True)]}  # fmt: skip


def traffic() -> list[tuple[str, int, int]]:
    """(kernel, bytes it says to move, bytes that its loads and stores moved) but for weights, which count once."""
    moved: Counter[int] = Counter()
    builder = interpreter.interpreter_builder

    def counting(real, sign):
        def run(pointers, *args):
            mask = next((x for x in args if getattr(getattr(x, "data", None), "dtype", None) == np.bool_), None)
            on = np.broadcast_to(True if mask is None else mask.data, np.shape(pointers.data))
            moved[None] = 0
            for address in np.asarray(pointers.data)[on].ravel():
                moved[int(address) * sign] += 1
            return real(pointers, *args)

        return run

    builder.create_masked_load = counting(builder.create_masked_load, 1)
    builder.create_masked_store = counting(builder.create_masked_store, -1)
    builder.create_load = counting(builder.create_load, 1)
    builder.create_store = counting(builder.create_store, -1)
    launches: list[Launch] = []
    found = []

    def settle() -> None:
        told = launches.pop()
        says = real = 0
        for size, tensor in told.parts:
            if isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
                continue
            begin = tensor.data_ptr()
            end = begin + tensor.numel() * tensor.element_size()
            says += size
            real += (
                sum(many for at, many in moved.items() if at is not None and begin <= abs(at) < end)
                * tensor.element_size()
            )
        found.append((told.name, says, real))
        moved.clear()

    def watch(told: Launch) -> None:
        if launches:
            settle()
        launches.append(told)

    torch.manual_seed(0)
    config = CheckConfig(channels=16, heads=1, head_dim=16)
    block, fusion = Block(config, 0.5).eval(), CrossStreamFusion(replace(VARIANTS["nano"], backend="triton")).eval()
    with torch.no_grad(), watching(watch):
        block(torch.randn(1, 3, 7, 16), (torch.randn(1, 4, 1, 16, 16), torch.randn(1, 16)), None, None)
        fusion(torch.randn(1, 1, 3, 48), torch.randn(1, 1, 3, 48))
        settle()
    return found


def frame() -> dict[str, dict[str, int]]:
    """Launches, kernels' included, and synchronisations of a frame of *small*, whose size they do not depend on."""
    torch.manual_seed(0)
    net = BokehFlow(replace(VARIANTS["small"], backend="triton")).eval().bfloat16()
    counter = load_dispatch().count_frame(net, 64, 48, fixed=True)
    return {name: {"launches": part.launches, "syncs": part.syncs.total()} for name, part in counter.parts.items()}


if __name__ == "__main__":
    speed_up()
    torch.set_num_threads(1)
    cases = (recurrence, half, blocks, plain_bfloat16, lens_and_exchange, frame, traffic)
    chosen = sys.argv[1:]
    print(json.dumps({case.__name__: case() for case in cases if not chosen or case.__name__ in chosen}))
