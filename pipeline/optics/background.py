"""What a blurred foreground hides: for every pixel the farther surface that some lens point would see around the edge.

Special: whether something is hidden follows from the lens alone. From the edge of the opening, a surface at defocus s is
displaced by s pixels, so a pixel is uncovered if a farther one lies at a distance d with s_far - s > d. That is a grey
dilation with a cone of slope 1, and a continuous surface whose defocus changes by less than a pixel per pixel (every
surface that does not hide itself) gets no hidden layer at all. Not a matting or inpainting network: colours are averages
of the visible farther surface nearest to the edge.

Shape letters: H, W = picture; h, w = half-resolution grid.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Gap in px below which nothing is added. Two half-resolution pixels of a surface at slope 1 differ by up to 2.
GAP_PX = 1.5
# Candidates are averaged with weights exp(-difference of reach): about two px blend, which hides the streaks of a
# nearest-pixel fill and keeps the result continuous.
SOFTNESS_PX = 2.0


@dataclass(frozen=True)
class Plate:
    """Hidden surface at half resolution.

    Args:
        light: (3, h, w) linear colour.
        defocus: (1, h, w) its signed radius, full-resolution pixels.
        weight: (1, h, w) in [0, 1], 0 where nothing is hidden.
    """

    light: Tensor
    defocus: Tensor
    weight: Tensor


def hidden_background(light: Tensor, defocus: Tensor) -> Plate:
    """Extend the farther surfaces under the nearer ones, as far as the lens can look.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px, larger = farther.

    Returns:
        The plate, at (ceil(H/2), ceil(W/2)).
    """
    # Averages of compressed light: one bulb must not outshine everything that is filled from its neighbourhood.
    compressed = light / (1 + light.amax(0, keepdim=True))
    blocks = _blocks(torch.cat([compressed, defocus]))
    radius = blocks[-1]
    near, far = radius.amin(0, keepdim=True), radius.amax(0, keepdim=True)
    share = torch.softmax(radius * 4, dim=0)
    payload = (blocks * share).sum(1)
    # The first pixels beside a nearer surface hold some of its colour: they reach less far, so clean ones win.
    mixed = far + torch.nn.functional.max_pool2d(-near[None], 3, stride=1, padding=1)[0]
    reach = far - mixed.clamp(0, 3)
    span = float((far.amax() - near.amin()).detach())
    for exponent in reversed(range(max(1, math.ceil(math.log2(max(span, 2.0)))))):
        reach, payload = _spread(reach, payload, 2**exponent // 2 if exponent else 1)
    weight = (reach - near - GAP_PX).clamp(0, 1)
    fill = payload[:3] / (1 - payload[:3].amax(0, keepdim=True)).clamp(min=1e-3)
    return Plate(light=fill, defocus=payload[3:], weight=weight)


def _blocks(planes: Tensor) -> Tensor:
    """(C, H, W) -> (C, 4, h, w), the four pixels of every 2x2 block; odd sizes repeat their last row or column."""
    channels, height, width = planes.shape
    padded = torch.nn.functional.pad(planes[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
    h, w = padded.shape[-2] // 2, padded.shape[-1] // 2
    return padded.reshape(channels, h, 2, w, 2).permute(0, 2, 4, 1, 3).reshape(channels, 4, h, w)


def _spread(reach: Tensor, payload: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """One doubling step of the cone dilation: every block may take over what lies `stride` blocks away."""
    h, w = reach.shape[-2:]
    border = (stride,) * 4
    padded_reach = torch.nn.functional.pad(reach, border, value=-1e4)
    padded_payload = torch.nn.functional.pad(payload, border)
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]

    def at(planes: Tensor, down: int, right: int) -> Tensor:
        top, left = stride * (1 + down), stride * (1 + right)
        return planes[:, top : top + h, left : left + w]

    costs = [2 * stride * math.hypot(*move) for move in moves]
    candidates = torch.cat([at(padded_reach, *move) - cost for move, cost in zip(moves, costs, strict=True)])
    best = candidates.amax(0, keepdim=True)
    share = torch.softmax(candidates / SOFTNESS_PX, dim=0)
    mixed = sum(share[i] * at(padded_payload, *move) for i, move in enumerate(moves))
    assert isinstance(mixed, Tensor)
    return best, mixed
