"""Counting launches, bytes and host synchronisations, and what the inference path may cost."""

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from conftest import REPOSITORY

from model.bokehflow import VARIANTS, BokehFlow, BokehFlowError


def load_dispatch() -> ModuleType:
    """benchmarks/dispatch.py."""
    spec = importlib.util.spec_from_file_location("benchmark_dispatch", REPOSITORY / "benchmarks" / "dispatch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dispatch() -> ModuleType:
    return load_dispatch()


def test_launches_bytes_and_flops_are_those_of_a_program_counted_by_hand(dispatch: ModuleType):
    x, weight = torch.ones(6, 4), torch.ones(5, 4)
    with torch.inference_mode(), dispatch.DispatchCounter() as counter:
        (x.view(4, 6).t() + 1).sum()
        with counter.part("product"):
            torch.nn.functional.linear(x, weight)
    other, product = counter.parts["other"], counter.parts["product"]
    assert other.launches == 2, "an addition and a sum; views launch nothing"
    assert other.bytes == 4 * (24 + 24) + 4 * (24 + 1)
    assert product.flops == 2 * 6 * 4 * 5 and product.launches == 1
    assert counter.total.syncs.total() == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: x + torch.tensor([1.0]),
        lambda x: x[:, [0, 2]],
    ],
)
def test_whatever_makes_the_host_wait_is_counted(dispatch: ModuleType, wait):
    x = torch.ones(3, 4)
    with torch.inference_mode(), dispatch.DispatchCounter() as counter:
        wait(x)
    assert counter.total.syncs.total() >= 1


def test_no_learned_part_of_a_frame_makes_the_host_wait(dispatch: ModuleType):
    """The lens renderer inside still does; its number may only fall."""
    torch.manual_seed(0)
    counter = dispatch.count_frame(BokehFlow(VARIANTS["demo"]).eval(), 96, 64)
    waits = {name: count.syncs for name, count in counter.parts.items() if count.syncs}
    assert set(waits) == {"physics"}, waits
    assert waits["physics"].total() <= 39, waits


def test_nothing_of_a_frame_in_fixed_shapes_makes_the_host_wait(dispatch: ModuleType):
    torch.manual_seed(0)
    counter = dispatch.count_frame(BokehFlow(VARIANTS["demo"]).eval(), 64, 48, fixed=True)
    assert counter.parts["physics"].launches > 100
    assert not counter.total.syncs, counter.total.syncs


def test_a_network_in_fixed_shapes_gives_its_pictures(dispatch: ModuleType):
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS["demo"]).eval()
    # Smooth, since untrained depth of noise has edges everywhere, more than there are places for.
    frame = torch.nn.functional.interpolate(torch.rand(1, 3, 2, 3), size=(32, 48), mode="bicubic").clamp(0, 1)
    lens = dispatch.LensBatch.of(dispatch.LENS, 300 / 36)
    found = []
    for held in (None, lens):
        net.fix_shapes(held)
        with torch.inference_mode():
            found.append(net(frame, lens)[0].bokeh)
    assert float((found[0] - frame).abs().max()) > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    with pytest.raises(BokehFlowError, match="focuses only beyond"):
        BokehFlow(replace(VARIANTS["demo"], coc_model="thin_lens")).fix_shapes(
            dispatch.LensBatch.of(dispatch.Lens(f_m=0.05, f_number=2.0, focus_m=0.04), 854 / 36)
        )
