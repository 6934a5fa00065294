"""Circle of confusion, focus maps, colour, lens draws and apertures: the formulas of docs/optics.md, checked by hand."""

import math

import pytest
import torch

from pipeline.optics import (
    SENSOR_WIDTH_MM,
    Aperture,
    Lens,
    OpticsError,
    coc_diameter,
    coc_to_radius_px,
    defocus_px,
    disparity_gain_px,
    draw_lens,
    focus_map,
    focus_map_to_defocus_px,
    linear_to_srgb,
    px_per_mm,
    srgb_to_linear,
)
from pipeline.seeds import stable_seed

LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
DEPTH = torch.tensor([0.5, 1.0, 2.0, 4.0, 100.0, float("inf")], dtype=torch.float64)


# circle of confusion


def test_contract_formula_by_hand():
    # f^2 / (N S) = 0.0025 / 4 = 0.625 mm; |d - S| / d = 3, 1, 0, 1/2, 0.98, 1
    wanted = 0.000625 * torch.tensor([3, 1, 0, 0.5, 0.98, 1], dtype=torch.float64)
    torch.testing.assert_close(coc_diameter(DEPTH, LENS), wanted)
    assert float(coc_diameter(DEPTH, LENS)[2]) == 0


def test_contract_formula_is_the_spread_of_rays_through_the_opening():
    # image distance f: a point at depth d seen from lens offset u lands u * f * (1/d - 1/S) away
    u = torch.tensor([-0.5, 0.5], dtype=torch.float64) * LENS.f_m / LENS.f_number
    hits = u * LENS.f_m * (1 / DEPTH[:, None] - 1 / LENS.focus_m)
    torch.testing.assert_close((hits[:, 1] - hits[:, 0]).abs(), coc_diameter(DEPTH, LENS))


def test_thin_lens_is_larger_by_s_over_s_minus_f():
    close = Lens(f_m=0.085, f_number=2.0, focus_m=0.5)
    thin = Lens(f_m=0.085, f_number=2.0, focus_m=0.5, coc_model="thin_lens")
    ratio = coc_diameter(DEPTH[1:], thin) / coc_diameter(DEPTH[1:], close)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5 / (0.5 - 0.085)))


def test_defocus_is_signed_and_grows_with_depth():
    signed = defocus_px(DEPTH, LENS, px_per_mm(1920))
    assert bool((signed.diff() > 0).all())
    assert signed.sign().tolist() == [-1, -1, 0, 1, 1, 1]
    torch.testing.assert_close(signed.abs(), coc_to_radius_px(coc_diameter(DEPTH, LENS), px_per_mm(1920)))


def test_radius_in_pixels_is_half_the_diameter_at_the_full_frames_scale():
    assert px_per_mm(1920) == 1920 / SENSOR_WIDTH_MM
    assert coc_to_radius_px(0.036, px_per_mm(1000)) == pytest.approx(500)  # a diameter of one sensor width


def test_disparity_gain_is_the_k_of_disparity_renderers():
    k = disparity_gain_px(LENS, px_per_mm(1920))
    wanted = k * (1 / DEPTH - 1 / LENS.focus_m).abs()
    torch.testing.assert_close(defocus_px(DEPTH, LENS, px_per_mm(1920)).abs(), wanted)
    assert k == pytest.approx(0.05**2 / (2 * 2.0) * px_per_mm(1920) * 1000)


def test_half_precision_depth_is_computed_in_float32():
    depth = torch.tensor([1.999, 2.001, 37.0], dtype=torch.float16)
    assert coc_diameter(depth, LENS).dtype == torch.float32
    torch.testing.assert_close(coc_diameter(depth, LENS), coc_diameter(depth.float(), LENS))


def test_gradients_exist_everywhere_even_in_focus():
    depth = DEPTH[:5].clone().requires_grad_()
    defocus_px(depth, LENS, 50.0).sum().backward()
    assert depth.grad is not None
    assert bool((depth.grad > 0).all())


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_impossible_depth_is_refused(bad):
    with pytest.raises(OpticsError, match="depth_m must be > 0 metres everywhere, got"):
        coc_diameter(torch.tensor([1.0, bad]), LENS)


