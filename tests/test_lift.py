"""LIFT's network: shapes, what may and what may not change its picture, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from model.lift.blocks import cost_volume, enlarge_flow, shrink
from model.lift.choice import Choice
from model.lift.config import LiftConfig, LiftError, variant
from model.lift.encoder import position_code
from model.lift.network import LiftNet, drop
from model.lift.prior import flow_prior
from model.lift.synthesis import blend
from model.lift.temporal import TemporalTransformer
from pipeline.media.warping import backward_warp

SMALL = LiftConfig(
    c1=4, c2=4, c4=8, c8=8, c16=8, dim=16, heads=2, layers=1, dropout=0.0,
    flow8=8, flow8_blocks=1, flow4=8, flow4_blocks=1, synthesis=4, refine=8, refine_blocks=1, refine_tail=4,
    t_min=0.25, t_max=0.75,
)  # fmt: skip
PUBLISHED = (-8.0, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)


def lively(config: LiftConfig) -> LiftNet:
    """A network whose last layers are not zero, so that everything that can reach the picture does."""
    torch.manual_seed(0)
    net = LiftNet(config).eval()
    for parameter in net.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def clip(offsets=(-2.0, -1, 1, 2), batch=1, size=(32, 64)):
    rng = torch.Generator().manual_seed(1)
    frames = torch.rand(batch, len(offsets), 3, *size, generator=rng)
    present = torch.ones(batch, len(offsets), dtype=torch.bool)
    return frames, torch.tensor(offsets).expand(batch, -1), present, torch.full((batch,), 0.5)


@torch.no_grad()
def make(net: LiftNet, *inputs: torch.Tensor):
    return net(*inputs)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_base_has_the_taps_and_the_parameters_of_the_design():
    def conv(inputs: int, outputs: int, side: int = 3) -> int:
        return side * side * inputs * outputs + outputs

    def res_blocks(width: int, count: int) -> int:
        return count * (2 * conv(width, width) + 2 * 2 * width)

    net = LiftNet(variant("base"))
    with torch.no_grad():
        found = net.encode(torch.rand(1, 3, 32, 64))
    assert [tuple(x.shape[1:]) for x in (found.s1, found.s4, found.s8, found.s16)] == [
        (32, 32, 64), (128, 8, 16), (192, 4, 8), (256, 2, 4),
    ]  # fmt: skip
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    pairs = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 192), (192, 192), (192, 256)]
    assert count["encoder"] == sum(conv(*pair) for pair in pairs)
    layer = 4 * (256 * 256 + 256) + 2 * 512 + (9 * 256 + 256) + (256 * 256 + 256) + 512 + 2 * 4 * 256 * 256 + 5 * 256
    ends = (1024 * 256 + 256) + (256 * 64 + 64) + (64 + 1) + (256 * 1024 + 1024)
    assert count["temporal"] == 3 * layer + ends
    assert count["flow"] == sum(
        (conv(641, 256), res_blocks(256, 3), conv(256, 6), conv(519, 128), res_blocks(128, 2), conv(128, 6))
    )
    assert count["synthesis"] == conv(3 + 256, 64) + conv(64, 3)
    published = LiftNet(replace(variant("base"), warp_s1=False)).refinement
    refine = conv(67, 64) + 128 + res_blocks(64, 2) + conv(64, 32) + 64 + conv(32, 3)
    assert sum(p.numel() for p in published.parameters()) == refine
    assert sum(count.values()) == 10_993_715, "as docs/lift.md has it"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"warp_s1": False},
        {"use_s1": False},
        {"use_context": False},
        {"attention": "window"},
        {"alpha": "frame"},
        {"prior": "dis", "warp_features": True, "refine_on": "blend"},
        {"prior": "classical"},
        {"prior": "classical", "mix_warped": True, "prior_detail": True, "bicubic": True},
        {"prior": "proposals", "choice": 8, "warp_features": True, "cost_radius": 2},
    ],
    ids=str,
)
def test_every_form_makes_pictures_of_any_size(change):
    out = make(lively(replace(SMALL, **change)), *clip(batch=2, size=(45, 70)))
    assert out.image.shape == (2, 3, 45, 70) and out.coarse.shape == out.blend.shape == (2, 3, 16, 24)
    assert out.flows_s4.shape == (2, 4, 16, 24) and out.flows_s8.shape == (2, 4, 8, 12)
    assert out.occlusion_s4.shape == (2, 2, 16, 24) and out.alpha.shape == (2, 4, 2, 3)
    assert bool(torch.isfinite(out.raw).all()) and float(out.image.min()) >= 0 and float(out.image.max()) <= 1
    assert float(out.image.std()) > 0.01


def test_a_fresh_network_starts_from_the_mean_of_the_neighbours():
    frames, *rest = clip()
    torch.manual_seed(0)
    out = make(LiftNet(replace(SMALL, refine_on="blend")).eval(), frames, *rest)
    assert torch.allclose(out.raw, (frames[:, 1] + frames[:, 2]) / 2, atol=1e-5)


# --- frames are known by their offsets --------------------------------------------------------------------------------


def test_the_order_of_the_list_changes_nothing():
    net, (frames, offsets, present, t) = lively(SMALL), clip(PUBLISHED)
    order = torch.randperm(len(PUBLISHED), generator=torch.Generator().manual_seed(3))
    plain = make(net, frames, offsets, present, t)
    mixed = make(net, frames[:, order], offsets[:, order], present, t)
    assert torch.equal(plain.image, mixed.image) and torch.equal(plain.alpha[:, order], mixed.alpha)


@pytest.mark.parametrize("alpha", ["token", "frame"])
def test_alpha_sums_to_one_and_spares_absent_frames(alpha: str):
    net, (frames, offsets, present, t) = lively(replace(SMALL, alpha=alpha)), clip(PUBLISHED)
    present[0, 3] = False
    found = make(net, frames, offsets, present, t).alpha[0]
    assert torch.allclose(found.sum(0), torch.ones(1, 2)) and not bool(found[3].any())
    assert float((found - found.mean((1, 2), keepdim=True)).abs().max()) > 1e-6 or alpha == "frame"


def test_what_an_absent_frame_holds_changes_nothing():
    net, (frames, offsets, present, t) = lively(SMALL), clip(PUBLISHED)
    present[0, [0, 13]] = False
    plain = make(net, frames, offsets, present, t)
    frames[0, 0], frames[0, 13] = float("nan"), 0.0
    assert torch.equal(make(net, frames, offsets, present, t).image, plain.image)
    frames[0, 1] = 0.0
    assert not torch.equal(make(net, frames, offsets, present, t).image, plain.image), "a present one does"


def test_an_absent_neighbour_is_replaced_by_the_next_frame():
    net, (frames, offsets, present, t) = lively(SMALL), clip((-2.0, -1, 2, 3))
    present[0, 1] = False
    shown = make(net, frames, offsets, present, t).image
    frames[0, 1] = 0.5
    assert torch.equal(make(net, frames, offsets, present, t).image, shown)


def test_without_context_only_the_neighbours_count():
    """In particular s1 is the neighbours' alone."""
    net, (frames, offsets, present, t) = lively(replace(SMALL, use_context=False)), clip(PUBLISHED)
    plain = make(net, frames, offsets, present, t).image
    others = [n for n, offset in enumerate(PUBLISHED) if abs(offset) > 1]
    frames[:, others] = torch.rand(1, len(others), 3, 32, 64)
    assert torch.equal(make(net, frames, offsets, present, t).image, plain)
    frames[:, 8] = 0.5
    assert not torch.equal(make(net, frames, offsets, present, t).image, plain)


