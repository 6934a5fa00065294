"""The Triton kernels: in Triton's interpreter against float64, what they say to move, and that they compile for a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from model.recurrent import RecurrenceError, gated_delta_rule, triton_backend
from model.recurrent.triton_backend import why_not_triton
from pipeline.kernel_launch import interpreted

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (the extra 'kernels', Linux only)"
)
pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set for all tests")
SHARED_BYTES = 227 * 1024  # of an H100's multiprocessor that one program may hold


def run(script: str, *arguments: str, **environment: str) -> Any:
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), *sys.path]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> Any:
    return run("triton_cases.py", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
def test_the_recurrence_and_all_its_gradients_are_the_token_loops(found):
    assert {name: len(errors) for name, errors in found["recurrence"].items()} == {
        "odd, gradients": 8, "one token, from zero": 8, "alike keys": 2
    }  # fmt: skip
    for name, errors in found["recurrence"].items():
        assert max(errors) < 1e-5, (name, errors)


@needs_triton
@pytest.mark.slow
def test_the_recurrence_of_tokens_in_half_precision_is_the_token_loops(found):
    assert max(found["half"]) < 1e-3, found["half"]


@needs_triton
@pytest.mark.slow
def test_a_block_is_the_plain_one(found):
    for name, errors in found["blocks"].items():
        tokens, states, pooled = errors
        # bfloat16 rounds a block's normalised tokens, the directions' outputs and its own to 1e-3 each, as in plain form.
        assert max(states, pooled) < (3e-3 if name == "bfloat16" else 1e-5), (name, errors)
        assert tokens < (5e-3 if name == "bfloat16" else 1e-5), (name, errors)
    for fast, plain in zip(found["blocks"]["bfloat16"], found["plain_bfloat16"], strict=True):
        assert fast < plain, "nothing is rounded that the plain block does not round"


@needs_triton
@pytest.mark.slow
def test_the_lens_and_the_exchange_of_streams_are_the_plain_ones(found):
    for name, errors in found["lens_and_exchange"].items():
        assert max(errors) < 1e-5, (name, errors)


@needs_triton
@pytest.mark.slow
def test_kernels_move_what_they_say(found):
    assert len(found["traffic"]) == 7
    for kernel, says, moved in found["traffic"]:
        assert says == moved, f"{kernel} says {says} bytes and moves {moved}"


@needs_triton
@pytest.mark.slow
def test_a_frame_through_the_kernels_is_a_few_hundred_launches(found):
    parts = found["frame"]
    assert parts["depth_blocks"]["launches"] == 6 * 6, (
        "of 6 blocks, one kernel each: maps, start, walk, outputs, merge, feed"
    )
    assert parts["bokeh_blocks"]["launches"] == 6 * 8, "and the lens, and the mean blur in the gates"
    assert parts["fusions"]["launches"] == 3
    learned = sum(part["launches"] for name, part in parts.items() if name != "physics")
    assert learned <= 300, parts
    assert not any(part["syncs"] for part in parts.values())


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_a_gpu_and_fit_it():
    kernels = run("triton_compiled.py", "--small", TRITON_INTERPRET="0")
    assert set(kernels) == {
        "scan_maps", "scan_outputs", "scan_walk", "block_maps", "block_outputs", "temporal_start", "block_merge", "block_feed",
        "stream_exchange",
    }  # fmt: skip
    for name, kernel in kernels.items():
        assert kernel["cubin_bytes"] > 0 and kernel["shared_bytes"] <= SHARED_BYTES, (name, kernel)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    q = torch.zeros(1, 4, 1, 16)
    gates = torch.zeros(1, 4, 1)
    installed = importlib.util.find_spec("triton") is not None
    with pytest.raises(
        RecurrenceError, match="needs tensors on a CUDA device, got cpu" if installed else "not installed"
    ):
        gated_delta_rule(q, q, q, gates, gates, backend="triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "bokehflow[kernels]" in str(why_not_triton(torch.device("cuda")))


def test_auto_on_a_cpu_never_asks_for_the_kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    asked: list[torch.device] = []
    monkeypatch.setattr(triton_backend, "why_not_triton", asked.append)
    from model.recurrent.triton_check import CheckConfig

    with torch.inference_mode():
        assert not triton_backend.fused(CheckConfig(backend="auto"), torch.zeros(1, 2, 2, 4))
    assert not asked


@pytest.mark.gpu
def test_the_kernels_pass_their_check_on_this_gpu():
    assert why_not_triton(torch.device("cuda", torch.cuda.current_device())) is None