def test_integer_depth_is_refused():
    with pytest.raises(OpticsError, match=r"floating point tensor in metres, got torch\.int64"):
        coc_diameter(torch.tensor([1, 2]), LENS)


@pytest.mark.parametrize("name", ["f_m", "f_number", "focus_m"])
@pytest.mark.parametrize("value", [0.0, -2.0, float("nan"), float("inf")])
def test_impossible_lens_is_refused(name, value):
    with pytest.raises(OpticsError, match=f"{name} must be finite and > 0, got {value}"):
        Lens(**({"f_m": 0.05, "f_number": 2.0, "focus_m": 2.0} | {name: value}))


def test_unknown_lens_models_and_too_near_a_focus_are_refused():
    with pytest.raises(OpticsError, match=r"coc_model must be one of \('contract', 'thin_lens'\), got 'thick'"):
        Lens(f_m=0.05, f_number=2.0, focus_m=2.0, coc_model="thick")
    with pytest.raises(OpticsError, match="focuses only beyond its focal length"):
        Lens(f_m=0.05, f_number=2.0, focus_m=0.05, coc_model="thin_lens")
    Lens(f_m=0.05, f_number=2.0, focus_m=0.05)  # the contract has no such limit


@pytest.mark.parametrize("widths", [(0, 36.0), (1920, 0.0), (-5, 36.0)])
def test_widths_must_be_positive(widths):
    with pytest.raises(OpticsError, match="widths must be > 0"):
        px_per_mm(*widths)


# focus maps


def test_focus_map_is_one_in_focus_and_zero_at_max_coc():
    sharpness = focus_map(DEPTH, LENS, 0.000625)
    torch.testing.assert_close(sharpness, torch.tensor([0, 0, 1, 0.5, 0.02, 0], dtype=torch.float64))


def test_focus_map_and_back_is_the_clamped_defocus():
    sharpness = focus_map(DEPTH, LENS, 0.0005)
    back = focus_map_to_defocus_px(sharpness, DEPTH, LENS.focus_m, 0.0005, 50.0)
    limit = 0.0005 / 2 * 50.0 * 1000
    torch.testing.assert_close(back, defocus_px(DEPTH, LENS, 50.0).clamp(-limit, limit))


def test_focus_map_errors():
    with pytest.raises(OpticsError, match="max_coc_m must be finite and > 0, got 0"):
        focus_map(DEPTH, LENS, 0.0)
    with pytest.raises(OpticsError, match="max_coc_m must be finite and > 0"):
        focus_map_to_defocus_px(DEPTH, DEPTH, 2.0, -1.0, 50.0)
    with pytest.raises(OpticsError, match=r"must have one shape"):
        focus_map_to_defocus_px(DEPTH[:2], DEPTH, 2.0, 0.001, 50.0)


# colour


def test_srgb_curve_known_values_and_inverse():
    encoded = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    linear = torch.tensor([0.0, 0.04045 / 12.92, 0.21404114048, 1.0], dtype=torch.float64)
    torch.testing.assert_close(srgb_to_linear(encoded), linear, atol=1e-9, rtol=0)
    codes = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal((linear_to_srgb(srgb_to_linear(codes)) * 255).round(), codes * 255)
    bright = torch.tensor([4.0, 60.0], dtype=torch.float64)
    torch.testing.assert_close(srgb_to_linear(linear_to_srgb(bright)), bright)


