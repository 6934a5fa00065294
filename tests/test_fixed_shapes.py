"""The renderer in fixed shapes: the reference's pictures, and nothing that a CUDA graph cannot capture."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from pipeline.optics import FixedShapes, OpticsError, render_lens_blur
from pipeline.optics.picks import pick, repeats
from pipeline.optics.render import render_traced


def draw(height: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A textured slope with a near square, a thin bar and one far pixel; radii up to 14 px."""
    rng = torch.Generator().manual_seed(height)
    coarse = torch.rand(1, 3, 6, 8, generator=rng, dtype=dtype)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    image = (0.8 * image + 0.2 * torch.rand(1, 3, height, width, generator=rng, dtype=dtype)).clamp(0, 1)
    radius = torch.linspace(-3, 9, width, dtype=dtype).expand(1, 1, height, width).clone()
    radius[..., 10:30, 15:30], radius[..., 4:40, 45:47], radius[..., 0, 0] = -7, -5, 14
    return image, radius


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fixed_shapes_give_the_pictures_of_the_reference(dtype):
    image, radius = draw(45, 66, dtype)
    truth, invented = render_traced(image, radius)
    found, share = render_traced(image, radius, fixed=FixedShapes(max_radius_px=14.0))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found, truth, rtol=0, atol=tolerance)
    torch.testing.assert_close(share, invented, rtol=0, atol=tolerance)


def test_a_larger_limit_than_the_picture_needs_changes_next_to_nothing():
    image, radius = draw(45, 66)
    radius = radius.clamp(-6, 6)
    found = render_lens_blur(image, radius, fixed=FixedShapes(max_radius_px=20.0))
    assert float((found - render_lens_blur(image, radius)).abs().max()) < 1e-6


@pytest.mark.parametrize("radius_px", [0.3, 0.8, 3.0, -9.0])
def test_a_plane_has_no_edges_and_nothing_hidden(radius_px):
    image, radius = draw(40, 48)
    radius = torch.full_like(radius, radius_px)
    found = render_lens_blur(image, radius, fixed=FixedShapes(max_radius_px=10.0))
    if abs(radius_px) < 0.5:
        assert torch.equal(found, image)
    torch.testing.assert_close(found, render_lens_blur(image, radius), rtol=0, atol=1e-12)


def test_samples_of_a_batch_keep_their_own_radii_and_larger_ones_are_clipped():
    image, radius = draw(40, 48)
    fixed = FixedShapes(max_radius_px=5.0)
    both = render_lens_blur(image.expand(2, -1, -1, -1), torch.cat([radius, 0.1 * radius]), fixed=fixed)
    assert torch.equal(both[0], render_lens_blur(image, radius.clamp(-5, 5), fixed=fixed)[0])
    assert torch.equal(both[1], render_lens_blur(image, 0.1 * radius, fixed=fixed)[0])


def test_gradients_are_refused():
    """Places that repeat a pixel would each pass on its gradient."""
    image, radius = draw(40, 48)
    with pytest.raises(OpticsError, match="fixed shapes are for inference"):
        render_lens_blur(image, radius.requires_grad_(), fixed=FixedShapes(max_radius_px=5.0))
    with torch.no_grad():
        render_lens_blur(image, radius, fixed=FixedShapes(max_radius_px=5.0))


def test_nothing_in_it_asks_the_device_or_makes_a_shape_of_its_values():
    """Fake tensors have no values: an operation that needs one, or whose result's shape does, raises."""
    image, radius = draw(45, 66, torch.float32)
    fixed = FixedShapes(max_radius_px=9.0)
    with torch.inference_mode():
        render_lens_blur(image, radius, fixed=fixed)  # tables and kernels are made and kept on the first call
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        image, radius = fake.from_tensor(image), fake.from_tensor(radius)
        assert render_lens_blur(image, radius, fixed=fixed).shape == image.shape
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            render_lens_blur(image, radius)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_places_hold_what_a_mask_holds_and_then_its_first_again(share):
    for mask in (torch.arange(40) % 7 == 3, torch.zeros(40, dtype=torch.bool), torch.ones(40, dtype=torch.bool)):
        held = mask.nonzero()[:, 0]
        at = pick(mask, share)
        assert len(at) == 40 * share
        count = min(len(held), len(at))
        assert torch.equal(at[:count], held[:count])
        assert bool((at[count:] == (held[0] if len(held) else 0)).all())
        assert int(repeats(at).sum()) == len(at) - max(1, count)
        assert torch.equal(pick(mask, None), held)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_radius_px": 0.0}, "max_radius_px must be finite and > 0, got 0.0"),
        ({"max_radius_px": 5.0, "edge_share": 0.0}, r"edge_share must be in \(0, 1\], got 0.0"),
    ],
)
def test_limits_that_are_none_are_refused(values, message):
    with pytest.raises(OpticsError, match=message):
        FixedShapes(**values)


def test_an_order_is_refused():
    image, radius = draw(40, 48)
    with pytest.raises(OpticsError, match="order must be None with fixed shapes"):
        render_lens_blur(image, radius, order=radius, fixed=FixedShapes(max_radius_px=5.0))
