"""BokehFlow as a whole: shapes, sizes, states, gradients, wrong input. The published defects are in the file beside this."""

import dataclasses
import json

import pytest
import torch

from model.bokehflow import (
    VARIANTS,
    BokehFlow,
    BokehFlowConfig,
    BokehFlowError,
    BokehFlowState,
    LensBatch,
    summary,
    variant,
)
from model.recurrent.scans import gate_logits
from pipeline.optics import Lens, srgb_to_linear

TINY = BokehFlowConfig(
    channels=16, heads=2, head_dim=8, depth_blocks=2, bokeh_blocks=2, stem_channels=8, aperture_dim=16
)
PX_PER_MM = 320 / 36


def network(config=TINY, seed=0, **changes):
    torch.manual_seed(seed)
    return BokehFlow(dataclasses.replace(config, **changes))


def lenses(count=1, f_mm=50.0, f_number=1.4, focus_m=2.0, **more):
    return LensBatch.of([Lens(f_m=f_mm / 1000, f_number=f_number, focus_m=focus_m)] * count, PX_PER_MM, **more)


def image(count=1, height=24, width=32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 4 + 1, width // 4 + 1, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


# shapes and sizes


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (24, 32), (33, 18), (4, 41)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_size_gives_outputs_of_that_size(size, dtype):
    net = network().eval()
    frame = torch.rand(2, 3, *size).to(dtype)
    with torch.no_grad():
        out, state = net(frame, lenses(2))
    assert out.bokeh.shape == frame.shape and out.bokeh.dtype == dtype
    assert out.depth_m.shape == out.coc_px.shape == (2, 1, *size)
    assert out.depth_m.dtype == torch.float32
    assert float(out.bokeh.min()) >= 0 and float(out.bokeh.max()) <= 1
    state.check(TINY, 2)
    assert bool(torch.isfinite(out.bokeh.float()).all())


@pytest.mark.parametrize("motion", [False, True])
def test_the_state_has_one_size_for_all_frames(motion):
    net = network(enable_motion=motion).eval()
    with torch.no_grad():
        _, small = net(image(height=8, width=8), lenses())
        out, large = net(image(height=40, width=56), lenses(), small)  # a video may even change its size
    assert [x.shape for x in small.state_dict().values()] == [x.shape for x in large.state_dict().values()]
    assert out.bokeh.shape[-2:] == (40, 56)


def test_float64_runs_and_agrees_with_float32():
    net = network().eval()
    frame, lens = image(), lenses()
    with torch.no_grad():
        out, _ = net(frame, lens)
        precise, _ = net.double()(frame.double(), lens.to(dtype=torch.float64))
    assert precise.bokeh.dtype == torch.float64
    torch.testing.assert_close(out.bokeh.double(), precise.bokeh, rtol=0, atol=1e-3)
    torch.testing.assert_close(out.depth_m.double(), precise.depth_m, rtol=1e-3, atol=0)


def test_variants_have_the_sizes_that_the_documentation_names():
    millions = {name: sum(p.numel() for p in BokehFlow(config).parameters()) / 1e6 for name, config in VARIANTS.items()}
    assert millions["nano"] == pytest.approx(0.9, abs=0.05)
    assert millions["small"] == pytest.approx(3.6, abs=0.2)
    assert millions["base"] == pytest.approx(17.0, abs=0.8)
    assert millions["demo"] < 0.3


def test_directions_one_by_one_equal_all_at_once(monkeypatch):
    # Large frames without gradients are scanned direction by direction, to bound their memory.
    net = network().eval()
    with torch.no_grad():
        together, first = net(image(), lenses())
        monkeypatch.setattr("model.recurrent.scans.TOKENS_TOGETHER", 10)
        apart, second = net(image(), lenses(), None)
    torch.testing.assert_close(apart.bokeh, together.bokeh, rtol=0, atol=1e-5)
    torch.testing.assert_close(second.depth_states, first.depth_states, rtol=1e-4, atol=1e-5)


def test_backends_agree_through_the_whole_network():
    frame, lens = image(), lenses()
    outs = []
    for backend in ("torch", "reference"):
        net = network(backend=backend).train()
        out, _ = net(frame, lens)
        out.bokeh.square().sum().backward()
        outs.append((out.bokeh.detach(), net.stem.layers[0].weight.grad))
    for one, two in zip(*outs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


# gradients and learning

# Zero at step 0 by construction: the lens embedding is behind FiLM layers, the fusion gates behind projections, that start at
# zero, and so do the features of motion; the second frame's mixture has gradients on a second frame only.
# The correction's last layer starts at zero too, and what is before it waits for that.
SILENT_AT_START = (
    "aperture.", "fusions.0.gates.", "motion.layers.",
    *(f"correction.{part}" for part in ("enter", "half", "to", "quarter", "eighth", "from", "depth")),
)  # fmt: skip


@pytest.mark.parametrize("motion", [False, True])
def test_every_parameter_gets_a_finite_gradient(motion):
    net = network(enable_motion=motion).train()
    lens = lenses(2)
    _, state = net(image(2, seed=1), lens)
    out, _ = net(image(2, seed=2), lens, state)
    (out.bokeh.square().mean() + out.depth_m.log().square().mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        largest = float(parameter.grad.abs().max())
        assert (largest == 0) == name.startswith(SILENT_AT_START), f"{name}: {largest}"


def test_parameters_without_a_gradient_at_the_start_have_one_after_a_step():
    net = network(enable_motion=True).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out, _ = net(image(2), lenses(2))
        (out.bokeh.square().mean() + out.depth_m.log().square().mean()).backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        if name.startswith(SILENT_AT_START):
            assert float(parameter.grad.abs().max()) > 0, name


def test_gradients_flow_through_the_state_unless_detached():
    net = network().train()
    first = image().requires_grad_()
    _, state = net(first, lenses())
    out, _ = net(image(seed=1), lenses(), state)
    assert float(torch.autograd.grad(out.bokeh.sum(), first, retain_graph=True)[0].abs().max()) > 0
    out, _ = net(image(seed=1), lenses(), state.detach())
    assert torch.autograd.grad(out.bokeh.sum(), first, allow_unused=True)[0] is None


def test_loss_falls_on_one_small_batch():
    net = network().train()
    frame, lens = image(2, 16, 16), lenses(2)
    depth = torch.linspace(0.8, 8, 16)[None, None, :, None].expand(2, 1, 16, 16)
    with torch.no_grad():
        truth = net.physics(srgb_to_linear(frame), depth, lens).image
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        out, _ = net(frame, lens)
        loss = (out.bokeh - truth).abs().mean() + (out.depth_m / depth).log().abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


def test_bfloat16_stays_close():
    net = network().eval()
    with torch.no_grad():
        plain, _ = net(image(), lenses())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, state = net(image(), lenses())
        cast, _ = net.bfloat16()(image(), lenses())
    for out in (half, cast):
        assert out.bokeh.dtype == out.depth_m.dtype == state.depth_states.dtype == torch.float32
        assert float((out.bokeh - plain.bokeh).abs().max()) < 0.05


# the temporal state


@pytest.fixture
def watching():
    """A network that sees motion and carries nothing else; the cue's last layer is away from zero, as after training."""
    net = network(enable_motion=True, enable_tsp=False).eval()
    with torch.no_grad():
        net.motion.last.weight.normal_(generator=torch.Generator().manual_seed(3))
    return net


@torch.no_grad()
def depth_after(net, frame, before):
    state = None if before is None else net(before, lenses())[1]
    return net(frame, lenses(), state)[0].depth_m


def test_motion_adds_nothing_before_training():
    plain, watching = network().eval(), network(enable_motion=True).eval()
    frames = image(seed=1), image(seed=2)
    assert torch.equal(depth_after(watching, *frames), depth_after(plain, *frames))


def test_the_first_frame_is_held_against_itself(watching):
    frame = image()
    first = depth_after(watching, frame, None)
    assert torch.equal(depth_after(watching, frame, frame), first)
    assert float((depth_after(watching, frame, image(seed=1)) / first).log().abs().max()) > 1e-2


def test_motion_is_a_change_where_it_happens(watching):
    frame = image(height=64, width=64)
    before = frame.clone()
    before[..., :12, :12] = frame[..., :12, :12].flip(-1)  # what was in one corner has turned round
    moved = (depth_after(watching, frame, before) / depth_after(watching, frame, None)).log().abs()
    assert float(moved[..., :16, :16].mean()) > 5 * float(moved[..., 40:, 40:].mean())


def test_depth_is_learned_from_motion_where_one_frame_cannot_tell():
    """Noise all over, of which one half moves and is near: no single frame shows which."""
    rng = torch.Generator().manual_seed(0)
    net = network(enable_motion=True, enable_tsp=False, channels=8, head_dim=4, depth_blocks=1, bokeh_blocks=1).train()
    optimizer = torch.optim.Adam([*net.motion.parameters(), *net.depth_head.parameters()], lr=1e-2)
    near, far = 1.0, 10.0

    def pair():
        before = torch.rand(2, 3, 24, 24, generator=rng)
        after, depth = before.clone(), torch.full((2, 1, 24, 24), far)
        for i in range(2):
            half = (slice(None, 12), slice(12, None))[int(torch.randint(2, (), generator=rng))]
            after[i, :, :, half] = before[i, :, :, half].roll(1, -1)
            depth[i, :, :, half] = near
        return before, after, depth

    def error(before, after, depth):
        lens = torch.zeros(2, net.config.aperture_dim), torch.zeros(2)
        with torch.no_grad():
            state = net.predict(before, *lens, None).state
            state = dataclasses.replace(state, depth_samples_m=torch.ones(2, 1, 32, 32))
        return (net.predict(after, *lens, state).depth_m / depth).log().abs().mean()

    for _ in range(60):
        optimizer.zero_grad()
        error(*pair()).backward()
        optimizer.step()
    with torch.no_grad():
        before, after, depth = pair()
        told, untold = float(error(before, after, depth)), float(error(after, after, depth))
    guess = 0.5 * float(torch.tensor(far / near).log())  # the middle between the two, which is the best without motion
    assert told < 0.5 * guess < untold, (told, guess, untold)


def test_the_state_matters_and_a_detached_copy_is_the_same():
    net = network().eval()
    with torch.no_grad():
        _, state = net(image(seed=1), lenses())
        with_state, _ = net(image(), lenses(), state)
        again, _ = net(image(), lenses(), state.detach().to("cpu", torch.float32))
        without, _ = net(image(), lenses())
    assert torch.equal(with_state.bokeh, again.bokeh)
    assert float((with_state.depth_m - without.depth_m).abs().max()) > 1e-5


def test_slow_heads_carry_the_last_frame_into_the_middle_of_the_next():
    """All heads at the fast start remember some 8 tokens, and the middle of a picture never hears of the last one."""

    def heard(memory_tokens):
        net = network(memory_tokens=memory_tokens).eval()
        with torch.no_grad():
            _, state = net(image(1, 96, 96, seed=1), lenses())
            other = dataclasses.replace(state, depth_states=-state.depth_states, bokeh_states=-state.bokeh_states)
            one, two = (net(image(1, 96, 96), lenses(), s)[0].depth_m.log() for s in (state, other))
        return float((one - two)[..., 40:56, 40:56].abs().mean())

    assert heard(4096) > 10 * heard(0)


def test_gates_start_as_running_means_from_fast_to_slow():
    logits = gate_logits(4, 4096)
    assert logits[0] == 2.0  # sigmoid(2) = 1 - 1 / 8.4, and the step sigmoid(-2) = 1 / 8.4
    reach = 1 / (1 - torch.sigmoid(logits.double()))
    torch.testing.assert_close(reach[3], torch.tensor(4096.0).double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(reach, 1 / torch.sigmoid(-logits.double()), rtol=1e-3, atol=0)
    assert bool((logits.diff() > 0).all()) and torch.equal(gate_logits(3, 0), torch.full((3,), 2.0))
    assert gate_logits(1, 4096).tolist() == [2.0]


def test_without_tsp_frames_do_not_see_each_other():
    net = network(enable_tsp=False, enable_dahg=False).eval()
    with torch.no_grad():
        _, state = net(image(seed=1), lenses())
        assert torch.equal(net(image(), lenses(), state)[0].bokeh, net(image(), lenses())[0].bokeh)


@pytest.mark.parametrize("motion", [False, True])
def test_states_are_saved_and_loaded(tmp_path, motion):
    net = network(enable_motion=motion)
    _, state = net(image(), lenses())
    state.save(tmp_path / "state.safetensors")
    loaded = BokehFlowState.load(tmp_path / "state.safetensors")
    for name, tensor in state.state_dict().items():
        assert torch.equal(tensor.detach(), loaded.state_dict()[name])
    (tmp_path / "broken").write_bytes(b"not a state")
    with pytest.raises(BokehFlowError, match="is no safetensors file"):
        BokehFlowState.load(tmp_path / "broken")
    with pytest.raises(BokehFlowError, match="a state holds bokeh_pooled"):
        BokehFlowState.from_state_dict({})


def test_samples_of_a_batch_do_not_see_each_other():
    net = network().eval()
    lens = LensBatch.of([Lens(f_m=0.05, f_number=n, focus_m=2) for n in (1.4, 8.0)], PX_PER_MM)
    frames = torch.cat([image(seed=1), image(seed=2)])
    with torch.no_grad():
        _, state = net(frames, lens)
        both, _ = net(frames, lens, state)
        _, alone = net(frames[1:], lenses(f_number=8.0))
        one, _ = net(frames[1:], lenses(f_number=8.0), alone)
    torch.testing.assert_close(both.bokeh[1:], one.bokeh, rtol=0, atol=1e-5)


# settings and wrong input


def test_config_round_trip():
    config = dataclasses.replace(TINY, coc_model="thin_lens", dropout=0.1)
    assert BokehFlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert BokehFlowConfig.from_dict({}) == VARIANTS["small"] == variant("small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"channels": 20}, "channels must be a multiple of 8, got 20"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"chunk_size": 48}, "chunk_size must be a power of two, got 48"),
        ({"max_radius_px": 0.0}, "max_radius_px must be > 0"),
        ({"fusion_every": -1}, "fusion_every must be >= 0"),
        ({"coc_model": "pinhole"}, "coc_model must be one of contract, thin_lens, got 'pinhole'"),
        ({"backend": "cuda"}, "backend must be one of"),
        ({"hidden": 3}, "unknown settings hidden; known are aperture_dim, backend"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(BokehFlowError, match=message):
        BokehFlowConfig.from_dict(changes)
    with pytest.raises(BokehFlowError, match="variant must be one of demo, nano, small, small_32, base, got 'huge'"):
        variant("huge")


ONES = torch.ones(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f_m": torch.tensor([0.05, -0.05])}, "f_m must be finite and > 0 for every sample, got -0.05"),
        ({"f_number": torch.tensor([2.0, float("nan")])}, "f_number must be finite and > 0"),
        ({"focus_m": torch.tensor([2.0, float("inf")])}, "focus_m must be finite and > 0"),
        ({"px_per_mm": torch.tensor([0.0, 1.0])}, "px_per_mm must be finite and > 0"),
        ({"focus_m": torch.ones(3)}, r"focus_m must be a floating point tensor of shape \(B,\)"),
        ({"max_radius_px": torch.ones(2, 1)}, "max_radius_px must be a floating point tensor"),
        ({"f_number": torch.ones(2, dtype=torch.int64)}, "f_number must be a floating point tensor"),
    ],
)
def test_wrong_lenses(changes, message):
    with pytest.raises(BokehFlowError, match=message):
        LensBatch(**({"f_m": 0.05 * ONES, "f_number": ONES, "focus_m": ONES, "px_per_mm": ONES} | changes))


def test_wrong_frames_and_states():
    net = network().eval()
    _, state = net(image(2), lenses(2))
    for frame, lens, given, message in (
        (image()[0], lenses(), None, r"frame must be \(B, 3, H, W\)"),
        (image()[:, :1], lenses(), None, "frame must be"),
        (torch.rand(1, 3, 3, 30), lenses(), None, "frame must be at least 4x4 px"),
        ((image() * 255).byte(), lenses(), None, "floating point sRGB"),
        (image(2), lenses(1), None, "one lens per sample is needed: 2 frames and 1 lenses"),
        (image(1), lenses(1), state, r"state.depth_states must be \(2, 1, 4, 2, 8, 8\).*pass state=None"),
    ):
        with pytest.raises(BokehFlowError, match=message):
            net(frame, lens, given)
    with pytest.raises(BokehFlowError, match=r"state.frame_samples must be \(2, 3, 128, 128\).*got \(2, 3, 0, 0\)"):
        network(enable_motion=True)(image(2), lenses(2), state)
    with pytest.raises(BokehFlowError, match="a thin lens focuses only beyond its focal length: sample 0"):
        network(coc_model="thin_lens")(image(), lenses(focus_m=0.04))
    with pytest.raises(ValueError, match=r"image must be in \[0, 1\]"):
        net(image() * 255, lenses())


# the summary


def test_summary_prints_computed_figures(capsys):
    assert summary.main(["demo", "--size", "64x48"]) == 0
    text = capsys.readouterr().out
    total = sum(p.numel() for p in BokehFlow(VARIANTS["demo"]).parameters())
    assert f"{total:,}" in text
    assert "64x48" in text and "GFLOP" in text and "MiB" in text


def test_summary_names_the_part_that_sees_motion_where_there_is_one():
    with_it = summary.parameters_by_part(network(enable_motion=True))
    without = summary.parameters_by_part(network())
    assert "motion" not in without and with_it.pop("motion") > 0 and with_it == without


def test_summary_counts_the_operations_that_run():
    # A convolution's products are known in closed form: 2 * k^2 * in * out per output pixel.
    small = summary.measure_network(VARIANTS["demo"], 64, 64)
    large = summary.measure_network(VARIANTS["demo"], 128, 128)
    assert large.flops == pytest.approx(4 * small.flops, rel=0.05)
    # weights alone are there before anything runs
    weights = 4 * sum(p.numel() for p in BokehFlow(VARIANTS["demo"]).parameters())
    assert small.peak_bytes > weights
    assert 2 < (large.peak_bytes - weights) / (small.peak_bytes - weights) < 5


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    net = network().eval()
    with torch.no_grad():
        here, _ = net(image(), lenses())
        there, state = net.cuda()(image().cuda(), lenses().to("cuda"))
        net(image().cuda(), lenses().to("cuda"), state)
    torch.testing.assert_close(there.bokeh.cpu(), here.bokeh, rtol=0, atol=5e-3)