@torch.no_grad()
def test_encoded_frames_give_the_same_picture():
    """With s1 kept of the neighbours alone, which differ from sample to sample."""
    net, (frames, offsets, present, t) = lively(SMALL), clip(PUBLISHED, batch=2)
    present[1, 7] = present[1, 8] = False  # neighbours -2 and 2 there
    features = [net.encode(frames[:, n]) for n in range(len(PUBLISHED))]
    kept = [f if abs(offset) <= 2 else drop(f) for f, offset in zip(features, PUBLISHED, strict=True)]
    found = net.forward_features(kept, offsets, present, t)
    assert torch.allclose(found.image, net(frames, offsets, present, t).image, atol=1e-5)
    kept[6] = net.encode(frames[:, 6], neighbour=False)
    with pytest.raises(LiftError, match="neighbour=False"):
        net.forward_features(kept, offsets, present, t)


def test_windowed_attention_looks_at_five_frames():
    transformer = TemporalTransformer(replace(SMALL, attention="window"))
    present = torch.ones(1, 14, dtype=torch.bool)
    present[0, 5] = False
    allowed = transformer._allowed(present)[0]
    assert allowed[7].nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    assert allowed[5].nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7], "itself, or its row would be NaN"
    assert TemporalTransformer(SMALL)._allowed(present)[0, 0].sum() == 13


