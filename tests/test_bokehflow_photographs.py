"""What BokehFlow adds to the lens renderer: depth that is handed in, light beyond white, a correction of what was invented."""

import dataclasses

import pytest
import torch

from model.bokehflow import BokehFlow, BokehFlowConfig, BokehFlowError, LensBatch
from model.bokehflow.checkpoint import network_from
from model.bokehflow.correction import MAX_LOG_GAIN, Rendered, brightened
from model.bokehflow.losses import BokehLoss, LossWeights
from model.bokehflow.settings import BokehFlowRunSettings, BokehFlowSettings
from model.errors import CheckpointError
from model.evaluation.baselines import BlindDepth
from model.evaluation.regions import BIN_NAMES, highlight_reach, occlusion_band, regions_of
from model.evaluation.scores import Tally
from pipeline.errors import UsageError
from pipeline.measures import psnr_of_mse
from pipeline.optics import Lens, linear_to_srgb, render_lens_blur, srgb_to_linear
from pipeline.optics.render import render_traced

TINY = BokehFlowConfig(
    channels=16, heads=2, head_dim=8, depth_blocks=1, bokeh_blocks=1, stem_channels=8, aperture_dim=16,
    correction_channels=8,
)  # fmt: skip
SIZE = 48


def network(**changes) -> BokehFlow:
    torch.manual_seed(0)
    return BokehFlow(dataclasses.replace(TINY, **changes)).eval()


def lens() -> LensBatch:
    return LensBatch.of(Lens(f_m=0.05, f_number=1.4, focus_m=8.0), 320 / 36)


def box_before_wall() -> tuple[torch.Tensor, torch.Tensor]:
    """A textured frame below white and its depth: a near box, blurred, before a wall in focus."""
    rng = torch.Generator().manual_seed(1)
    frame = 0.85 * torch.rand(1, 3, SIZE, SIZE, generator=rng)
    depth = torch.full((1, 1, SIZE, SIZE), 8.0)
    depth[..., 20:28, 20:28] = 1.5
    return frame, depth


def unsettle(net: BokehFlow) -> BokehFlow:
    """As if trained: the correction's last layer is no longer zero."""
    assert net.correction is not None
    torch.nn.init.normal_(net.correction.last.weight, std=0.05)
    torch.nn.init.constant_(net.correction.last.bias, 0.1)
    return net


# how much was invented


def test_the_renderer_says_where_it_invented():
    frame, _ = box_before_wall()
    defocus = torch.zeros(1, 1, SIZE, SIZE)
    defocus[..., 20:28, 20:28] = -6.0
    photograph, invented = render_traced(frame, defocus)
    assert torch.equal(photograph, render_lens_blur(frame, defocus))  # tracing changes nothing
    assert float(invented.min()) >= 0 and float(invented.max()) <= 1
    assert float(invented[..., 22:26, 22:26].mean()) > 0.2  # what stands behind the box shines through it
    assert float(invented[..., :8, :].max()) == 0  # and beyond the reach of its blur nothing was needed
    _, flat = render_traced(frame, torch.full_like(defocus, 6.0))
    assert float(flat.max()) == 0
    _, sharp = render_traced(frame, torch.zeros_like(defocus))
    assert float(sharp.max()) == 0 and sharp.shape == defocus.shape


# depth that is handed in


@torch.no_grad()
def test_with_true_depth_the_mix_starts_as_the_renderer():
    """One weight for the whole image stopped at 43 dB here."""
    frame, depth = box_before_wall()
    out, _ = network()(frame, lens(), depth_m=depth)
    rendered = render_lens_blur(frame, out.coc_px)
    assert psnr_of_mse(float((out.bokeh - rendered).square().mean())) > 60
    assert float((rendered - frame).abs().max()) > 0.1  # there was something to blur
    assert float(out.mix.min()) == 1 and torch.equal(out.depth_m, depth)


@torch.no_grad()
def test_with_true_depth_a_trained_mix_leaves_alone_what_the_renderer_knew():
    frame, depth = box_before_wall()
    out, _ = unsettle(network())(frame, lens(), depth_m=depth)
    changed = (out.bokeh - out.physics).abs().amax(1, keepdim=True)
    assert float(changed[out.invented == 0].max()) == 0
    assert float(changed[out.invented > 0.1].mean()) > 1e-3
    assert bool((out.invented == 0).any()) and bool((out.invented > 0.1).any())
    predicted, _ = unsettle(network())(frame, lens())
    assert (
        float((predicted.bokeh - predicted.physics).abs()[..., :4, :].max()) > 1e-4
    )  # predicted depth may be wrong anywhere


@torch.no_grad()
def test_handed_in_depth_may_go_uncorrected():
    frame, depth = box_before_wall()
    net = unsettle(network(correct_given=False))
    out, _ = net(frame, lens(), depth_m=depth)
    assert torch.equal(out.bokeh, out.physics)
    predicted, _ = net(frame, lens())
    assert not torch.equal(predicted.bokeh, predicted.physics)