def test_srgb_curve_has_finite_gradients():
    for curve in (srgb_to_linear, linear_to_srgb):
        values = torch.tensor([-0.1, 0.0, 0.002, 0.03, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
        curve(values).sum().backward()
        assert bool(torch.isfinite(values.grad).all())
        assert bool((values.grad > 0).all())


# lens draws


def test_seeds_are_the_same_in_every_process():
    assert stable_seed("bear", 0, 0) == stable_seed("bear", 0, 0)
    assert stable_seed("lens", "bear", 3) == 8784435496729920689  # a constant: any change redraws every data set
    assert len({stable_seed("ab", "c"), stable_seed("a", "bc"), stable_seed("abc"), stable_seed("a", "b", "c")}) == 4
    assert stable_seed("1") != stable_seed(1)
    assert 0 <= stable_seed("bear") < 2**63


def test_lens_draws_follow_the_table():
    lenses = [draw_lens("bear", i, near_m=2.0, far_m=10.0) for i in range(2000)]
    f = torch.tensor([lens.f_mm for lens in lenses])
    n = torch.tensor([lens.f_number for lens in lenses])
    s = torch.tensor([lens.focus_m for lens in lenses])
    assert 24 <= float(f.min()) < 25 < 84 < float(f.max()) <= 85
    assert float(f.mean()) == pytest.approx(54.5, abs=1.5)
    assert 1.4 <= float(n.min()) < 1.45 < 7.8 < float(n.max()) <= 8
    assert float(n.log().mean()) == pytest.approx(math.log(1.4 * 8) / 2, abs=0.05)
    assert 2 <= float(s.min()) < float(s.max()) <= 10
    assert float(s.mean()) == pytest.approx(6, abs=0.15)
    assert float(s.std()) == pytest.approx(8 * math.sqrt(1 / 20), abs=0.1)  # Beta(2, 2)


def test_lens_draws_depend_on_scene_set_and_project_only():
    one = draw_lens("bear", 1, near_m=1.0, far_m=5.0)
    assert draw_lens("bear", 1, near_m=1.0, far_m=5.0) == one
    others = [
        draw_lens("bear", 2, near_m=1.0, far_m=5.0),
        draw_lens("fence", 1, near_m=1.0, far_m=5.0),
        draw_lens("bear", 1, near_m=1.0, far_m=5.0, project_seed=1),
    ]
    assert len({one.f_m, *(lens.f_m for lens in others)}) == 4
    assert draw_lens("bear", 1, near_m=3.0, far_m=3.0).focus_m == 3.0


@pytest.mark.parametrize(("near", "far"), [(0.0, 5.0), (5.0, 2.0), (1.0, float("inf")), (float("nan"), 5.0)])
def test_impossible_focus_ranges_are_refused(near, far):
    with pytest.raises(OpticsError, match="0 < near <= far < inf"):
        draw_lens("bear", 0, near_m=near, far_m=far)


def test_negative_sets_are_refused():
    with pytest.raises(OpticsError, match="set_index must be >= 0, got -1"):
        draw_lens("bear", -1, near_m=1.0, far_m=2.0)


# apertures


def area(aperture):
    angle = torch.linspace(0, 2 * math.pi, 100001, dtype=torch.float64)[:-1]
    return float((aperture.outline(angle) ** 2).mean() * math.pi)


@pytest.mark.parametrize("blades", [3, 5, 6, 9])
def test_polygon_has_its_area_its_corners_and_its_turn(blades):
    aperture = Aperture(blades=blades, rotation_deg=20)
    assert area(aperture) == pytest.approx(blades / 2 * math.sin(2 * math.pi / blades), rel=1e-4)
    corners = torch.arange(blades, dtype=torch.float64) * 2 * math.pi / blades + math.radians(20)
    torch.testing.assert_close(aperture.outline(corners), torch.ones_like(corners))
    middles = aperture.outline(corners + math.pi / blades)
    torch.testing.assert_close(middles, torch.full_like(middles, math.cos(math.pi / blades)))


def test_roundness_leads_from_polygon_to_disc():
    areas = [area(Aperture(blades=5, roundness=roundness)) for roundness in (0, 0.3, 0.7, 1)]
    assert areas == sorted(areas)
    assert areas[-1] == pytest.approx(math.pi)
    assert area(Aperture()) == pytest.approx(math.pi)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blades": 2}, "blades must be 0 .a disc. or at least 3, got 2"),
        ({"blades": -1}, "blades must be"),
        ({"roundness": 1.5}, r"roundness must be in \[0, 1\], got 1.5"),
        ({"rotation_deg": float("nan")}, "rotation_deg must be finite"),
    ],
)
def test_impossible_apertures_are_refused(fields, message):
    with pytest.raises(OpticsError, match=message):
        Aperture(**fields)