def test_offsets_are_coded_as_real_numbers():
    code = position_code(torch.tensor([0.0, 0.5, -0.5]), 8)
    assert code[0].tolist() == [0, 1] * 4
    assert torch.allclose(code[1, ::2], -code[2, ::2]) and torch.allclose(code[1, 1::2], code[2, 1::2])
    assert code[1, 0] == pytest.approx(torch.tensor(0.5).sin().item()) and code[1, 2] < code[1, 0]


@pytest.mark.slow  # PyTorch imports its compiler for it
def test_recomputing_the_transformer_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        net = lively(SMALL).train()
        net.temporal.checkpointing = checkpointing
        net(*clip()).raw.square().mean().backward()
        gradients.append(net.temporal.embed.weight.grad)
    assert torch.equal(*gradients) and float(gradients[0].abs().max()) > 0


# --- flow, warps, blend -----------------------------------------------------------------------------------------------


def test_a_shifted_picture_comes_back():
    picture = torch.rand(1, 3, 20, 30)
    moved = picture.roll((2, -3), (2, 3))  # what was at (x, y) is at (x - 3, y + 2)
    flow = torch.tensor([-3.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    back = backward_warp(moved, flow)
    assert torch.allclose(back[..., :-2, 3:], picture[..., :-2, 3:], atol=1e-5)
    assert backward_warp(moved.bfloat16(), flow.bfloat16()).dtype == torch.float32


def test_a_flow_on_a_finer_grid_is_longer():
    flow = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    finer = enlarge_flow(flow, 2)
    assert finer.shape == (1, 2, 6, 8) and torch.equal(finer[0, :, 2, 3], torch.tensor([3.0, -1.0]))


def test_the_blend_takes_who_sees_the_place_and_the_mean_where_nobody_does():
    one, other = torch.zeros(1, 3, 1, 3), torch.ones(1, 3, 1, 3)
    visible = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 1e-9]]).view(1, 2, 1, 3)
    assert torch.allclose(blend(one, other, visible)[0, 0, 0], torch.tensor([0.0, 1.0, 0.5]))


def test_the_prior_finds_a_pan_and_forgets_the_direction_of_time():
    rng = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 40, generator=rng), scale_factor=4.0, mode="bicubic")
    before, after = wide[..., 8:104].clamp(0, 1), wide[..., :96].clamp(0, 1)  # everything moves right by 8
    t = torch.tensor([0.25])
    flows = flow_prior(before, after, t).flows[..., 24:-24, 24:-24].mean((0, 2, 3))
    assert torch.allclose(flows, torch.tensor([-2.0, 0.0, 6.0, 0.0]), atol=0.5)
    turned = flow_prior(after, before, 1 - t).flows
    assert torch.equal(turned[:, [2, 3, 0, 1]], flow_prior(before, after, t).flows)


def test_what_two_maps_agree_in_is_found_on_either_side():
    first = torch.rand(1, 6, 12, 14, generator=torch.Generator().manual_seed(0))
    second = first.roll((2, -4), (-2, -1))  # 2 down and 4 left: half of it for either side, from the middle
    found = cost_volume(first.roll((1, -2), (-2, -1)).roll((-1, 2), (-2, -1)), second, 2)
    assert found.shape == (1, 25, 12, 14)
    inside = found[0, :, 4:-4, 5:-5]
    assert (inside.argmax(0) == (1 + 2) * 5 + (-2 + 2)).float().mean() == 1, "row 1, column -2"
    assert float(inside.max()) == pytest.approx(1, abs=1e-3)  # of normalised features
    assert float(found[0, 0, 0, 0]) == 0, "outside"