@torch.no_grad()
def test_handed_in_depth_lets_the_depth_stream_rest():
    frame, depth = box_before_wall()
    net = network()
    first, state = net(frame, lens(), depth_m=depth)
    for parameter in [*net.depth_blocks.parameters(), *net.depth_head.parameters()]:
        parameter.add_(1.0)
    again, _ = net(frame, lens(), depth_m=depth)
    assert torch.equal(first.bokeh, again.bokeh)
    net = network()
    _, seen = net(frame, lens())
    _, rested = net(frame, lens(), seen, depth)
    assert torch.equal(rested.depth_states, seen.depth_states) and not torch.equal(
        rested.bokeh_states, seen.bokeh_states
    )
    net(frame, lens(), state)  # and a frame without depth may follow


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (torch.ones(1, 1, 4, 4), "depth_m must be floating point"),
        (torch.ones(1, 1, SIZE, SIZE, dtype=torch.int64), "depth_m must be floating point"),
        (torch.zeros(1, 1, SIZE, SIZE), "depth_m must be finite and > 0 everywhere, in metres, got 0"),
        (torch.full((1, 1, SIZE, SIZE), float("nan")), "got nan"),
    ],
)
def test_depth_that_cannot_be_is_refused(depth, message):
    with pytest.raises(BokehFlowError, match=message):
        network()(box_before_wall()[0], lens(), depth_m=depth)


# light beyond white


