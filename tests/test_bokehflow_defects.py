"""The published prototype's defects: one test each, whose comment says how the prototype failed.

Zero keys (5) and the growth of the state inside a scan (6) are in test_recurrence.py; that gradients are clipped (4) and that
every loss that is named is computed (15) belongs to the tests of the trainer and of the losses.
"""

import dataclasses
import math

import pytest
import torch

from model.bokehflow import VARIANTS, BokehFlow, BokehFlowConfig, LensBatch
from model.bokehflow.blocks import ApertureEncoder
from model.bokehflow.lens import (
    UNSEEN_DEPTH_M,
    blur_radius_px,
    mean_radius_share,
    radius_limit_px,
    unseen_mean_radius_share,
)
from model.bokehflow.network import bounded_depth_m
from model.bokehflow.physics import PhysicsBlur
from model.recurrent.blocks import ConvStem
from model.recurrent.scans import BiGDR, DecayGate, from_scan, to_scans
from model.recurrent.start import TemporalStart, bound_norm
from pipeline.optics import Lens, defocus_px, px_per_mm, render_lens_blur, srgb_to_linear

TINY = BokehFlowConfig(
    channels=16, heads=2, head_dim=8, depth_blocks=2, bokeh_blocks=2, stem_channels=8, aperture_dim=16
)
PX_PER_MM = 320 / 36


def lens_batch(*settings, px=PX_PER_MM, **more):
    """Lenses from (f_mm, f_number, focus_m)."""
    return LensBatch.of([Lens(f_m=f / 1000, f_number=n, focus_m=s) for f, n, s in settings], px, **more)


def physics(frame, depth, lens, config=TINY):
    """An sRGB picture through the renderer alone, and the signed radius."""
    blurred = PhysicsBlur(config)(srgb_to_linear(frame), depth, lens)
    return blurred.image, blurred.radius_px


def test_01_a_constant_picture_stays_constant_through_layers():
    # The prototype multiplied each layer by the visibility twice (once into its colour, once in the sum), so what two layers
    # share, v and 1 - v, came out as v^2 + (1 - v)^2: half the light where a surface lies between two layers.
    visibility = torch.linspace(0, 1, 5)
    prototype = visibility**2 + (1 - visibility) ** 2
    assert float(prototype.min()) == 0.5
    frame = torch.full((1, 3, 40, 40), 0.6)
    depth = torch.linspace(0.7, 9, 40)[None, None, :, None].expand(1, 1, 40, 40)
    picture, _ = physics(frame, depth, lens_batch((50, 1.4, 2.0)))
    assert float((picture - 0.6).detach().abs().max()) < 1 / 255


def test_02_in_focus_radius_is_zero_with_finite_gradients_for_every_input():
    # The prototype's gradients are finite here too: its CoC has no square root. But that of |D - S| is 0 at D = S, so depth in
    # focus learns nothing, where a signed radius has a slope; and it clamps the focus distance with min=f+1.
    depth = torch.full((1, 1, 4, 4), 2.0, requires_grad=True)
    lens = lens_batch((50, 1.4, 2.0))
    learnable = {name: getattr(lens, name).requires_grad_() for name in ("f_m", "f_number", "focus_m")}
    for coc_model in ("contract", "thin_lens"):
        radius, _ = blur_radius_px(depth, lens, dataclasses.replace(TINY, coc_model=coc_model))
        assert float(radius.detach().abs().max()) == 0
        for tensor in (depth, *learnable.values()):
            (gradient,) = torch.autograd.grad(radius.abs().sum() + radius.sum(), tensor, retain_graph=True)
            assert bool(torch.isfinite(gradient).all())
        (gradient,) = torch.autograd.grad(radius.sum(), depth)
        assert float(gradient.min()) > 0  # and not dead


def test_02_gradients_of_the_radius_are_right_around_the_focus_plane():
    def radius(depth, f_m, f_number, focus_m):
        lens = LensBatch(f_m=f_m, f_number=f_number, focus_m=focus_m, px_per_mm=torch.full_like(f_m, PX_PER_MM))
        return blur_radius_px(depth, lens, TINY)[0]

    depth = torch.tensor([1.5, 2.0, 2.5], dtype=torch.float64).reshape(1, 1, 1, 3).requires_grad_()
    values = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (0.05, 1.4, 2.0)]
    assert torch.autograd.gradcheck(radius, (depth, *values))


