"""What a blurred foreground hides: for every pixel the farther surface that some lens point would see around the edge.

Special: whether something is hidden follows from the lens alone. From the edge of the opening, a surface at defocus s
is displaced by s pixels, so a pixel is uncovered if a farther one lies at a distance d with s_far - s > d. That is a
grey dilation with a cone of slope 1, and a continuous surface whose defocus changes by less than a pixel per pixel
(every surface that does not hide itself) gets no hidden layer at all. Not a matting or inpainting network: colours
are averages of the visible farther surface nearest to the edge.

Shape letters: H, W = picture; h, w = half-resolution grid.
"""

import math
from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from pipeline.optics.edges import Surface, edge_strength
from pipeline.optics.picks import pick

# Gap in px below which nothing is added. Two half-resolution pixels of a surface at slope 1 differ by up to 2.
GAP_PX = 1.0
SLACK_PX = 2.0  # blocks are 2 px wide: the edge may be that much closer than the centre of the block behind it
FAR_PX = 1e4  # larger than any distance


def hidden_background(
    light: Tensor, defocus: Tensor, farness: Tensor, bridged: Surface | None = None, span_px: float | None = None
) -> Surface:
    """Extend the farther surfaces under the nearer ones, as far as the lens can look.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px.
        farness: (1, H, W) the defocus itself, or another measure in px that is larger for farther surfaces.
        bridged: (H, W) what `bridge_thin` found behind thin things; taken where it is known.
        span_px: farness differs by no more, which fixes shapes in advance; None to look.

    Returns:
        The hidden surface at (ceil(H/2), ceil(W/2)); its weight is 0 where nothing is hidden.
    """
    # Averages of compressed light: one bulb must not outshine everything that is filled from its neighbourhood.
    compressed = light / (1 + light.amax(0, keepdim=True))
    blocks = _blocks(torch.cat([compressed, defocus, farness]))
    radius = blocks[-1]
    near, far = radius.amin(0, keepdim=True), radius.amax(0, keepdim=True)
    share = torch.softmax(radius * 4, dim=0)
    payload = (blocks * share).sum(1)
    span = float((far.amax() - near.amin()).detach()) if span_px is None else span_px
    steps = math.ceil(math.log2((span + SLACK_PX) / 2 + 1))  # 1 + 2 + 4 + ... blocks of 2 px reach that far
    strides = [2**k for k in reversed(range(steps))]
    edge = _blocks(edge_strength(farness))[0].amax(0, keepdim=True)
    reach = far + SLACK_PX * edge
    for stride in strides:
        reach = reduce(torch.maximum, [moved - cost for moved, cost in _neighbours(reach, stride)])
    # The slack is for what others see of a block, not for what it sees of itself: the last step leaves out the centre.
    around = [moved - cost for moved, cost in _neighbours(reach, 1) if cost > 0]
    reach = reduce(torch.maximum, around, far)
    weight = (reach - near - GAP_PX).clamp(0, 1)

    if span_px is None and not bool((weight > 0).any()):
        return Surface(blocks[:3].mean(1), blocks[3:4].mean(1), weight)
    # Every block starts as its own source; one that hides something waits for a source that it can hide.
    hole = (weight > 0).to(far.dtype)
    # A block on the edge holds a source itself, unless something much farther can be seen there.
    path = hole * FAR_PX * (far - near < 0.5 * (reach - near))
    size = (weight.shape[-2], weight.shape[-1])
    at = pick(weight.detach() > 0, None if span_px is None else 1.0)
    path, payload, wanted = path.flatten(), payload.flatten(1).T.contiguous(), near.flatten()[at]
    for stride in [*strides, 1]:
        path, payload = _fill(path, payload, wanted, at, size, stride)
    payload = payload.T.reshape(5, *size)
    weight = weight * (path.reshape(1, *size) < FAR_PX / 2)  # a source may turn out to hide something itself
    fill = payload[:3] / (1 - payload[:3].amax(0, keepdim=True)).clamp(min=1e-3)
    if bridged is not None:
        known = _blocks(bridged.weight).sum(1)
        light_sum = (_blocks(bridged.light) * _blocks(bridged.weight)).sum(1)
        fill = torch.lerp(fill, light_sum / known.clamp(min=1e-6), known.clamp(max=1))
    return Surface(fill, payload[3:4], weight)


def _blocks(planes: Tensor) -> Tensor:
    """(C, H, W) -> (C, 4, h, w), the four pixels of every 2x2 block; odd sizes repeat their last row or column."""
    channels, height, width = planes.shape
    padded = torch.nn.functional.pad(planes[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
    h, w = padded.shape[-2] // 2, padded.shape[-1] // 2
    return padded.reshape(channels, h, 2, w, 2).permute(0, 2, 4, 1, 3).reshape(channels, 4, h, w)


def _neighbours(planes: Tensor, stride: int) -> Iterator[tuple[Tensor, float]]:
    """The blocks `stride` away in the eight directions and the block itself, each with its distance in px.

    Beyond the border lies nothing that could be seen, -FAR_PX.
    """
    h, w = planes.shape[-2:]
    padded = torch.nn.functional.pad(planes, (stride,) * 4, value=-FAR_PX)
    for down in (0, -1, 1):
        for right in (0, -1, 1):
            top, left = stride * (1 + down), stride * (1 + right)
            yield padded[:, top : top + h, left : left + w], 2 * stride * math.hypot(down, right)


def _fill(
    path: Tensor, payload: Tensor, near: Tensor, at: Tensor, size: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """One step of filling the holes from blocks `stride` away, with weights distance^-4.

    So the nearest source wins and both sides of a bar meet in its middle; exponents 2 to 6 measured within 0.1 dB.

    Args:
        path: (h*w) distance to the source that a block has now, px; FAR_PX if none.
        payload: (h*w, 5) its compressed light, signed radius and farness.
        near: (n) smallest farness of a hole, what a source must lie behind.
        at: (n) flat indices of the holes; other blocks keep themselves.
        size: h, w.
        stride: in blocks.

    Returns:
        path and payload after the step.
    """
    h, w = size
    row, column = at // w, at % w
    total, paths, payloads = torch.zeros_like(near), torch.zeros_like(near), payload.new_zeros((len(at), 5))
    for down in (0, -stride, stride):
        for right in (0, -stride, stride):
            y, x = row + down, column + right
            inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
            source = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
            light = payload.index_select(0, source)
            cost = 2 * math.hypot(down, right)
            distance = torch.where(inside, path.index_select(0, source), FAR_PX) + cost
            hidden = (light[:, 4] - near - distance + SLACK_PX).clamp(1e-6, 1)
            share = hidden / (distance + 1).square().square()
            total = total + share
            paths = paths + share * distance
            payloads = torch.addcmul(payloads, share[:, None], light)
    return path.index_copy(0, at, paths / total), payload.index_copy(0, at, payloads / total[:, None])
