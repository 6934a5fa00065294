"""The chunk form against the token loop in float64, its behaviour on hard inputs, and the bound on its state."""

import logging

import pytest
import torch

from model.recurrent import RecurrenceError, fla_backend, gated_delta_rule, gated_delta_rule_reference, unit_keys
from model.recurrent import recurrence as recurrence_module
from model.recurrent.chunked import Tokens, chunked_gated_delta_rule, scan_affine, unit_lower_inverse
from model.recurrent.fla_backend import why_not_fla

F64 = torch.float64


def draw(batch=2, length=77, heads=2, key_dim=8, value_dim=6, seed=0, alike=0.0):
    """q, k, v, log_alpha, beta, state in float64; alike > 0 makes all keys nearly one direction."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=F64)

    k = normal(batch, length, heads, key_dim)
    if alike:
        k = normal(batch, 1, heads, key_dim) + alike * k
    rows = (batch, length, heads)
    return [
        normal(*rows, key_dim),
        unit_keys(k),
        normal(*rows, value_dim),
        -torch.rand(rows, generator=rng, dtype=F64),
        torch.rand(rows, generator=rng, dtype=F64),
        normal(batch, heads, value_dim, key_dim),
    ]


def results(function, inputs, **options):
    """Output, final state and the gradients of all inputs, for one fixed nonlinear loss."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    out, state = function(*leaves, **options)
    used = [x for x in leaves if x is not None]
    return [out, state, *torch.autograd.grad((out.sin() * 3).sum() + (state * state.cos()).sum(), used)]


def assert_same(found, truth, tolerance):
    for number, (one, two) in enumerate(zip(found, truth, strict=True)):
        worst = float((one.detach().double() - two.detach().double()).abs().max())
        assert worst < tolerance, f"result {number} differs by {worst}"


# against the reference


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (5, 8), (8, 8), (77, 8), (77, 32), (130, 16), (40, 64)])
def test_chunks_equal_the_token_loop(length, chunk, with_state):
    inputs = draw(length=length)
    inputs[5] = inputs[5] if with_state else None
    found = results(gated_delta_rule, inputs, chunk_size=chunk, backend="torch")
    assert_same(found, results(gated_delta_rule_reference, inputs), 1e-10)


@pytest.mark.parametrize(("length", "chunk"), [(5, 8), (77, 8), (77, 32)])
def test_the_scan_in_levels_of_other_devices_equals_the_token_loop(monkeypatch, length, chunk):
    monkeypatch.setattr("model.recurrent.chunked.walks", lambda device: False)
    inputs = draw(length=length)
    found = results(gated_delta_rule, inputs, chunk_size=chunk, backend="torch")
    assert_same(found, results(gated_delta_rule_reference, inputs), 1e-10)


@pytest.mark.parametrize("bytes_at_once", [1, 5000])
def test_blocks_of_chunks_equal_the_token_loop(monkeypatch, bytes_at_once):
    monkeypatch.setattr("model.recurrent.chunked.BLOCK_BYTES", bytes_at_once)  # one chunk, and a few
    inputs = draw(length=77)
    found = results(gated_delta_rule, inputs, chunk_size=8, backend="torch")
    assert_same(found, results(gated_delta_rule_reference, inputs), 1e-10)


@pytest.mark.parametrize("alike", [1e-3, 0.1])
def test_chunks_equal_the_token_loop_for_alike_keys(alike):
    inputs = draw(length=150, alike=alike)
    inputs[4] = torch.full_like(inputs[4], 0.9999)
    inputs[3] = torch.full_like(inputs[3], -1e-4)
    found = results(gated_delta_rule, inputs, backend="torch")
    assert_same(found, results(gated_delta_rule_reference, inputs), 1e-10)


