"""The lens renderer's kernels: equal to the reference in Triton's interpreter, and compiled for a GPU that is not there."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from pipeline.optics import FixedShapes, OpticsError, fixed, render_lens_blur
from pipeline.optics.picks import pick, places_missing

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run(what: str, **environment: str) -> dict[str, Any]:
    """One of the parts of `fused_kernels.py`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "fused_kernels.py", what],
        capture_output=True, text=True, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@needs_triton
@pytest.mark.slow
def test_kernels_give_the_pictures_of_the_reference():
    """Near and far blur, wide and small discs, odd sizes, a polygon and a disc, traced or not, one sample and two."""
    found = run("equal", TRITON_INTERPRET="1")
    largest = {name: value for name, value in found.items() if name.endswith("at most")}
    apart = {name: value for name, value in found.items() if name not in largest}
    assert len(apart) == 5 and all(value > 0.1 for value in largest.values()), found
    assert all(value < 1e-5 for value in apart.values()), found


@needs_triton
@pytest.mark.slow
def test_a_frame_takes_few_launches_and_no_wait():
    """Besides kernels: transforms, and what encodes and decodes."""
    found = run("counted", TRITON_INTERPRET="1")
    assert found["waits"] == 0 and 60 < found["launches"] <= 150 and found["megabytes"] < 5000, found


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_spills(tmp_path):
    found = run("compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 16
    for name, needs in found.items():
        assert needs["spilled_bytes"] == 0, (name, needs)
        assert needs["shared"] <= 48 * 1024, (name, needs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_a_gpu_prove_themselves_and_give_the_adaptive_picture():
    assert fixed.proved(torch.device("cuda", torch.cuda.current_device()))
    image, radius = torch.rand(2, 3, 203, 317, device="cuda"), torch.linspace(-12, 30, 317, device="cuda")
    radius = radius.expand(2, 1, 203, 317).clone()
    radius[..., 40:90, 100:180] = -9
    with torch.inference_mode():
        truth = render_lens_blur(image, radius)
        found = render_lens_blur(image, radius, fixed=FixedShapes(max_radius_px=30.0, kernels="triton"))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-4)


def test_kernels_are_refused_where_they_cannot_run():
    image, radius = torch.rand(1, 3, 8, 9), torch.full((1, 1, 8, 9), 3.0)
    with pytest.raises(OpticsError, match=r"kernels cannot run: .*; kernels='plain' needs none"):
        render_lens_blur(image, radius, fixed=FixedShapes(max_radius_px=4.0, kernels="triton"))
    with pytest.raises(OpticsError, match=r"kernels must be one of .*, got 'cuda'"):
        FixedShapes(max_radius_px=4.0, kernels="cuda")


def test_kernels_that_fail_or_give_another_picture_are_not_used(monkeypatch):
    """As on a card whose compiler fails, or compiles wrongly."""
    plain = fixed.render_fixed
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert not fixed.proved.__wrapped__(torch.device("cpu"))  # no kernel runs here: the error is what is told
    assert "kernels fail on cpu" in str(told[-1].message)

    def other(light, defocus, limits, aperture, traced, error=1e-3):
        shift = error if limits.kernels == "triton" else 0.0
        picture, invented = plain(light, defocus, FixedShapes(max_radius_px=14, edge_share=1), aperture, traced)
        return picture + shift, invented

    monkeypatch.setattr(fixed, "render_fixed", other)
    with pytest.warns(UserWarning, match="kernels are off by 0.001"):
        assert not fixed.proved.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(fixed, "render_fixed", lambda *args: other(*args, error=1e-6))
    assert fixed.proved.__wrapped__(torch.device("cpu"))


def test_pixels_without_a_place_are_counted_until_asked():
    places_missing()
    mask = torch.arange(40) % 2 == 0
    pick(mask, 0.5)
    assert places_missing() == 0
    pick(mask, 0.25)
    pick(mask, 0.1)
    assert places_missing() == 10 + 16
    assert places_missing() == 0