def test_02_radius_is_the_shared_formula():
    depth = torch.rand(2, 1, 5, 6) * 10 + 0.5
    lenses = [Lens(f_m=0.03, f_number=2.8, focus_m=4.0), Lens(f_m=0.085, f_number=1.4, focus_m=1.0)]
    wide = dataclasses.replace(TINY, max_radius_px=1e4)
    radius, clipped = blur_radius_px(depth, LensBatch.of(lenses, PX_PER_MM), wide)
    for b, lens in enumerate(lenses):
        torch.testing.assert_close(radius[b], defocus_px(depth[b], lens, PX_PER_MM))
    assert float(clipped.max()) == 0


def test_03_one_frame_trains_and_runs_alike():
    # BatchNorm in the prototype's stem: with one frame, training normalised by that frame and inference by old averages.
    stem = ConvStem(TINY)
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in BokehFlow(TINY).modules())
    frames = torch.rand(3, 3, 8, 8)
    assert torch.equal(stem.train()(frames[:1]), stem.eval()(frames[:1]))
    torch.testing.assert_close(stem(frames)[:1], stem(frames[:1]))
    stem.train()(torch.rand(1, 3, 4, 4))  # one token: BatchNorm raises here


def test_06_the_carried_state_is_bounded_once_a_frame_and_never_amplified():
    # The prototype divided by max(norm, 0.1): a state of norm 0.01 became ten times as large.
    small, large = 0.01 * torch.ones(1, 4, 2, 3, 3), 1e6 * torch.ones(1, 4, 2, 3, 3)
    assert torch.equal(bound_norm(small, 100.0), small)
    assert float(bound_norm(large, 100.0).norm(dim=(-2, -1)).max()) == pytest.approx(100.0)
    zero = torch.zeros(1, 4, 2, 3, 3, requires_grad=True)
    bound_norm(zero, 100.0).sum().backward()
    assert bool(torch.isfinite(zero.grad).all())


def test_06_states_stay_bounded_over_many_frames():
    net = BokehFlow(TINY).eval()
    frame, lens, state = torch.rand(1, 3, 8, 8), lens_batch((50, 1.4, 2.0)), None
    norms = []
    with torch.no_grad():
        for _ in range(60):
            _, state = net(frame, lens, state)
            norms.append(float(state.largest_norm()))
    assert norms[-1] < 2 * max(norms[:20]) and norms[-1] < TINY.max_state_norm


