"""PISA: the fast form against the loop, light that is neither lost nor made, and radii that are true pixels at any shape."""

import math
from dataclasses import replace

import numpy as np
import pisa_reference as reference
import pytest
import torch

from pipeline.engines.bokehdiff.pisa import (
    Defocus,
    Geometry,
    Pisa,
    attention,
    distances,
    geometry,
    occlusion,
    training_contrast,
    weights,
)

PUBLISHED = Pisa(distance="published", resampling="published", occlusion="published", index="published")
OURS = Pisa()
SCALE = 0.5


def bumpy(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """(1, 16 rows, 16 columns) float64: steps and noise in [0, 1], with a place on the plane of the camera."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 2 * rows, 2 * columns, generator=generator, dtype=torch.float64)
    coarse[0, :2, :2] = 1
    fine = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return (0.9 * fine + 0.1 * torch.rand(fine.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def drawn(tokens: int, seed: int = 1, heads: int = 2) -> list[torch.Tensor]:
    """Queries, keys and values (1, heads, tokens, 3) that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, heads, tokens, 3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def difference(fast: Pisa, slow: Pisa, rows: int = 3, columns: int = 4) -> float:
    """The largest difference of outputs and gradients, over the largest of each."""
    disparity = bumpy(rows, columns).requires_grad_()
    far = 10.0 if fast.distance == "published" else 1.0  # tokens of a small tile are that much further apart
    defocus = Defocus(disparity=disparity, focus=0.45, gain_px=60.0 * far, max_radius_px=25.0 * far)
    inputs = drawn(rows * columns)
    quick = attention(*inputs, geometry(defocus, fast), SCALE, fast.renormalise)
    looped = reference.attention(*(one[0] for one in inputs), defocus, SCALE, slow)[None]
    towards = torch.randn(quick.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    leaves = [*inputs, disparity]
    pairs = [(quick.detach(), looped.detach())]
    pairs += zip(*(torch.autograd.grad((one * towards).sum(), leaves) for one in (quick, looped)), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    "pisa",
    [
        Pisa(points=3, spread=2, contrast=9.0),
        replace(PUBLISHED, points=2, spread=2, contrast=9.0),
        Pisa(points=3, spread=1, renormalise=True),
    ],
    ids=["ours", "published", "renormalised"],
)
def test_the_fast_form_is_the_loop(pisa: Pisa):
    assert difference(pisa, pisa) < 1e-10


@pytest.mark.parametrize("name", ["distance", "resampling", "occlusion", "index"])
def test_each_convention_would_be_noticed(name: str):
    other = replace(Pisa(points=3, spread=1, contrast=3.0), **{name: "published"})
    assert difference(Pisa(points=3, spread=1, contrast=3.0), other, 2, 3) > 1e-4


def flat(rows: int, columns: int, disparity: float, gain_px: float, pisa: Pisa = OURS) -> Geometry:
    values = torch.full((1, 16 * rows, 16 * columns), disparity, dtype=torch.float64)
    return geometry(Defocus(disparity=values, focus=0.5, gain_px=gain_px), pisa)


def test_light_is_neither_lost_nor_made_and_k_0_changes_nothing():
    query, key, value = (one.detach() for one in drawn(15))
    where = geometry(Defocus(disparity=bumpy(3, 5), focus=0.4, gain_px=70.0), Pisa())
    open_sky = Geometry(where.gate, torch.ones_like(where.visible))
    sums = weights(query, key, open_sky, SCALE).sum(dim=-2)
    assert (sums - 1).abs().max() < 1e-9, "what a source sends sums to one over the queries"
    assert (weights(query, key, open_sky, SCALE).sum(dim=-1) - 1).abs().max() > 0.1, "not over the keys"
    kept = attention(query, key, value, flat(3, 5, 0.9, 0.0), SCALE)
    assert (kept - value).abs().max() < 1e-9


def test_what_is_hidden_is_lost_unless_it_is_shared_again():
    query, key, _ = (one.detach() for one in drawn(15))
    where = geometry(Defocus(disparity=bumpy(3, 5), focus=0.4, gain_px=70.0), Pisa())
    plain = weights(query, key, where, SCALE).sum(dim=-2)
    shared = weights(query, key, where, SCALE, renormalise=True).sum(dim=-2)
    assert plain.min() < 0.9 and plain.max() < 1 + 1e-9
    assert (shared - 1).abs().max() < 1e-6


def measured_radius_px(rows: int, columns: int, gain_px: float, pisa: Pisa) -> tuple[float, float]:
    """Half the extent of a point of light in the middle, along x and along y, px: from its second moments, disc or ellipse."""
    where = flat(rows, columns, 1.0, gain_px, pisa)
    middle = rows // 2 * columns + columns // 2
    zeros = torch.zeros(1, 1, rows * columns, 1, dtype=torch.float64)
    spot = weights(zeros, zeros, where, 1.0)[0, 0, :, middle].view(rows, columns)
    spot = spot / spot.sum()
    y, x = (
        torch.arange(n, dtype=torch.float64) * 16 - at * 16 for n, at in ((rows, rows // 2), (columns, columns // 2))
    )
    # The second moment of a uniform disc along an axis is radius^2 / 4.
    return tuple(2 * math.sqrt(float((spot.sum(dim) * at**2).sum())) for dim, at in ((0, x), (1, y)))


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (13, 50)], ids=["a tile", "a panorama", "whole"])
def test_the_same_k_is_the_same_radius_in_pixels_at_any_shape(shape: tuple[int, int]):
    x, y = measured_radius_px(*shape, 128.0, Pisa())  # |1 - 0.5| * 128 = 64 px, 4 tokens
    assert x == pytest.approx(64, rel=0.04) and y == pytest.approx(64, rel=0.04)


def test_the_published_distance_depends_on_the_shape():
    published = Pisa(distance="published")
    square, wide = (measured_radius_px(32, columns, 128.0, published) for columns in (32, 64))
    assert wide[0] > 1.8 * wide[1], "an ellipse"
    assert square[0] < measured_radius_px(32, 32, 128.0, Pisa())[0], "smaller: a token counts for 16.5 px"
    ours, theirs = (distances((32, 32), pisa)[0, 1] for pisa in (Pisa(), published))
    assert float(theirs / ours) == pytest.approx(32 / 31)


def test_the_published_order_is_right_for_square_tiles_only():
    published = Pisa(index="published")
    assert torch.equal(distances((5, 5), Pisa()), distances((5, 5), published))
    assert not torch.equal(distances((3, 5), Pisa()), distances((3, 5), published))


def test_the_scattering_ray_is_the_physical_one():
    """Two planes, the nearer one to the left: a ray is hidden where it crosses the nearer plane left of the edge."""
    near, far, rows, columns, edge = 0.6, 0.2, 1, 48, 24
    disparity = torch.full((1, 16 * rows, 16 * columns), far, dtype=torch.float64)
    disparity[..., : 16 * edge] = near
    every = torch.ones(1, columns, columns, dtype=torch.bool)
    query, key = torch.arange(columns)[:, None], torch.arange(columns)[None]
    # Depth runs from 1 / far to the camera's plane at 1; 1 / near is this far along it.
    share = (1 / near - 1) / (1 / far - 1)
    crossing = query + share * (key - query) + 0.5
    decided = (key >= edge) & ((crossing - edge).abs() > 0.5)  # sources behind, and no ray through the edge itself
    lit = decided & (query < edge) & (crossing > edge)  # past the edge, to a query on the nearer plane
    assert lit.sum() > 20
    for name, wrong in (("scatter", 0.0), ("published", 0.45)):
        found = occlusion(disparity, Pisa(occlusion=name, points=81, spread=1), every)[0] > 0.5
        right = found == (crossing < edge)
        assert right[decided & ~lit].all(), "what is hidden is hidden in both"
        assert float((~right)[lit].double().mean()) == pytest.approx(wrong, abs=0.1), name


def test_hardness_is_a_function_of_the_step():
    assert [training_contrast(step) for step in (0, 1, 10)] == [3.0, 5.0, 23.0]
    edges = [flat(1, 9, 1.0, 96.0, Pisa(contrast=training_contrast(step))).gate[0, 0, 3] for step in (0, 100)]
    assert edges[0] == pytest.approx(0.5, abs=1e-6) and edges[1] == pytest.approx(0.5, abs=1e-6)
    outside = [float(flat(1, 9, 1.0, 96.0, Pisa(contrast=training_contrast(step))).gate[0, 0, 5]) for step in (0, 100)]
    assert np.diff(outside)[0] < -0.02, "harder later"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distance": "miles"}, "distance must be pixels or published"),
        ({"contrast": 1.0}, "contrast must be"),
        ({"points": 0}, "points and spread"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        Pisa(**wrong)
