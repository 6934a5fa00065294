"""The lens renderer once more, to be read: every layer on the full grid, convolved pixel by pixel.

Special: the same layers, surfaces and stacking as `render`, without tiles, half resolution or FFT. Slow; tests compare the
fast path with it. Not the truth: that is the ray tracer.

Shape letters: H, W = picture.
"""

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.background import hidden_background
from pipeline.optics.composite import Stack
from pipeline.optics.edges import split_mixed
from pipeline.optics.kernels import aperture_kernel
from pipeline.optics.layers import HIDDEN_GRID_PX, SHARP_PX, Knot, double, mirror, radius_grid


def render_reference(light: Tensor, defocus: Tensor, aperture: Aperture) -> Tensor:
    """Photograph of one picture whose order is its signed defocus.

    Args:
        light: (3, H, W) linear light, float64.
        defocus: (1, H, W) signed radius, px, float64; above 0.5 somewhere.
        aperture: shape of the opening.

    Returns:
        (3, H, W) linear light.
    """
    height, width = light.shape[-2:]
    own, other = split_mixed(light, defocus)
    visible = [surface.planes() for surface in (own, other) if surface is not None]
    hidden = [double(hidden_background(own.light, defocus, defocus).planes(), height, width)]
    layers = radius_grid(float(defocus.abs().max()))
    sharp = Knot(-1.0, SHARP_PX, 1.0)
    hidden_sharp = Knot(-HIDDEN_GRID_PX[0], 1.0, HIDDEN_GRID_PX[0])

    stack = Stack(light)
    for sign in (-1, 1):
        outer = Stack(light)
        for group in layers.half[::sign]:
            outer.add(_blur(visible + hidden, group, sign, aperture))
        steps = [[_blur(visible, group, sign, aperture)] for group in layers.full[::sign]]
        steps.append([_blur(hidden, layers.hidden[0], sign, aperture)])
        steps.append([outer.spread()])
        if sign < 0:
            steps = [steps[-1], *steps[:-1]]
            steps.append([_in_focus(planes, sharp) for planes in visible])
        else:
            steps.insert(-2, [_in_focus(planes, hidden_sharp) for planes in hidden])
        for step in steps:
            for spread in step:
                stack.add(spread)
    return stack.light / (1 - stack.free)


def _in_focus(planes: Tensor, knot: Knot) -> Tensor:
    """(4, H, W): full weight up to the knot's radius, none from `above` on."""
    fade = (planes[4:].abs() - knot.radius) / (knot.above - knot.radius)
    return (1 - fade.clamp(0, 1)) * planes[:4]


def _blur(surfaces: list[Tensor], knots: list[Knot], sign: int, aperture: Aperture) -> Tensor:
    """(4, H, W): every layer of every surface, mirrored at the border and convolved, summed."""
    total = torch.zeros_like(surfaces[0][:4])
    for knot in knots:
        kernel = aperture_kernel(aperture, sign * knot.radius, 1, 1.0)
        m = kernel.shape[-1] // 2
        for planes in surfaces:
            layer = mirror(knot.weight(sign * planes[4:]) * planes[:4], (m, m), (m, m))
            # conv2d correlates; a light spreads along the kernel as it is, so the kernel is turned
            turned = kernel.flip(0, 1).to(layer)[None, None]
            total = total + torch.nn.functional.conv2d(layer[:, None], turned)[:, 0]
    return total