def test_07_depth_is_bounded_smoothly():
    # The prototype's depth had no bound; a hard clamp instead has no gradient where it holds.
    logits = torch.linspace(-12, 12, 101, requires_grad=True)
    depth = bounded_depth_m(logits)
    (gradient,) = torch.autograd.grad(depth.log().sum(), logits)
    depth = depth.detach()
    assert float(depth.min()) > 0.1 and float(depth.max()) < 100
    assert float(gradient.min()) > 0
    extreme = bounded_depth_m(torch.tensor([-1e30, 1e30]))
    torch.testing.assert_close(extreme, torch.tensor([0.1, 100.0]))
    assert bounded_depth_m(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_08_widths_are_consistent():
    # The published table made one doubt base: 6 heads of 32 are its 192 channels, and so for nano and small.
    for name in ("nano", "small", "base"):
        config = VARIANTS[name]
        assert config.heads * config.head_dim == config.channels
    config = dataclasses.replace(VARIANTS["base"], depth_blocks=1, bokeh_blocks=1)
    out, state = BokehFlow(config).eval()(torch.rand(1, 3, 8, 8), lens_batch((50, 2.0, 2.0)))
    assert out.bokeh.shape == (1, 3, 8, 8)
    assert state.depth_states.shape == (1, 1, 4, 6, 32, 32)


def test_09_a_loud_direction_does_not_win():
    # The prototype fused first and normalised after: a direction with outputs 100 times as large was all that remained.
    torch.manual_seed(0)
    scans = BiGDR(TINY, 0.0)
    x, start = torch.randn(1, 4, 5, 16), torch.randn(1, 4, 2, 8, 8)
    before, _ = scans(x, start, None)
    with torch.no_grad():
        scans.out[1] *= 100
    after, _ = scans(x, start, None)
    torch.testing.assert_close(after, before, rtol=0, atol=0.05)


def test_10_every_block_and_direction_has_its_own_start():
    # One S_init for the whole network was broadcast against a list of states: the shapes run, and every block and direction
    # is pulled towards the same start.
    net = BokehFlow(TINY)
    starts = [module.initial for module in net.modules() if isinstance(module, TemporalStart)]
    assert len(starts) == TINY.depth_blocks + TINY.bokeh_blocks
    assert all(start.shape == (4, 2, 8, 8) for start in starts)
    _, state = net(torch.rand(2, 3, 8, 8), lens_batch(*[(50, 1.4, 2.0)] * 2))
    assert state.bokeh_states.shape == (2, 2, 4, 2, 8, 8)
    net(torch.rand(2, 3, 8, 8), lens_batch(*[(50, 1.4, 2.0)] * 2), state)


def test_06_what_is_carried_is_bounded_before_it_is_mixed():
    torch.manual_seed(0)
    module = TemporalStart(TINY)
    pooled, states = torch.randn(2, 16), torch.randn(2, 4, 2, 8, 8)
    bounded = module(pooled, (1e6 * states, pooled))
    torch.testing.assert_close(bounded, module(pooled, (bound_norm(1e6 * states, TINY.max_state_norm), pooled)))
    largest = TINY.max_state_norm + module.initial.detach().norm(dim=(-2, -1)).max()
    assert float(bounded.detach().norm(dim=(-2, -1)).max()) <= 1.0001 * float(largest)


def test_10_mixture_is_what_it_says():
    torch.manual_seed(0)
    module = TemporalStart(TINY)
    pooled, before, states = torch.randn(2, 16), torch.randn(2, 16), torch.randn(2, 4, 2, 8, 8)
    keep = torch.sigmoid(module.keep(torch.cat([pooled, before], -1)))[:, :, None, None, None]
    mixed = module(pooled, (states, before))
    torch.testing.assert_close(mixed, keep * states + (1 - keep) * module.initial)
    assert torch.equal(module(pooled, None), module.initial.expand(2, -1, -1, -1, -1))


def test_11_a_near_object_hides_a_far_one():
    # The prototype walked layers from far to near with front-to-back weights, so the far layer took the light first.
    frame = torch.zeros(1, 3, 48, 48)
    frame[:, 0] = 1.0  # red wall
    frame[:, :, 16:32, 16:32] = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None]  # a blue box before it
    depth = torch.full((1, 1, 48, 48), 20.0)
    depth[:, :, 16:32, 16:32] = 1.0
    near_sharp = physics(frame, depth, lens_batch((50, 1.4, 1.0)))[0].detach()
    assert float(near_sharp[0, 2, 24, 24]) > 0.95 and float(near_sharp[0, 0, 18:30, 18:30].max()) < 0.05
    far_sharp = physics(frame, depth, lens_batch((50, 1.4, 20.0)))[0].detach()
    assert float(far_sharp[0, 2, 24, 24]) > 0.95  # the blurred box still covers its middle
    assert float(far_sharp[0, 2, 24, 12]) > 0.05  # and spreads over the sharp wall


def test_12_each_sample_keeps_its_own_blur_and_depth_gets_a_gradient():
    # The prototype blurred each layer by the batch's mean CoC as a Python number: one sample's lens blurred another's
    # picture, and no gradient reached depth.
    rng = torch.Generator().manual_seed(0)
    frame = torch.rand(1, 3, 24, 24, generator=rng).expand(2, -1, -1, -1)
    depth = torch.linspace(1, 8, 24)[None, None, :, None].repeat(2, 1, 1, 24).requires_grad_()
    wide, narrow = (50, 1.4, 2.0), (50, 22.0, 2.0)
    both, radius = physics(frame, depth, lens_batch(wide, narrow))
    alone, _ = physics(frame[1:], depth[1:], lens_batch(narrow))
    assert torch.equal(both[1:], alone)
    torch.testing.assert_close(both[1], frame[1], rtol=0, atol=1e-6)  # its radii stay below half a pixel
    assert float((both[0] - frame[0]).detach().abs().max()) > 0.1
    assert float(radius[0].detach().abs().max()) > 10 * float(radius[1].detach().abs().max())
    (gradient,) = torch.autograd.grad(both[0].square().sum(), depth)
    assert float((gradient[0] != 0).float().mean()) > 0.5 and float(gradient[1].abs().max()) == 0