def test_parts_without_gradients_equal_one_piece(monkeypatch):
    # Without gradients a long sequence is walked in parts, to bound its memory.
    inputs = draw(length=300)
    whole, state = gated_delta_rule(*inputs, chunk_size=16, backend="torch")
    monkeypatch.setattr("model.recurrent.chunked.TOKENS_AT_ONCE", 200)
    with torch.no_grad():
        parts, end = gated_delta_rule(*inputs, chunk_size=16, backend="torch")
    assert_same([parts, end], [whole, state], 1e-12)


def test_a_sequence_continues_from_its_state():
    q, k, v, log_alpha, beta, state = draw(length=50)
    whole, end = gated_delta_rule(q, k, v, log_alpha, beta, state)
    first, middle = gated_delta_rule(*(x[:, :23] for x in (q, k, v, log_alpha, beta)), state)
    second, last = gated_delta_rule(*(x[:, 23:] for x in (q, k, v, log_alpha, beta)), middle)
    assert_same([torch.cat([first, second], 1), last], [whole, end], 1e-12)


def test_gradcheck():
    inputs = [x.requires_grad_() for x in draw(batch=1, length=11, heads=1, key_dim=3, value_dim=2)]
    assert torch.autograd.gradcheck(lambda *x: gated_delta_rule(*x, chunk_size=4, backend="torch"), inputs)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 16, 30, 70])
def test_scan_in_levels_equals_a_loop(count):
    rng = torch.Generator().manual_seed(count)
    start = torch.randn(3, 4, 5, generator=rng, dtype=F64)
    turn, shift = (
        torch.randn(3, count, 5, 5, generator=rng, dtype=F64),
        torch.randn(3, count, 4, 5, generator=rng, dtype=F64),
    )
    states = [start]
    for j in range(count):
        states.append(states[-1] @ turn[:, j] + shift[:, j])
    torch.testing.assert_close(scan_affine(start, turn, shift), torch.stack(states, 1), rtol=1e-10, atol=1e-10)


# float32 on what every sky and wall is: alike keys, beta near 1


