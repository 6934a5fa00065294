"""What continues on both sides of something thin: the farther surface behind bars and stems, bridged at full resolution.

Special: rays in eight directions leave every covered pixel to the first farther pixel on either side; a direction counts
by how short its bridge is and by how well the two ends of all bridges in the neighbourhood agree along it, so courses of
bricks, letters and horizons run on behind a bar. Not for wide things: what lies deeper than `REACH` inside stays with
`background`.

Shape letters: H, W = picture; E = covered pixels; R = directions; n = steps of a ray.
"""

import math

import torch
from torch import Tensor

from pipeline.optics.edges import Surface
from pipeline.optics.picks import pick, repeats

REACH = 8  # px from a covered pixel to either side of what covers it
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))  # rows, columns
GAP_PX = (2.0, 3.0)  # a bridge fades in between these differences in defocus
CLEAN = 0.65  # pixels that belong to their surface by less are no ends of bridges
CELL = 4  # px; the agreement of a direction is that of 3 x 3 cells
# Ends agree when their squared difference is below this share of their squared brightness.
AGREEMENT = 0.02
DOUBT, DOUBT_WEIGHT = 0.2, 12.0  # disagreement of a direction that nothing is known about, and as many pixels of it
LENGTH_POWER = 6  # 4 to 6 measured alike, 2 lets bridges run along a bar
LEAST = 1e-4
FAR_BELOW = -1e4  # farness of what is no end


def bridge_thin(own: Surface, farness: Tensor, places: float | None = None) -> Surface:
    """Guess the farther surface behind thin things from both sides.

    Args:
        own: (H, W) surface at every pixel's own depth, from `split_mixed`.
        farness: (1, H, W) px, larger is farther.
        places: for covered pixels, see `picks.pick`; None for as many as there are.

    Returns:
        The surface behind: light and defocus, with a weight that says how far to believe it, 0 where nothing thin is.
    """
    behind = _behind(farness)
    gap = behind - farness
    at = pick(gap.detach() > GAP_PX[0], places)
    empty = Surface(own.light, own.defocus, torch.zeros_like(farness))
    if places is None and not len(at):
        return empty
    width = farness.shape[-1]
    ends = torch.where(own.weight > CLEAN, farness, torch.full_like(farness, FAR_BELOW)).detach()
    ends = torch.nn.functional.pad(ends[None], (REACH,) * 4, value=FAR_BELOW).flatten()
    wide = width + 2 * REACH
    start = (at // width + REACH) * wide + at % width + REACH
    wanted = ((farness + behind) / 2).detach().flatten()[at]
    # Compressed light: one bulb at the end of a bridge must not light it all.
    compressed = own.light / (1 + own.light.amax(0, keepdim=True))
    pixels = torch.cat([compressed, own.defocus]).flatten(1).T.contiguous()

    bridges, lengths, disagreements = [], [], []
    for down, right in DIRECTIONS:
        step = math.hypot(down, right)
        stride = torch.arange(1, int(REACH / step) + 1, device=at.device)
        found, distance, colour = [], [], []
        for sign in (-1, 1):
            hit = ends[start[:, None] + sign * (down * wide + right) * stride] > wanted[:, None]
            # the first of equal maxima is the first hit on every device: earlier steps weigh more
            first = (hit.to(torch.uint8) * (len(stride) - stride + 1).to(torch.uint8)).argmax(1) + 1
            found.append(hit.any(1))
            distance.append(first * step)
            place = at + torch.where(found[-1], sign * first, 0) * (down * width + right)
            colour.append(pixels.index_select(0, place))
        both = (found[0] & found[1]).to(farness.dtype)
        length = (distance[0] + distance[1]).to(farness.dtype)
        share = (distance[0] / length).to(farness.dtype)[:, None]
        bridges.append(colour[0] * (1 - share) + colour[1] * share)
        lengths.append(both / length**LENGTH_POWER)
        apart = ((colour[0][:, :3] - colour[1][:, :3]) ** 2).sum(1)
        bright = ((colour[0][:, :3] + colour[1][:, :3]) ** 2).sum(1) / 4
        disagreements.append(both * apart / (bright + 1e-3))
    once = 1 - repeats(at).to(farness.dtype)  # a place that is left over says nothing
    counted = torch.stack([(length > 0).to(farness.dtype) for length in lengths]) * once
    trust = torch.exp(-_around(torch.stack(disagreements) * once, counted, at, farness) / AGREEMENT) + LEAST
    weight = trust * torch.stack(lengths)  # (R, E)
    total = weight.sum(0)
    surface = (weight[..., None] * torch.stack(bridges)).sum(0) / total.clamp(min=1e-12)[:, None]
    believed = ((gap.flatten()[at] - GAP_PX[0]) / (GAP_PX[1] - GAP_PX[0])).clamp(0, 1) * (total > 0)

    def full(values: Tensor, rest: Tensor) -> Tensor:
        return rest.flatten(1).index_copy(1, at, values).reshape(rest.shape)

    light = surface.T[:3] / (1 - surface.T[:3].amax(0, keepdim=True)).clamp(min=1e-3)
    return Surface(full(light, own.light), full(surface.T[3:], own.defocus), full(believed[None], empty.weight))


def _behind(farness: Tensor) -> Tensor:
    """(1, H, W) farness that is reached on both sides within `REACH`, across or down; a pixel's own where none is."""
    sides = []
    for dim in (-2, -1):
        n = farness.shape[dim]
        both = []
        for forward in (False, True):
            best, reached = farness, 0
            while reached < REACH:  # windows double: 1, 2, 4, ... pixels
                step = min(max(1, reached), REACH - reached, n)
                kept, moved = best.narrow(dim, 0, n - step), best.narrow(dim, step, n - step)
                if forward:
                    best = torch.cat([torch.maximum(kept, moved), best.narrow(dim, n - step, step)], dim)
                else:
                    best = torch.cat([best.narrow(dim, 0, step), torch.maximum(kept, moved)], dim)
                reached += step
            both.append(best)
        sides.append(torch.minimum(*both))
    return torch.maximum(*sides)


def _around(disagreement: Tensor, counted: Tensor, at: Tensor, like: Tensor) -> Tensor:
    """(R, E) mean disagreement of a direction in the cells around, pulled to `DOUBT` where few bridges tell."""
    height, width = like.shape[-2:]
    rows, columns = -(-height // CELL), -(-width // CELL)
    cell = at // width // CELL * columns + at % width // CELL
    values = torch.cat([disagreement, counted]).T
    # accumulating index_put sums in a fixed order on every device, which index_add does not
    sums = values.new_zeros((rows * columns, values.shape[1])).index_put((cell,), values, accumulate=True)
    around = 9 * torch.nn.functional.avg_pool2d(sums.T.reshape(1, -1, rows, columns), 3, stride=1, padding=1)[0]
    apart, number = around.flatten(1).chunk(2)
    mean = (apart + DOUBT * DOUBT_WEIGHT) / (number + DOUBT_WEIGHT)
    return mean.index_select(1, cell)