def test_12_gradient_of_the_picture_in_depth_and_lens_is_right():
    rng = torch.Generator().manual_seed(1)
    frame = torch.rand(1, 3, 5, 6, generator=rng, dtype=torch.float64)
    depth = (torch.linspace(1.1, 6.3, 30, dtype=torch.float64).reshape(1, 1, 5, 6)).requires_grad_()
    f_number = torch.tensor([1.4], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)

    def picture(depth, f_number):
        lens = LensBatch(f_m=0.05 * one, f_number=f_number, focus_m=2.03 * one, px_per_mm=PX_PER_MM * one)
        return render_lens_blur(frame, blur_radius_px(depth, lens, TINY)[0])

    assert torch.autograd.gradcheck(picture, (depth, f_number), atol=1e-4, fast_mode=True)


# 13: the mean blur never reached the gates


def test_13_changing_the_lens_changes_the_gates():
    # The prototype passed coc_mean=None, so the floor was the same for every lens.
    net = BokehFlow(TINY).eval()
    seen = []
    for block in [*net.depth_blocks, *net.bokeh_blocks]:
        block.scans.decay.register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.no_grad():
        for n in (1.4, 16.0):
            # f-number goes in through the mean blur alone: the lens embedding modulates nothing yet
            net(torch.ones(1, 3, 8, 8) * 0.5, lens_batch((50, n, 2.0)))
    wide, narrow = seen[:4], seen[4:]
    order = [0, 2, 1, 3]  # blocks run in turns: depth, bokeh, depth, bokeh
    for position in order[:2]:
        assert torch.equal(wide[position], narrow[position])
    for position in order[2:]:
        assert float((wide[position] - narrow[position]).min()) > 0  # more blur, slower decay


def test_13_the_lower_bound_of_the_decay_follows_the_formula():
    gate = DecayGate(TINY, 1.0)
    logits, blur = torch.randn(3, 10, 2), torch.tensor([0.0, 0.4, 1.0])
    floor = torch.sigmoid(gate.floor + TINY.dahg_lambda * blur)[:, None, None]
    torch.testing.assert_close(gate(logits, blur).exp(), floor + (1 - floor) * torch.sigmoid(logits))
    assert gate.floor.item() == 2.0 and DecayGate(TINY, 0.0).floor.item() == -2.0
    off = DecayGate(dataclasses.replace(TINY, enable_dahg=False), 1.0)
    torch.testing.assert_close(off(logits, blur).exp(), torch.sigmoid(logits))
    assert bool(torch.isfinite(gate(torch.tensor([[[-1e4, 1e4]]]), blur[:1])).all())


@pytest.mark.parametrize("coc_model", ["contract", "thin_lens"])
def test_13_mean_blur_of_an_unseen_scene_is_the_integral(coc_model):
    config = dataclasses.replace(TINY, coc_model=coc_model)
    lens = lens_batch(
        (50, 2.0, 2.0),
        (85, 1.4, 1.0),
        (24, 8.0, 10.0),
        (85, 1.2, 0.3),
        (50, 1.4, 90.0),
        (200, 1.0, 50.0),
        (35, 2.0, 0.5),
    )
    depth = torch.logspace(*(math.log10(d) for d in UNSEEN_DEPTH_M), 200_001, dtype=torch.float64)
    expected = mean_radius_share(depth.expand(len(lens), 1, 1, -1), lens.to(dtype=torch.float64), config)
    torch.testing.assert_close(unseen_mean_radius_share(lens, config).double(), expected, rtol=1e-3, atol=1e-4)


def test_13_the_last_frame_drives_the_next():
    net = BokehFlow(TINY).eval()
    lens = lens_batch((50, 1.4, 2.0))
    with torch.no_grad():
        _, state = net(torch.rand(1, 3, 16, 16), lens)
        far = dataclasses.replace(state, depth_samples_m=torch.full_like(state.depth_samples_m, 2.0))
    assert float(net.mean_blur(lens, far)) == 0  # all of it in focus
    assert float(net.mean_blur(lens, None)) == float(unseen_mean_radius_share(lens, TINY)) > 0
    assert float(net.mean_blur(lens_batch((50, 1.4, 9.0)), far)) > 0  # the lens is the new frame's


