"""Cat's eyes: the shape of a shaded opening, and highlights towards the corners of a picture."""

import math

import pytest
import torch

from pipeline.optics import Aperture, OpticsError, render_lens_blur
from pipeline.optics.cat_eye import render_cat_eye


@pytest.mark.parametrize("rim", [(0.5, 0.0), (-0.3, 0.6), (0.0, -0.9)])
def test_the_opening_is_what_two_discs_share(rim):
    """Its area is that of a lens of two unit circles, 2 acos(s/2) - s/2 sqrt(4 - s^2); the far side of the disc stays."""
    angle = torch.arange(20000, dtype=torch.float64) / 20000 * 2 * math.pi
    edge = Aperture(rim=rim).outline(angle)
    s = math.hypot(*rim)
    area = float((edge**2 / 2).mean()) * 2 * math.pi
    assert area == pytest.approx(2 * math.acos(s / 2) - s / 2 * math.sqrt(4 - s * s), rel=1e-4)
    towards = math.atan2(rim[1], rim[0])
    ends = Aperture(rim=rim).outline(torch.tensor([towards, towards + math.pi], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([1, 1 - s])
    with pytest.raises(OpticsError, match=r"within 0.95 radii"):
        Aperture(rim=(0.8, 0.7))


def photographed(column: int, defocus: float, amount: float) -> torch.Tensor:
    """(64, 120) of a small light in the middle row."""
    image = torch.zeros(1, 3, 64, 120)
    image[..., 31:33, column : column + 2] = 1
    found = render_cat_eye(image, torch.full((1, 1, 64, 120), defocus), amount=amount)
    return found[0, 0]


@pytest.mark.parametrize("defocus", [9.0, -9.0])
def test_lights_are_shaded_on_the_side_of_their_corner_behind_the_focus_and_opposite_before_it(defocus: float):
    """Light from the right that passes the opening's right part is caught by the rim in front of it."""
    side = 1 if defocus > 0 else -1
    for column, outer in ((107, 1), (11, -1)):
        disc = photographed(column, defocus, 0.9) > 0.03
        columns = disc.any(0).nonzero()[:, 0]
        right, left = int(columns.max()) - column - 0.5, column + 0.5 - int(columns.min())
        shaded, open_side = (right, left) if outer * side > 0 else (left, right)
        assert open_side == pytest.approx(9, abs=1.5)
        assert shaded < open_side - 3
    middle = photographed(59, defocus, 0.9)
    assert torch.allclose(middle, middle.flip(1), atol=0.02), "round in the middle"


def test_nothing_else_changes():
    """Light is kept, sharp parts are untouched, and without shading it is the plain renderer."""
    flat, defocus = torch.full((1, 3, 48, 70), 0.4), torch.full((1, 1, 48, 70), 6.0)
    assert (render_cat_eye(flat, defocus, amount=0.8) - flat).abs().max() < 1 / 255
    picture = torch.rand(1, 3, 48, 70, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(render_cat_eye(picture, defocus * 0, amount=0.8), picture, atol=1e-6)
    plain = render_lens_blur(picture, defocus, aperture=Aperture(blades=5))
    assert torch.equal(render_cat_eye(picture, defocus, amount=0, aperture=Aperture(blades=5)), plain)
    with pytest.raises(OpticsError, match="amount must be in"):
        render_cat_eye(picture, defocus, amount=1.2)
