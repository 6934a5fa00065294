"""The lens renderer against its eight requirements in docs/optics.md, an exact thin-lens truth, and its slow reference."""

import math
from itertools import pairwise

import pytest
import torch

from pipeline.optics import Aperture, Lens, OpticsError, defocus_px, linear_to_srgb, px_per_mm, render_lens_blur
from pipeline.optics.background import hidden_background
from pipeline.optics.edges import split_mixed
from pipeline.optics.layers import radius_grid
from pipeline.optics.reference import render_reference
from pipeline.raytrace import render_frame, render_photograph
from pipeline.raytrace.scenes.bars import BarsCase

STEP = 1 / 255  # one step of an 8-bit picture
F = torch.nn.functional
THIN = {"widths_px": (2.0, 3.0), "spacing_px": 24.0, "width": 72, "height": 56, "wall": "letters", "seed": 3}


def linear(light, defocus, **options):
    """One sample: (3, H, W) light and a (H, W) map or a number."""
    if not torch.is_tensor(defocus):
        defocus = torch.full(light.shape[-2:], float(defocus), dtype=light.dtype)
    return render_lens_blur(light[None], defocus[None, None].to(light), encoding="linear", **options)[0]


def rough(height, width, seed, cells=6, dtype=torch.float32):
    """(3, H, W) smooth noise in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, cells, cells, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1).to(dtype)


def point_light(radius, size=(97, 110), at=(48, 53), aperture=None, dtype=torch.float64):
    light = torch.zeros(3, *size, dtype=dtype)
    light[:, at[0], at[1]] = 1000.0
    return linear(light, radius, aperture=aperture or Aperture())[0] / 1000


def offsets(picture, at):
    rows = torch.arange(picture.shape[0], dtype=picture.dtype) - at[0]
    columns = torch.arange(picture.shape[1], dtype=picture.dtype) - at[1]
    return torch.meshgrid(rows, columns, indexing="ij")


def half_height_radius(spot, at, radius):
    """Radius of the disc whose area is the area above half the plateau, on an eight times finer grid."""
    down, right = offsets(spot, at)
    plateau = spot[torch.hypot(down, right) <= max(0.4 * radius, 0.5)].mean()
    fine = F.interpolate(spot[None, None], scale_factor=8, mode="bilinear", align_corners=False)
    return math.sqrt(float((fine > plateau / 2).sum()) / 64 / math.pi)


def moment_radius(spot, at):
    """Radius of the uniform disc with the same second moment."""
    down, right = offsets(spot, at)
    return math.sqrt(2 * float((spot * (down**2 + right**2)).sum() / spot.sum()))


# 1 linear light, energy


@pytest.mark.parametrize("size", [(64, 48), (33, 57), (5, 7), (1, 1), (2, 90)])
@pytest.mark.parametrize("value", [0.02, 0.5, 1.0])
def test_constant_picture_stays_constant_up_to_its_corners(size, value):
    generator = torch.Generator().manual_seed(size[0])
    defocus = (torch.rand(1, 1, *size, generator=generator) - 0.5) * 60  # nothing smooth about it
    image = torch.full((1, 3, *size), value)
    assert float((render_lens_blur(image, defocus) - value).abs().max()) < STEP


def test_constant_light_far_above_one_stays_constant():
    light = torch.full((3, 40, 60), 200.0)
    defocus = (rough(40, 60, 1)[0] - 0.5) * 50
    assert float((linear(light, defocus) / 200 - 1).abs().max()) < STEP


@pytest.mark.parametrize("radius", [0.7, 3.4, 8.5, 15.0, -21.3])
def test_energy_of_a_highlight_is_kept(radius):
    assert float(point_light(radius).sum()) == pytest.approx(1, abs=0.01)


def test_blur_adds_light_not_code_values():
    image = torch.zeros(1, 3, 40, 40)
    image[..., 20:] = 1.0
    middle = render_lens_blur(image, torch.full((1, 1, 40, 40), 6.0))[0, 0, 20, 19:21].mean()
    assert float(middle) == pytest.approx(float(linear_to_srgb(torch.tensor(0.5))), abs=0.01)


# 2 identity


def test_radii_up_to_half_a_pixel_return_the_input_bit_for_bit():
    image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    defocus = (torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(1)) - 0.5).clamp(-0.5, 0.5)
    assert torch.equal(render_lens_blur(image, defocus), image)
    defocus[1] = 9.0  # the lens of one sample does not take identity from the other
    mixed = render_lens_blur(image, defocus)
    assert torch.equal(mixed[0], image[0])
    assert not torch.equal(mixed[1], image[1])


def test_blur_fades_in_between_half_a_pixel_and_one():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = [float((linear(image, r) - image).abs().mean()) for r in (0.5, 0.50001, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert change[0] == 0
    assert change[1] < 1e-4
    assert all(first < second for first, second in pairwise(change))


# 3 calibrated, continuous


@pytest.mark.parametrize("radius", [1.5, 2.3, 3.5, 5.7, 7.6, 8.5, 9.4, 12.4, 20.3, 30.6])
@pytest.mark.parametrize(("size", "at"), [((97, 110), (48, 53)), ((140, 101), (71, 50))])
def test_a_point_light_becomes_a_disc_of_its_radius(radius, size, at):
    spot = point_light(radius, size, at)
    assert half_height_radius(spot, at, radius) == pytest.approx(radius, abs=0.25)
    assert moment_radius(spot, at) == pytest.approx(radius, abs=0.25)
    down, right = offsets(spot, at)
    assert abs(float((spot * down).sum())) < 0.05
    assert abs(float((spot * right).sum())) < 0.05


@pytest.mark.parametrize("radius", [5.7, 12.4, 30.6])
def test_a_disc_is_flat_inside_and_empty_outside(radius):
    spot = point_light(radius) * math.pi * radius**2
    down, right = offsets(spot, (48, 53))
    distance = torch.hypot(down, right)
    assert float((spot[distance < radius - 4] - 1).abs().max()) < 0.1 if radius > 6 else True
    assert float(spot[distance > radius + 4].abs().max()) < 0.01


def test_blur_changes_smoothly_with_the_radius():
    radii = torch.arange(0.55, 14, 0.05)
    spots = [point_light(float(r), (61, 61), (30, 30)) for r in radii]
    moments = [moment_radius(spot, (30, 30)) for spot in spots]
    growth = torch.tensor(moments).diff()
    assert bool((growth > 0).all())
    assert float(growth[9:].max()) < 0.15  # 0.05 wanted; below 1 px the blur fades in faster
    change = torch.stack(spots).diff(dim=0).abs().sum((1, 2))
    assert float(change.max()) < 0.25


def test_a_silhouette_does_not_jump_when_its_depth_changes():
    near = torch.zeros(40, 60, dtype=torch.float64)
    near[:, 20:32] = 1
    light = rough(40, 60, 3, dtype=torch.float64)
    shots = [linear(light, near * -radius) for radius in torch.arange(2, 14, 0.1)]
    change = torch.stack([(b - a).abs().mean() for a, b in pairwise(shots)])
    assert float(change.max()) < 4 * float(change.median()) + 1e-4


# 4 occlusion


def bars(height, width, near, far, *, bar=(30, 42)):
    """A white bar before a black wall: (3, H, W) light and (H, W) defocus."""
    light = torch.zeros(3, height, width, dtype=torch.float64)
    defocus = torch.full((height, width), float(far), dtype=torch.float64)
    light[..., bar[0] : bar[1]] = 1.0
    defocus[:, bar[0] : bar[1]] = near
    return light, defocus


@pytest.mark.parametrize("far", [2.5, 6.0, 15.0, 28.0])
@pytest.mark.parametrize("width", [1, 3, 12])
def test_a_sharp_foreground_is_not_polluted_by_a_blurred_background(far, width):
    light, defocus = bars(40, 90, 0.0, far, bar=(40, 40 + width))
    black_on_white = 1 - light
    for picture in (light, black_on_white):
        out = linear(picture, defocus)
        assert float((out[..., 40 : 40 + width] - picture[..., 40 : 40 + width]).abs().max()) < STEP
        beside = out[:, 5:-5, 50 + width : 70]  # and the background keeps nothing of it: no halo
        assert float((beside - picture[:, 5:-5, 50 + width : 70]).abs().max()) < 2 * STEP


@pytest.mark.parametrize("radius", [4.0, 7.0, 12.0, 20.0])
def test_a_blurred_foreground_has_the_profile_of_a_disc_over_a_sharp_background(radius):
    light, defocus = bars(60, 140, -radius, 0.0, bar=(0, 70))
    profile = linear(light, defocus)[0, 30]
    x = (torch.arange(140, dtype=torch.float64) + 0.5 - 70) / radius
    t = x.clamp(-1, 1)
    covered = 0.5 - (t * torch.sqrt(1 - t**2) + torch.asin(t)) / math.pi
    assert float((profile - covered).abs().max()) < 0.03


def test_what_a_blurred_foreground_reveals_continues_its_surroundings():
    light, defocus = bars(60, 80, -12.0, 0.0, bar=(36, 42))
    light[0] = torch.where(defocus < 0, 0.0, 0.8)  # green bar, red wall
    light[1] = torch.where(defocus < 0, 0.5, 0.1)
    light[2] = torch.where(defocus < 0, 0.0, 0.1)
    out = linear(light, defocus)
    wall = torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)[:, None]
    bar = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)[:, None]
    # 6 of 24 px: the middle of the bar is covered by 0.31 of the disc, the chord area of a strip |x| < r / 4
    share = (2 / math.pi) * (0.25 * math.sqrt(1 - 0.25**2) + math.asin(0.25))
    middle = out[:, 30, 38:40].mean(1, keepdim=True)
    assert float((middle - (share * bar + (1 - share) * wall)).abs().max()) < 0.03


def test_a_continuous_slanted_surface_hides_nothing():
    ramp = torch.linspace(-20, 20, 120, dtype=torch.float64).expand(60, 120)[None]
    light = rough(60, 120, 2, dtype=torch.float64)
    assert float(hidden_background(light, ramp, ramp).weight.max()) == 0
    assert split_mixed(light, ramp)[1] is None
    flat = torch.full_like(light, 0.3)
    assert float((linear(flat, ramp[0]) - 0.3).abs().max()) < 1e-6


def test_splitting_a_mixed_pixel_keeps_its_light():
    light, defocus = bars(20, 60, -6.0, 3.0)
    light[..., 29] = 0.3
    own, other = split_mixed(light, defocus[None])
    assert other is not None
    assert float(other.weight[0, 10, 29]) == pytest.approx(0.3, abs=0.02)
    together = own.weight * own.light + other.weight * other.light
    assert float((together - light).abs().max()) < 1e-12


def thin_lens_truth(planes, size, rays=200):
    """Fronto-parallel planes (defocus, light, mask), front first, seen from `rays` points of a disc; frame and defocus."""
    margin = 24

    def shifted(values, down, right):
        height, width = size
        return values[:, margin + down : margin + down + height, margin + right : margin + right + width]

    def seen_from(x, y):
        light, free = torch.zeros(3, *size, dtype=torch.float64), torch.ones(1, *size, dtype=torch.float64)
        for defocus, colour, mask in planes:
            # a point moves by +defocus * (x, y), y up: so what is seen here was defocus * x further left
            down, right = round(defocus * y), round(-defocus * x)
            alpha = shifted(mask, down, right)
            light = light + free * alpha * shifted(colour, down, right)
            free = free * (1 - alpha)
        return light

    index = torch.arange(rays, dtype=torch.float64) + 0.5
    radius, turn = torch.sqrt(index / rays), index * math.pi * (3 - math.sqrt(5))
    points = zip((radius * torch.cos(turn)).tolist(), (radius * torch.sin(turn)).tolist(), strict=True)
    photograph = torch.stack([seen_from(x, y) for x, y in points]).mean(0)
    depth, free = torch.zeros(1, *size, dtype=torch.float64), torch.ones(1, *size, dtype=torch.float64)
    for defocus, _, mask in planes:
        depth, free = depth + free * shifted(mask, 0, 0) * defocus, free * (1 - shifted(mask, 0, 0))
    return photograph, seen_from(0.0, 0.0), depth[0]


@pytest.mark.parametrize(
    ("near", "far", "wanted_db"), [(-9.0, 0.0, 26), (0.0, 12.0, 29.5), (-8.0, 8.0, 25.5), (4.0, 15.0, 30)]
)
def test_planes_match_an_exact_thin_lens(near, far, wanted_db):
    size, full = (72, 110), (72 + 48, 110 + 48)
    columns = torch.arange(full[1]).expand(full)
    mask = ((columns % 31) < 7).to(torch.float64)[None]
    planes = [
        (
            near,
            rough(*full, 1, 24, torch.float64) * torch.tensor([0.2, 1.0, 0.4], dtype=torch.float64)[:, None, None],
            mask,
        ),
        (far, rough(*full, 2, 24, torch.float64), torch.ones_like(mask)),
    ]
    photograph, frame, defocus = thin_lens_truth(planes, size)
    error = float(((linear(frame, defocus) - photograph) ** 2).mean())
    assert -10 * math.log10(error) > wanted_db
    if near != -far:  # discs of one size on both sides of the focus blur alike
        blind = torch.where(defocus[None] == near, linear(frame, near), linear(frame, far))
        assert error < 0.5 * float(
            ((blind - photograph) ** 2).mean()
        )  # far ahead of each pixel blurred by its own radius


@pytest.mark.parametrize(
    ("case", "wanted_db"),
    [
        (BarsCase(angle_deg=14, near_px=0, far_px=7, **THIN), 33.7),
        (BarsCase(angle_deg=5, near_px=-5, far_px=0, **THIN), 29.8),
        (BarsCase(angle_deg=7, near_px=-5, far_px=0, cross_deg=90, **THIN), 28.7),
    ],
    ids=["sharp", "blurred", "crossing"],
)
def test_thin_bars_match_a_ray_traced_photograph(case, wanted_db):
    scene, lens = case.scene(), case.lens()
    size = {"width": case.width, "height": case.height}
    frame = render_frame(scene, 0, supersample=4, **size)
    photograph = torch.from_numpy(render_photograph(scene, 0, lens, samples=100, workers=1, **size)).permute(2, 0, 1)
    defocus = defocus_px(torch.from_numpy(frame.depth_m), lens, px_per_mm(case.width))
    blurred = linear(torch.from_numpy(frame.linear).permute(2, 0, 1), defocus)
    error = (linear_to_srgb(blurred.clamp(0, 1)) - linear_to_srgb(photograph.clamp(0, 1)))[:, 8:-8, 8:-8]
    assert -10 * math.log10(float((error**2).mean())) > wanted_db


# 5 apertures


@pytest.mark.parametrize("radius", [6.0, 20.0, -6.0, -20.0])
@pytest.mark.parametrize(
    "aperture",
    [Aperture(blades=3, rotation_deg=90), Aperture(blades=5, rotation_deg=17), Aperture(blades=6, roundness=0.5)],
)
def test_a_highlight_shows_the_opening_upright_behind_and_turned_in_front(aperture, radius):
    spot = point_light(radius, aperture=aperture)
    down, right = offsets(spot, (48, 53))
    angle = torch.atan2(-down, right) + (math.pi if radius < 0 else 0)
    inside = torch.hypot(down, right) < abs(radius) * aperture.outline(angle)
    lit = spot > 0.5 * spot[45:52, 50:57].mean()
    assert float((lit & inside).sum() / (lit | inside).sum()) > 0.85
    assert float(spot.sum()) == pytest.approx(1, abs=0.015)


def test_a_triangle_is_not_its_own_reflection():
    triangle = Aperture(blades=3, rotation_deg=90)  # a corner up
    behind, before = point_light(15.0, aperture=triangle), point_light(-15.0, aperture=triangle)
    assert float(behind[48 - 11, 53]) > 10 * float(behind[48 + 11, 53].abs())
    assert float(before[48 + 11, 53]) > 10 * float(before[48 - 11, 53].abs())


# 6 gradients, batches


@pytest.mark.parametrize("scale", [2.0, 14.0])
def test_gradients_match_finite_differences(scale):
    generator = torch.Generator().manual_seed(3)
    image = (torch.rand(1, 3, 6, 7, generator=generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    defocus = torch.linspace(-0.93, 0.87, 42, dtype=torch.float64).reshape(1, 1, 6, 7) * scale
    defocus = (defocus + 0.03 * torch.rand(1, 1, 6, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, d: render_lens_blur(i, d), (image, defocus), eps=1e-7, atol=1e-4, fast_mode=True
    )


def test_gradients_match_across_a_silhouette():
    generator = torch.Generator().manual_seed(4)
    image = (torch.rand(1, 3, 6, 8, generator=generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    defocus = 0.2 * torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64) + 5.3
    defocus[..., :4] -= 11.7
    defocus = defocus.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, d: render_lens_blur(i, d, encoding="linear"), (image, defocus), eps=1e-7, atol=1e-4, fast_mode=True
    )


def test_gradients_reach_the_lens():
    depth = torch.linspace(1, 6, 20 * 24).reshape(1, 1, 20, 24)
    image = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(1.0, requires_grad=True)
    defocus = defocus_px(depth, Lens(f_m=0.05, f_number=1.4, focus_m=2.0), 10.0) * scale
    render_lens_blur(image, defocus).std().backward()
    assert scale.grad is not None
    assert float(scale.grad) < 0  # a wider opening takes contrast away


def test_samples_of_a_batch_keep_their_own_radii():
    image = torch.rand(3, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    defocus = torch.stack([torch.full((1, 24, 30), r) for r in (-17.0, 0.2, 3.3)])
    together = render_lens_blur(image, defocus)
    for b in range(3):
        assert torch.equal(together[b : b + 1], render_lens_blur(image[b : b + 1], defocus[b : b + 1]))


def test_gradients_stay_within_their_sample():
    image = torch.rand(2, 3, 16, 16).requires_grad_()
    defocus = torch.full((2, 1, 16, 16), 5.0, requires_grad=True)
    render_lens_blur(image, defocus)[0].sum().backward()
    assert image.grad is not None
    assert float(image.grad[1].abs().max()) == 0


# 7, 8 one path, cost, determinism


def test_cost_grows_no_faster_than_the_radius():
    def count(radius):
        return sum(len(group) for groups in (radius_grid(radius).full, radius_grid(radius).half) for group in groups)

    assert count(62.0) < 2 * count(31.0)
    assert radius_grid(62.0).half[0] == radius_grid(31.0).half[0]  # a larger radius elsewhere moves no layer


def test_same_input_same_output():
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    defocus = (rough(40, 50, 4)[:1] - 0.5)[None] * 40
    assert torch.equal(render_lens_blur(image, defocus), render_lens_blur(image.clone(), defocus.clone()))


def test_a_larger_radius_far_away_changes_nothing_here():
    light = rough(60, 200, 5, 30, torch.float64)
    calm = torch.full((60, 200), 3.0, dtype=torch.float64)
    wild = calm.clone()
    wild[:, 190:] = 20.0
    near, far = linear(light, calm), linear(light, wild)
    assert float((near - far)[..., :150].abs().max()) < 1e-6


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
@pytest.mark.parametrize("scale", [7.5, 18.0])
@pytest.mark.parametrize("aperture", [Aperture(), Aperture(blades=5, rotation_deg=10)])
def test_the_fast_path_matches_its_reference(size, scale, aperture):
    light = rough(*size, 6, 16, torch.float64)
    defocus = (rough(*size, 7, 5, torch.float64)[:1] - 0.5) * scale
    defocus[:, 10:25, 12:20] -= scale  # and a silhouette
    fast = linear(light, defocus[0], aperture=aperture)
    slow = render_reference(light, defocus, aperture)
    assert float((fast - slow).abs().max()) < 0.1  # beside the silhouette, where the half grid is softer
    assert float((fast - slow).abs().mean()) < 0.004


def test_on_the_full_grid_the_fast_path_is_its_reference():
    light = rough(40, 52, 6, 16, torch.float64)
    defocus = (rough(40, 52, 7, 3, torch.float64)[:1] - 0.5) * 10  # gentle: nothing hidden, no half grid
    torch.testing.assert_close(
        linear(light, defocus[0]), render_reference(light, defocus, Aperture()), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_output_has_the_dtype_of_the_image(dtype):
    image = rough(20, 24, 0).to(dtype)[None]
    out = render_lens_blur(image, torch.full((1, 1, 20, 24), 4.0, dtype=dtype))
    assert out.dtype == dtype
    exact = render_lens_blur(image.double(), torch.full((1, 1, 20, 24), 4.0, dtype=torch.float64))
    assert float((out.double() - exact).abs().max()) < {torch.float16: 1e-3, torch.bfloat16: 5e-3}.get(dtype, 1e-5)


@pytest.mark.gpu
def test_cuda_matches_cpu():
    image = rough(60, 80, 0)[None]
    defocus = (rough(60, 80, 1)[None, :1] - 0.5) * 40
    cuda = render_lens_blur(image.cuda(), defocus.cuda())
    assert torch.equal(cuda, render_lens_blur(image.cuda(), defocus.cuda()))
    torch.testing.assert_close(cuda.cpu(), render_lens_blur(image, defocus), atol=1e-4, rtol=0)


# order


def test_an_order_that_agrees_changes_nothing_even_when_clamped():
    image = rough(40, 50, 8)[None]
    depth = 1 + 9 * rough(40, 50, 9)[None, :1]
    defocus = (20 * (1 - 3 / depth)).clamp(-6, 9)
    plain = render_lens_blur(image, defocus)
    for order in (depth, depth.half(), -1 / depth, (depth * 100).long()):
        assert torch.equal(render_lens_blur(image, defocus, order=order), plain)


def test_an_order_that_contradicts_defocus_decides_what_is_in_front():
    light, defocus = bars(40, 80, 9.0, 0.0, bar=(30, 42))  # a blurred bar whose sign says "behind the sharp wall"
    light[1:] = torch.where(defocus > 0, 0.0, 0.5)
    in_front = torch.where(defocus > 0, 1.0, 2.0)[None, None]
    behind = linear(light, defocus)[0, 20]
    before = linear(light, defocus, order=in_front)[0, 20]
    expected = linear(light, -defocus)[0, 20]
    assert float(behind[27]) < STEP
    assert float((before - expected).abs().max()) < 0.05


# wrong input

GOOD = (torch.rand(2, 3, 8, 9), torch.zeros(2, 1, 8, 9))


@pytest.mark.parametrize(
    ("image", "defocus", "options", "message"),
    [
        (GOOD[0][:, :2], GOOD[1], {}, r"image must be \(B, 3, H, W\).*\(2, 2, 8, 9\)"),
        (GOOD[0][0], GOOD[1], {}, "image must be"),
        (GOOD[0][:0], GOOD[1][:0], {}, "at least one sample"),
        (GOOD[0], GOOD[1][:1], {}, r"defocus_px must be \(2, 1, 8, 9\).*got \(1, 1, 8, 9\)"),
        (GOOD[0], GOOD[1][..., :8], {}, "defocus_px must be"),
        (GOOD[0], GOOD[1].long(), {}, "defocus_px must be one of torch.float16.*got torch.int64"),
        ((GOOD[0] * 255).byte(), GOOD[1], {}, "image must be one of torch.float16.*got torch.uint8"),
        (GOOD[0], GOOD[1] * float("nan"), {}, "defocus_px must be finite"),
        (GOOD[0], GOOD[1] + float("inf"), {}, "defocus_px must be finite"),
        (GOOD[0] * float("nan"), GOOD[1], {}, "image must be finite"),
        (GOOD[0] * 255, GOOD[1], {}, r"image must be in \[0, 1\]"),
        (-GOOD[0] - 1, GOOD[1], {"encoding": "linear"}, "image must be >= 0"),
        (GOOD[0], GOOD[1], {"encoding": "rec709"}, r"encoding must be one of \('srgb', 'linear'\), got 'rec709'"),
        (GOOD[0], GOOD[1], {"aperture": "disc"}, "aperture must be an Aperture, got str"),
        (GOOD[0], GOOD[1], {"order": GOOD[1][:, :, :4]}, "order must be"),
        (GOOD[0], GOOD[1], {"order": GOOD[1] * float("nan")}, "order must not contain NaN"),
    ],
)
def test_wrong_input_says_what_was_given_and_what_is_allowed(image, defocus, options, message):
    with pytest.raises(OpticsError, match=message):
        render_lens_blur(image, defocus, **options)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 7), (16, 3)])
def test_pictures_smaller_than_the_disc(size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    out = render_lens_blur(image, torch.full((1, 1, *size), 31.0))
    assert bool(torch.isfinite(out).all())
    assert float(out.std()) < float(image.std()) + 1e-6 or image.numel() == 3