def test_14_a_crop_is_blurred_like_its_frame():
    # The prototype took pixels per mm from the tensor's width: a 64 px crop of a 320 px frame got a fifth of the blur.
    rng = torch.Generator().manual_seed(0)
    frame = torch.rand(1, 3, 64, 320, generator=rng)
    depth = torch.full((1, 1, 64, 320), 8.0)
    lens = lens_batch((50, 1.4, 2.0), px=px_per_mm(320))
    whole, radius = physics(frame, depth, lens)
    crop, crop_radius = physics(frame[..., 100:164], depth[..., 100:164], lens)
    assert torch.equal(crop_radius, radius[..., 100:164])
    inner = slice(24, 40)
    torch.testing.assert_close(crop[..., inner, inner], whole[..., inner, 124:140], rtol=0, atol=2e-3)


def test_14_the_radius_grows_with_the_frame_and_is_clipped_where_the_data_is():
    config = TINY
    for width in (427, 854, 1920):
        limit = radius_limit_px(lens_batch((50, 1.4, 2.0), px=px_per_mm(width)), config)
        torch.testing.assert_close(limit, torch.tensor([31.0 * width / 854]))
    lens = lens_batch((85, 1.2, 0.5), px=px_per_mm(854), max_radius_px=7.0)
    radius, clipped = blur_radius_px(torch.tensor([0.5, 0.51, 40.0, 90.0]).reshape(1, 1, 1, 4), lens, config)
    assert float(radius.abs().max()) == 7.0
    assert float(clipped) == 0.5
    out, _ = BokehFlow(config).eval()(torch.rand(1, 3, 8, 8), lens)
    assert out.clipped_share.shape == (1,) and float(out.coc_px.detach().abs().max()) <= 7.0


# and what the specification asks of the parts beside them


def test_lens_values_outside_the_ranges_are_clamped_and_counted():
    encoder = ApertureEncoder(TINY)
    _, count = encoder(lens_batch((10, 22.0, 100.0), (200, 1.0, 0.1)))
    assert int(count) == 0
    outside, count = encoder(lens_batch((10, 40.0, 500.0), (200, 1.0, 0.1)))
    assert int(count) == 2
    assert bool(torch.isfinite(outside).all())
    out, _ = BokehFlow(TINY)(torch.rand(1, 3, 8, 8), lens_batch((500, 2.0, 2.0)))
    assert int(out.lens_values_outside) == 1


def test_scan_orders_are_there_and_back():
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    scans = to_scans(x, [0, 1, 2, 3])
    for direction, tokens in enumerate(scans):
        assert torch.equal(from_scan(tokens, direction, 3, 4), x)
    assert torch.equal(scans[0, 0, 1], x[0, 0, 1])  # raster: the second token is to the right
    assert torch.equal(scans[1, 0, 0], x[0, 2, 3])  # reverse: starts at the bottom right
    assert torch.equal(scans[2, 0, 1], x[0, 1, 0])  # column: the second token is below
    assert torch.equal(scans[3, 0, 1], x[0, 1, 3])  # reverse column: above the bottom right


def test_film_and_fusion_change_nothing_at_the_start():
    torch.manual_seed(0)
    net = BokehFlow(TINY)
    x, y = torch.randn(1, 2, 2, 16), torch.randn(1, 2, 2, 16)
    assert torch.equal(net.bokeh_blocks[0].film(x, torch.randn(1, 16)), x)
    assert all(torch.equal(*pair) for pair in zip(net.fusions[0](x, y), (x, y), strict=True))
    for weight in net.fusions[0].values.parameters():
        torch.nn.init.normal_(weight)
    depth, bokeh = net.fusions[0](x, y)
    gate, value = net.fusions[0].gates[1], net.fusions[0].values[1]
    torch.testing.assert_close(bokeh, y + torch.sigmoid(gate(x)) * value(x))  # from depth as it came in
    assert not torch.equal(depth, x)
