"""The lens renderer once more, to be read: every layer on the full grid, convolved pixel by pixel.

Special: the same layers, surfaces and stacking as `render`, without tiles, half resolution or FFT. Slow; tests
compare the fast path with it. Not the truth: that is the ray tracer.

Shape letters: H, W = picture.
"""

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.background import hidden_background
from pipeline.optics.bridge import bridge_thin
from pipeline.optics.composite import Stack, refine
from pipeline.optics.edges import split_mixed
from pipeline.optics.kernels import aperture_kernel
from pipeline.optics.layers import Knot, double, hat, mirror, radius_grid


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
    layers = radius_grid(float(defocus.abs().max()))
    own, other = split_mixed(light, defocus)
    visible = [torch.cat(surface.samples(layers.visible)) for surface in (own, other) if surface is not None]
    bridged = bridge_thin(own, defocus)
    plate = hidden_background(own.light, defocus, defocus, bridged)
    hidden = [double(torch.cat(plate.samples(layers.hidden)), height, width)]

    stack = Stack(light)
    for sign in (-1, 1):
        outer = Stack(light)
        for group in layers.half[::sign]:
            outer.add(_blur(visible, hidden, group, sign, aperture))
        steps: list[list[Tensor | None]] = [
            [_blur(visible, [], group, sign, aperture)] for group in layers.full[::sign]
        ]
        steps.append([_blur([], hidden, layers.coarse[0], sign, aperture)])
        steps.append([outer.spread()])
        if sign < 0:
            steps = [steps[-1], *steps[:-1]]
            steps.append([hat(planes[4:], 0) * planes[:4] for planes in visible])
        else:
            steps.insert(-2, [refine(hat(planes[4:], 0) * planes[:4], bridged) for planes in hidden])
        for step in steps:
            for spread in step:
                stack.add(spread)
    return stack.light / (1 - stack.free)


def _blur(visible: list[Tensor], hidden: list[Tensor], knots: list[Knot], sign: int, aperture: Aperture) -> Tensor:
    """(4, H, W): every layer of every surface, mirrored at the border and convolved, summed."""
    total = torch.zeros_like((visible + hidden)[0][:4])
    for knot in knots:
        kernel = aperture_kernel(aperture, sign * knot.radius, 1, 1.0)
        m = kernel.shape[-1] // 2
        # conv2d correlates; a light spreads along the kernel as it is, so the kernel is turned
        turned = kernel.flip(0, 1)[None, None]
        for surfaces, step in ((visible, knot.step), (hidden, knot.hidden_step)):
            for planes in surfaces:
                layer = mirror(hat(sign * planes[4:], step) * planes[:4], (m, m), (m, m))
                total = total + torch.nn.functional.conv2d(layer[:, None], turned.to(layer))[:, 0]
    return total