def test_only_clipped_channels_are_brightened():
    frame = torch.tensor([0.2, 0.89, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    light, clipped = brightened(frame, torch.full((1, 3, 4, 4), 50.0))
    assert torch.equal(light[:, :2], srgb_to_linear(frame)[:, :2])
    assert float(light[0, 2, 0, 0]) == pytest.approx(2.718281828**MAX_LOG_GAIN, rel=1e-3)
    assert float(clipped.min()) == 1
    light, _ = brightened(frame, torch.full((1, 3, 4, 4), -float("inf")))
    assert torch.equal(light, srgb_to_linear(frame))


@torch.no_grad()
def test_a_brightened_lamp_makes_a_brighter_disc():
    frame = torch.full((1, 3, SIZE, SIZE), 0.05)
    frame[..., 22:26, 22:26] = 1.0
    depth = torch.full((1, 1, SIZE, SIZE), 60.0)
    dark, lit = network(enable_highlights=False), network()
    torch.nn.init.constant_(lit.highlight_head.last.bias, 6.0)
    far = LensBatch.of(Lens(f_m=0.085, f_number=1.2, focus_m=2.0), 320 / 36)
    plain, bright = (net(frame, far, depth_m=depth)[0].physics[0, :, 24, 24].mean() for net in (dark, lit))
    assert float(bright) > float(plain) + 0.3


def test_gradients_reach_the_highlights_through_the_renderer():
    net = network().train()
    frame, depth = box_before_wall()
    frame = frame.clone()
    frame[..., 22:26, 22:26] = 1.0
    out, _ = net(frame, lens(), depth_m=depth)
    out.physics.mean().backward()
    assert net.highlight_head is not None
    gradient = net.highlight_head.last.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_the_correction_looks_where_something_is_unknown():
    frame, depth = box_before_wall()
    radius = torch.where(depth < 2, -4.0, 0.0)
    clipped = torch.zeros_like(depth)
    clipped[..., 5, 5] = 1.0
    invented = torch.zeros_like(depth)
    invented[..., 30, 30] = 0.5
    seen = Rendered(
        frame=frame, light=srgb_to_linear(frame), clipped=clipped, physics=frame, invented=invented, radius_px=radius,
        given=True,
    )  # fmt: skip
    support = seen.support()[0, 0]
    assert support[30, 30] == 1 and support[5, 5] == 1 and support[8, 8] == 1  # the lamp's disc too
    assert support[0, 20] == 0 and support[40, 40] == 0
    assert float(dataclasses.replace(seen, given=False).support().min()) == 1
    assert seen.cues().shape == (1, 14, SIZE, SIZE)


# parts that can be left out


@torch.no_grad()
def test_two_scans_never_hear_columns():
    frame, _ = box_before_wall()
    outs = []
    for used in (2, 4):
        net = network(scans=used)
        before, _ = net(frame, lens())
        for block in [*net.depth_blocks, *net.bokeh_blocks]:
            block.scans.out[2:] += 1.0
        after, state = net(frame, lens())
        outs.append(torch.equal(before.depth_m, after.depth_m))
        state.check(net.config, 1)
    assert outs == [True, False]


def test_gating_as_published_is_in_pixels_with_a_learned_strength():
    ours, published = network(), network(dahg_blur="pixels")
    share, pixels = ours.mean_blur(lens(), None), published.mean_blur(lens(), None)
    limit = 31.0 * 320 / 854
    torch.testing.assert_close(pixels, share * limit)
    weight = published.bokeh_blocks[0].scans.decay.weight
    assert isinstance(weight, torch.nn.Parameter) and weight.item() == pytest.approx(TINY.dahg_lambda)
    assert "bokeh_blocks.0.scans.decay.weight" not in ours.state_dict()


@pytest.mark.parametrize("part", ["enable_highlights", "enable_correction", "enable_physics", "enable_film"])
@torch.no_grad()
def test_a_network_without_a_part_runs_and_round_trips(part):
    net = network(**{part: False})
    frame, depth = box_before_wall()
    out, _ = net(frame, lens(), depth_m=depth)
    if part == "enable_physics":
        torch.testing.assert_close(out.physics, frame, rtol=0, atol=1e-5)
    same = network_from(net.config.to_dict(), net.state_dict()).eval()
    assert torch.equal(same(frame, lens(), depth_m=depth)[0].bokeh, out.bokeh)


def test_weights_that_mixed_by_one_number_are_refused():
    with pytest.raises(CheckpointError, match=r"mixed its image by one number.*train again"):
        network_from(TINY.to_dict(), {"mix_logit": torch.zeros(())})


@pytest.mark.parametrize(("name", "value"), [("scans", 3), ("correction_channels", 7), ("dahg_blur", "percent")])
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(BokehFlowError, match=f"{name} must be"):
        dataclasses.replace(TINY, **{name: value})


# losses and measures


def test_losses_of_photographs():
    truth = torch.zeros(1, 1, 3, 16, 16)
    image, invented = truth.clone(), torch.zeros(1, 1, 1, 16, 16)
    image[..., :8, :] = 0.5
    invented[..., :8, :] = 1.0
    loss = BokehLoss(LossWeights(mse=2.0, invented=1.0, ssim=0.0, perceptual=0.0, temporal=0.0))
    terms = loss(image, truth, None, None, None, invented)
    assert float(terms.values["mse"]) == pytest.approx(0.125)
    assert float(terms.values["invented"]) == pytest.approx(0.5, rel=0.03)
    assert float(terms.total) == pytest.approx(0.25 + 2 * 0.125 + float(terms.values["invented"]))
    assert "depth" not in terms.values


def test_regions_share_out_the_picture():
    defocus = torch.zeros(1, 40, 40)
    defocus[:, :, 20:] = 4.0
    band = occlusion_band(defocus)[0, 10]
    assert band.nonzero()[:, 0].tolist() == list(range(15, 25))  # 4 px around the two pixels of the edge
    frame = torch.zeros(3, 40, 40)
    frame[0, 5, 30] = 1.0
    found = regions_of(frame, defocus)
    assert int(highlight_reach(frame, defocus).sum()) == 9 * 9
    assert int(sum(found[name].int() for name in BIN_NAMES).min()) == 1
    assert int(sum(found[name].int() for name in BIN_NAMES).max()) == 1
    assert int(found["radius_2_5"].sum()) == 20 * 40


def test_regions_are_pooled_over_pixels():
    first, second = Tally(), Tally()
    first.add_region("band", 4.0, 100)
    second.add_region("band", 0.0, 300)
    second.add_region("highlights", 0.0, 0)
    first.merge(second)
    assert first.scores()["psnr_band_db"] == pytest.approx(20.0)
    assert "psnr_highlights_db" not in second.scores()


def test_blind_depth_is_the_geometric_mean():
    near, far = torch.full((1, 20, 30), 1.0), torch.full((1, 20, 30), 4.0)
    far[:, 10:] = 1000.0  # the sky counts as 100 m
    blind = BlindDepth([near, far])
    like = torch.zeros(2, 3, 11, 20)
    rows = blind.depth_m("rows", like)
    assert rows.shape == (2, 1, 11, 20)
    assert float(rows[0, 0, 0, 0]) == pytest.approx(2.0, rel=1e-4) and float(rows[0, 0, -1, 0]) == pytest.approx(10.0)
    assert float(blind.depth_m("constant", like)[0, 0, 3, 3]) == pytest.approx((2 * 10) ** 0.5, rel=1e-3)
    assert torch.allclose(blind.depth_m("map", like), rows)


def test_nothing_is_darker_for_the_way_through_linear_light():
    values = torch.linspace(0, 1, 256)
    assert float((linear_to_srgb(srgb_to_linear(values)) - values).abs().max()) < 1e-6


@pytest.mark.parametrize("off", [{"enable_highlights": False}, {"enable_physics": False}])
def test_a_training_that_would_learn_nothing_from_depth_handed_in_is_refused(off: dict):
    """It went on to the first such batch, and ended in PyTorch's words about a missing gradient."""
    run = BokehFlowRunSettings(given_depth=0.5)
    resting = dataclasses.replace(TINY, correct_given=False, **off)
    with pytest.raises(UsageError, match=r"nothing to learn: set run\.given_depth = 0"):
        BokehFlowSettings(task="bokehflow", model=resting, run=run)
    BokehFlowSettings(task="bokehflow", model=resting)
    BokehFlowSettings(task="bokehflow", model=dataclasses.replace(TINY, **off), run=run)  # the correction learns