def test_a_stage_adds_to_the_prior_and_keeps_its_detail():
    config = replace(SMALL, prior="dis", prior_detail=True, warp_features=True)
    torch.manual_seed(0)
    net = LiftNet(config).eval()  # fresh: stages add nothing
    frames, offsets, present, t = clip()
    known = flow_prior(frames[:, 1], frames[:, 2], t).flows
    out = make(net, frames, offsets, present, t)
    assert torch.allclose(out.flows_s4, shrink(known, 4) / 4, atol=1e-5)
    assert torch.allclose(net.flow.enlarged(out.flows_s4, 4, 1, known), known, atol=1e-4)
    plain = make(LiftNet(replace(config, prior_detail=False)).eval(), frames, offsets, present, t)
    assert not torch.allclose(plain.flows_s4, out.flows_s4, atol=1e-2)


def test_a_fresh_choice_leans_on_the_classical_picture_and_invents_nothing():
    config = replace(SMALL, prior="proposals", choice=8)
    frames, _, _, t = clip()
    known = flow_prior(frames[:, 1], frames[:, 2], t, proposals=True)
    assert known.proposals.shape == (1, 6, 3, 32, 64) and known.seen.shape == (1, 2, 32, 64)
    assert torch.allclose(known.proposals[:, 4], frames[:, 1], atol=1e-5), "no motion, from the frame before"
    assert torch.allclose(known.proposals[:, 5], frames[:, 2], atol=1e-5)
    torch.manual_seed(0)
    choice, context = Choice(config), torch.rand(1, 8, 2, 4)
    own, visible = torch.rand(1, 3, 32, 64), torch.rand(1, 2, 8, 16)
    with torch.no_grad():
        made = choice(own, known, visible, context)
        weights = torch.tensor([2.0, 4, -1, -1, -1, -1, -1, -1]).softmax(0)
        expected = weights[0] * own + weights[1] * known.picture + weights[2] * known.proposals.sum(1)
        assert torch.allclose(made, expected, atol=1e-5)
        torch.nn.init.normal_(choice.head.weight, std=0.3)
        assert not torch.allclose(choice(own, known, visible, context), choice(own, known, visible, context * 2))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "t", "said"),
    [
        ((-1.0, 1.0), 0.9, r"t must be in \[0.25, 0.75\], as trained, got 0.9"),
        ((-1.0, 2.0), 0.5, "t contradicts the offsets"),
        ((1.0, 2.0), 0.5, "a present frame on either side"),
        ((-1.0, 0.0, 1.0), 0.5, "an offset is 0"),
    ],
)
def test_layouts_that_cannot_be_are_refused(offsets, t, said: str):
    frames, offsets, present, _ = clip(offsets)
    with pytest.raises(LiftError, match=said):
        LiftNet(SMALL)(frames, offsets, present, torch.tensor([t]))


def test_shapes_that_do_not_fit_are_refused():
    frames, offsets, present, t = clip()
    net = LiftNet(SMALL)
    with pytest.raises(LiftError, match=r"frames must be \(B, N, 3, H, W\)"):
        net(frames[0], offsets, present, t)
    with pytest.raises(LiftError, match="offsets and present"):
        net(frames, offsets[:, 1:], present, t)
    with pytest.raises(LiftError, match=r"a frame must be \(B, 3, H, W\)"):
        net.encode(frames)
    with pytest.raises(LiftError, match="got no frame"):
        net.forward_features([], offsets, present, t)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 3}, "dim must be a multiple of heads"),
        ({"alpha": "pixel"}, "alpha must be one of token, frame, got 'pixel'"),
        ({"t_min": 0.8}, "t_min and t_max"),
        ({"attention_window": 4}, "attention_window must be odd"),
        ({"refine_on": "blend", "warp_s1": False}, "warp_s1 must be true"),
        ({"cost_radius": 2}, "warp_features must be true"),
        ({"prior_detail": True}, "prior is none"),
        ({"mix_warped": True}, 'needs warp_s1 = true and prior = "classical"'),
        ({"choice": 12}, "choice must be a multiple of 8, got 12"),
        ({"frames_before": 0}, "frames_before must be at least 1, got 0"),
        ({"refine": 12}, "refine must be a multiple of 8, got 12"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused(change, said: str):
    with pytest.raises(LiftError, match=said):
        replace(SMALL, **change)


def test_a_config_of_another_version_is_refused():
    assert LiftConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(LiftError, match="unknown setting 'depth'"):
        LiftConfig.from_dict({**SMALL.to_dict(), "depth": 3})
    with pytest.raises(LiftError, match="variant must be one of base, nano"):
        variant("huge")