@pytest.mark.parametrize("alike", [0.0, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("chunk", [32, 64])
def test_float32_is_accurate_for_alike_keys(alike, chunk):
    inputs = draw(length=400, key_dim=24, value_dim=24, alike=alike or 1e-9)
    inputs[4] = torch.full_like(inputs[4], 0.9999)
    inputs[3] = torch.full_like(inputs[3], -1e-4)
    truth = results(gated_delta_rule_reference, inputs)
    found = results(gated_delta_rule, [x.float() for x in inputs], chunk_size=chunk, backend="torch")
    assert all(bool(torch.isfinite(x).all()) for x in found)
    for one, two in zip(found[:5], truth[:5], strict=True):  # outputs, state, gradients of q, k, v
        assert float((one.double() - two).detach().abs().max()) < 1e-4 * max(1, float(two.detach().abs().max()))


def test_inverse_is_accurate_where_doubling_is_not():
    # The prototype's kind of inverse, (I - L)(I + L^2)(I + L^4)..., loses everything here: its partial products reach
    # binomial coefficients of about 1e8 that must cancel to ones.
    size = 32
    system = torch.full((size, size), 0.999).tril(-1)
    exact = torch.linalg.inv(torch.eye(size, dtype=F64) + system.double())
    doubling, power = torch.eye(size) - system, system @ system
    for _ in range(4):
        doubling, power = doubling @ (torch.eye(size) + power), power @ power
    assert float((doubling - exact).abs().max()) > 1
    assert float((unit_lower_inverse(system) - exact).abs().max()) < 1e-5


def test_strong_decay_is_finite():
    # exp(c_C) / exp(c_i) would be 0 / 0, and an exponential before its mask inf * 0 in the backward pass.
    inputs = [x.float() for x in draw(length=64)]
    inputs[3] = torch.full_like(inputs[3], -50.0)
    found = results(gated_delta_rule, inputs, backend="torch")
    assert all(bool(torch.isfinite(x).all()) for x in found)
    assert_same(found[:2], results(gated_delta_rule_reference, [x.double() for x in inputs])[:2], 1e-4)


# defect 5: keys without a safe eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_keys_give_moderate_outputs_and_gradients(dtype):
    # The prototype divided by max(norm, 1e-12), which float16 rounds to 0: NaN outputs, and gradients of 1e12 in float32.
    k = torch.zeros(1, 20, 1, 4, dtype=dtype, requires_grad=True)
    q, v = torch.ones(2, 1, 20, 1, 4, dtype=dtype).unbind()
    out, state = gated_delta_rule(q, unit_keys(k), v, torch.full((1, 20, 1), -0.1), torch.full((1, 20, 1), 0.5))
    (out.float().sum() + state.sum()).backward()
    for tensor in (out, state, k.grad):
        assert bool(torch.isfinite(tensor).all())
    assert float(out.detach().abs().max()) == 0
    assert float(k.grad.abs().max()) < 1e5


def test_keys_are_unit_in_float32_even_from_half():
    k = unit_keys((100 * torch.randn(50, 16)).half())
    assert k.dtype == torch.float32
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(50), rtol=1e-5, atol=1e-5)


# defect 6: "state explosion"


def test_state_obeys_its_bound_for_100_000_steps_of_alike_keys():
    # The prototype feared growth and divided by max(norm, 0.1) in the scan, which multiplies small states by up to 10 each
    # token. There is nothing to fear: |S_t|^2 <= a^2 |S_{t-1}|^2 + |v|^2 b / (2 - b).
    steps, size = 100_000, 6
    rng = torch.Generator().manual_seed(3)
    k = unit_keys(
        torch.randn(size, generator=rng, dtype=F64) + 0.05 * torch.randn(steps, size, generator=rng, dtype=F64)
    )
    v = torch.randn(steps, size, generator=rng, dtype=F64)
    log_alpha = -0.2 * torch.rand(steps, generator=rng, dtype=F64) ** 4
    beta = torch.rand(steps, generator=rng, dtype=F64) ** 0.25  # mostly near 1
    # Chunks of one token make the scan return every state; the outputs read one row of it per unit query.
    turn = log_alpha.exp()[:, None, None] * (
        torch.eye(size, dtype=F64) - beta[:, None, None] * k[:, :, None] * k[:, None, :]
    )
    shift = beta[:, None, None] * v[:, :, None] * k[:, None, :]
    norms = scan_affine(torch.zeros(1, size, size, dtype=F64), turn[None], shift[None])[0].square().sum((-2, -1))
    bound = (2 * log_alpha).exp() * norms[:-1] + v.square().sum(-1) * beta / (2 - beta)
    assert float((norms[1:] - bound).max()) < 1e-9
    inputs = [x[None, :, None] for x in (k, k, v, log_alpha, beta)]
    _, final = gated_delta_rule(*inputs)
    torch.testing.assert_close(final.square().sum(), norms[-1], rtol=1e-9, atol=1e-9)


def test_without_decay_the_state_grows_at_most_like_a_root():
    inputs = draw(length=4000, batch=1, heads=1)
    inputs[3] = torch.zeros_like(inputs[3])
    beta, v = inputs[4], inputs[2]
    _, final = gated_delta_rule(*inputs[:5])
    assert float(final.square().sum()) <= float((v.square().sum(-1) * beta / (2 - beta)).sum())


# precision, backends and wrong input


def test_float32_inside_autocast():
    q, k, v, log_alpha, beta, state = (x.float() for x in draw(length=64))
    plain, end = gated_delta_rule(q, k, v, log_alpha, beta, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, end_inside = gated_delta_rule(q, k, v, log_alpha, beta, state)
        half, end_half = gated_delta_rule(q.bfloat16(), k, v.bfloat16(), log_alpha, beta, state)
    assert torch.equal(plain, inside) and torch.equal(end, end_inside)
    assert half.dtype == torch.bfloat16 and end_half.dtype == torch.float32


def test_the_automatic_choice_of_backend_is_logged_once(caplog):
    recurrence_module._choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="model.recurrent.recurrence"):
        for _ in range(3):
            gated_delta_rule(*(x.float() for x in draw(length=4)))
    assert [record.getMessage() for record in caplog.records] == [
        "gated delta recurrence: backend torch (the device is cpu)"
    ]


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(RecurrenceError, match="backend 'fla' cannot run: it needs tensors on a CUDA device, got cpu"):
        gated_delta_rule(*draw(length=4), backend="fla")


@pytest.mark.parametrize("errors", [[0.01, float("nan")], [float("nan"), 0.01], [0.01, 0.3]])
def test_kernels_that_fail_their_self_check_are_not_used(monkeypatch, errors):
    # max() over Python floats passes over a NaN that does not come first, and kernels that give NaN would have passed.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(fla_backend, "_errors", lambda size: errors)
    assert "its self-check found an error of" in why_not_fla.__wrapped__("cuda")
    monkeypatch.setattr(fla_backend, "_errors", lambda size: [0.01, 0.02])
    assert why_not_fla.__wrapped__("cuda") is None


def test_reference_backend_is_the_reference():
    inputs = draw(length=9)
    found = gated_delta_rule(*inputs, backend="reference")
    assert_same(found, gated_delta_rule_reference(*inputs), 1e-15)


GOOD = draw(length=4)


@pytest.mark.parametrize(
    ("position", "value", "options", "message"),
    [
        (0, GOOD[0][0], {}, r"q must be \(B, L, H, Dk\)"),
        (0, GOOD[0][:, :0], {}, "at least one token"),
        (1, GOOD[1][:, :3], {}, r"k must be \(2, 4, 2, 8\)"),
        (2, GOOD[2][:, :, 0], {}, "v must be"),
        (3, GOOD[3][..., None], {}, "log_alpha must be"),
        (4, GOOD[4][:1], {}, r"beta must be \(2, 4, 2\)"),
        (
            5,
            GOOD[5].transpose(-1, -2),
            {},
            r"initial_state must be \(B, H, Dv, Dk\) = \(2, 2, 6, 8\), got \(2, 2, 8, 6\)",
        ),
        (0, GOOD[0], {"chunk_size": 24}, "chunk_size must be a power of two, got 24"),
        (0, GOOD[0], {"backend": "cuda"}, "backend must be one of auto, torch, triton, fla, reference, got 'cuda'"),
    ],
)
def test_wrong_input_says_what_is_allowed(position, value, options, message):
    inputs = list(GOOD)
    inputs[position] = value
    with pytest.raises(RecurrenceError, match=message):
        gated_delta_rule(*inputs, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [24, 32])
def test_cuda_equals_the_reference(size):
    inputs = draw(length=200, key_dim=size, value_dim=size)
    found = results(gated_delta_rule, [x.cuda() for x in inputs], backend="torch")
    assert_same([x.cpu() for x in found], results(gated_delta_rule_reference, inputs), 1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [24, 32])
def test_fla_equals_the_reference_in_half_precision(size):
    if reason := why_not_fla("cuda"):
        pytest.skip(reason)
    drawn = draw(key_dim=size, value_dim=size)
    inputs = [x.cuda().to(torch.bfloat16 if i < 3 else torch.float32) for i, x in enumerate(drawn)]
    out, state = gated_delta_rule(*inputs, backend="fla")
    truth, end = gated_delta_rule_reference(*(x.double() for x in inputs))
    for one, two in ((out, truth), (state, end)):
        assert float((one.double() - two).abs().max()) < 0.05 * float(two.abs().max())


def test_the_backward_pass_keeps_a_bounded_number_of_values():
    # The written-out backward pass keeps about 190 numbers a token and head of size 24; recorded op by op it is 400.
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    inputs = [x.float().requires_grad_() for x in draw(batch=1, length=1024, heads=1, key_dim=24, value_dim=24)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked_gated_delta_rule(Tokens(*inputs[:5]), inputs[5], 32)
    assert sum(saved.values()) < 250 * 1024
