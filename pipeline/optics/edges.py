"""Pixels on a silhouette hold light of two surfaces but have one depth: split them into a near and a far part.

Special: without it a blurred foreground leaves a dotted ghost of its outline on the sharp background, and a sharp
foreground gets stairs against a blurred one. The two parts always mix to the pixel they came from, so whatever stays in
focus stays as it was. Not a matting network: both colours come from clean pixels within two pixels of the edge.

Shape letters: H, W = picture; E = mixed pixels; K = pixels of the window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.optics.coverage import REACH, Coverage, line_table, near_share
from pipeline.optics.layers import Ladder
from pipeline.optics.picks import pick

WINDOW = 2  # clean pixels lie one step beyond the mixed ones; a wider window measured no better
# Second difference of defocus across a pixel, px: a surface below the first, an edge above the second.
STEP_PX = (0.5, 1.5)
NOISE = 0.05  # contrast, as a share of the brighter colour, that texture alone can have
COLOUR_VARIANCE = 0.001  # of a share read from colours of any contrast
DISTINCT = 3e-5  # determinant of the fit (1/4 for halves) below which two colours are not told apart
PULL = 1e-4  # weight of the mean colour beside what the pixels around say
SURE_VARIANCE = 0.001  # shares known better than this count like clean pixels where colours are fitted


@dataclass(frozen=True)
class Surface:
    """One sample of light per pixel.

    Args:
        light: (3, H, W) linear colour.
        defocus: (1, H, W) signed radius, px.
        weight: (1, H, W) share of the pixel, in [0, 1].
    """

    light: Tensor
    defocus: Tensor
    weight: Tensor

    def samples(self, ladder: Ladder) -> tuple[Tensor, Tensor, Tensor]:
        """What layers are made from: weight (1, H, W), light * weight (3, H, W), ladder position (1, H, W)."""
        return self.weight, self.light * self.weight, ladder.climb(self.defocus)


def split_mixed(light: Tensor, defocus: Tensor, places: float | None = None) -> tuple[Surface, Surface | None]:
    """Separate the light of the two surfaces that meet in a pixel.

    The share of the near surface comes from the course of the edge (`coverage`) and from where the colours along the
    edge lie between those of both sides, each weighted by how sure it is: texture unsettles the colours, an upright,
    level or diagonal edge the course. The colours are fitted to all pixels around with their shares, so a bar that is
    too thin to own a pixel has a colour too. Where neither can tell the colours apart, the pixel stays whole.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px.
        places: for mixed pixels, see `picks.pick`; None for as many as there are.

    Returns:
        The surface at the pixel's own depth, and the rest of the mixed pixels at the depth of the other surface, or
        None if no pixel is mixed. weight * light of both add up to `light`.
    """
    whole = Surface(light, defocus, torch.ones_like(defocus))
    edge = edge_strength(defocus)
    at = pick(edge.detach() > 0, places)
    if places is None and not at.numel():
        return whole, None

    window = _window(defocus, at)
    own = defocus.flatten()[at]
    low, high = (_nearest_around(defocus, at, largest) for largest in (False, True))
    is_near = own - low < high - own
    middle = ((low + high) / 2).detach()
    course = near_share((defocus.detach().flatten()[window] < middle[:, None]).to(defocus.dtype))
    fit = _fit_colours(light, defocus, course, low, high, at)
    mixed = light.flatten(1)[:, at]
    share = _share_along_edge(fit, course, mixed, is_near, window, edge)

    other = torch.where(is_near, 1 - share, share) * fit.sure * edge.flatten()[at]
    other_light = torch.where(is_near, fit.far, fit.near)
    # The rim of a bulb: what is far brighter than this side's colour is the other side's light, whatever the share.
    most = 2 * torch.where(is_near, fit.near, fit.far) + 0.3
    excess = (mixed - (1 - other) * most) / other.clamp(min=0.02)
    other_light = torch.where(other_light > most, torch.maximum(other_light, excess), other_light)
    other_light = torch.minimum(other_light, mixed / other.clamp(min=1e-3))  # nothing negative may remain
    other_defocus = torch.where(is_near, high, low)

    def full(values: Tensor, rest: Tensor) -> Tensor:
        return rest.flatten(1).index_copy(1, at, values).reshape(rest.shape)

    weight = full(other[None], torch.zeros_like(defocus))
    second = full(other_light, light)
    own_light = (light - weight * second) / (1 - weight).clamp(min=1e-3)
    return (
        Surface(own_light, defocus, 1 - weight),
        Surface(second, full(other_defocus[None], defocus), weight),
    )


def edge_strength(defocus: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: 0 on planes of any slant, 1 on both sides of a step, from the second differences."""
    height, width = defocus.shape[-2:]
    padded = torch.nn.functional.pad(defocus[None], (1, 1, 1, 1), mode="replicate")[0]
    bend = torch.zeros_like(defocus)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        before = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        after = padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        bend = torch.maximum(bend, (before + after - 2 * defocus).abs())
    return ((bend - STEP_PX[0]) / (STEP_PX[1] - STEP_PX[0])).clamp(0, 1)


@dataclass(frozen=True)
class _Fit:
    """Colours of both surfaces at E edge pixels: (3, E) each, mean squared misfit (E), and confidence in [0, 1] (E)."""

    near: Tensor
    far: Tensor
    misfit: Tensor
    sure: Tensor


def _fit_colours(light: Tensor, defocus: Tensor, course: Coverage, low: Tensor, high: Tensor, at: Tensor) -> _Fit:
    """Least squares: every pixel j around is share_j * near + (1 - share_j) * far, close and sure ones count most.

    Args:
        light, defocus: (3, H, W) and (1, H, W).
        course: shares of the edge pixels.
        low, high: (E) defocus of the near and the far surface.
        at: (E) flat indices.
    """
    trust = SURE_VARIANCE / (SURE_VARIANCE + course.variance)
    # one bulb must not decide the colour of what lies around it
    calm = (1 + light.amax(0).flatten()) ** -2
    columns = [_put(course.share, at, torch.zeros_like(defocus)), _put(trust, at, torch.ones_like(defocus)) * calm]
    columns += [
        _put(low, at, defocus),
        _put(high, at, defocus),
        _put(torch.ones_like(low), at, torch.zeros_like(defocus)),
    ]
    # One row per pixel, so that a gathered pixel is one piece of memory: measured twice as fast as planes.
    pixels = torch.stack([*columns, *light.flatten(1)]).T.contiguous()
    reach = (0.5 * (high - low)).clamp(min=1e-6)  # 0 only at a place without an edge
    nn, nf, ff, weights, squares = (torch.zeros_like(low) for _ in range(5))
    near_sum, far_sum = light.new_zeros((len(at), 3)), light.new_zeros((len(at), 3))
    for down in range(-WINDOW, WINDOW + 1):
        for right in range(-WINDOW, WINDOW + 1):
            if down * down + right * right > 2 * WINDOW + 1:  # the corners weigh next to nothing
                continue
            found = pixels.index_select(0, _beside(at, defocus, down, right))
            share, trusted, its_low, its_high, mixed = found[:, :5].T.contiguous().unbind(0)
            like_near = (1 - (its_low - low).abs() / reach).clamp(min=0)
            like_far = (1 - (its_high - high).abs() / reach).clamp(min=0)
            # a clean pixel belongs to one of the surfaces, a mixed one must lie between the same two
            alike = torch.where(mixed > 0, like_near * like_far, torch.maximum(like_near, like_far))
            share = torch.where(mixed > 0, share, (like_near > like_far).to(share.dtype))
            weight = alike * trusted / (1 + down * down + right * right) ** 2
            for_near, for_far = weight * share, weight * (1 - share)
            nn, nf, ff = nn + for_near * share, nf + for_near * (1 - share), ff + for_far * (1 - share)
            weights = weights + weight
            colour = found[:, 5:]
            squares = squares + weight * (colour**2).sum(1)
            near_sum = torch.addcmul(near_sum, for_near[:, None], colour)
            far_sum = torch.addcmul(far_sum, for_far[:, None], colour)
    each = 1 / weights.clamp(min=1e-20)
    nn, nf, ff, squares = nn * each, nf * each, ff * each, squares * each
    near_mean, far_mean = near_sum.T * each, far_sum.T * each
    # A little pull to the mean colour, so that colours which nothing tells apart stay what they are.
    near_target, far_target = (part + PULL * (near_mean + far_mean) for part in (near_mean, far_mean))
    determinant = ((nn + PULL) * (ff + PULL) - nf * nf).clamp(min=PULL**2)
    near = (((ff + PULL) * near_target - nf * far_target) / determinant).clamp(min=0)
    far = (((nn + PULL) * far_target - nf * near_target) / determinant).clamp(min=0)
    explained = 2 * (near * near_mean + far * far_mean).sum(0)
    misfit = (squares - explained + (nn * near**2 + 2 * nf * near * far + ff * far**2).sum(0)).clamp(min=0)
    distinct = (nn * ff - nf * nf).clamp(min=0)
    return _Fit(near, far, misfit, distinct / (distinct + DISTINCT))


def _share_along_edge(
    fit: _Fit, course: Coverage, mixed: Tensor, is_near: Tensor, window: Tensor, edge: Tensor
) -> Tensor:
    """(E) shares of the near surface: those from the course, corrected by what the colours along the edge agree on.

    One pixel's colour is noisy where there is texture, but along an edge the same correction is due: it is averaged over
    the line that the course was read from. The prior is the course with its variance, the evidence the colours.

    Args:
        fit: colours.
        course: shares from the course of the edge.
        mixed: (3, E) the pixels' light.
        is_near: (E) whether the centre belongs to the near surface.
        window: (E, K) flat indices around.
        edge: (1, H, W) edge strength.
    """
    step = fit.near - fit.far
    contrast = (step**2).sum(0)
    colour = ((mixed - fit.far) * step).sum(0) / (contrast + 1e-6)
    # a straight edge that leaves the centre to one surface leaves it half of the pixel
    colour = torch.where(is_near, colour.clamp(0.5, 1), colour.clamp(0, 0.5))
    noise = (NOISE * torch.maximum(fit.near.amax(0), fit.far.amax(0))) ** 2
    precision = fit.sure / (COLOUR_VARIANCE + (fit.misfit + noise) / (contrast + 1e-6))
    at = window[:, window.shape[1] // 2]
    values = torch.stack([precision * (colour - course.share), precision], 1)
    everywhere = values.new_zeros((edge.numel(), 2)).index_copy(0, at, values)
    lines = line_table(mixed.dtype, mixed.device)
    on_line = window.gather(1, lines.place[course.direction])
    found = everywhere.index_select(0, on_line.flatten()).view(*on_line.shape, 2)
    correction, evidence = (found * lines.weight[course.direction][..., None]).sum(1).unbind(1)
    return (course.share + correction / (evidence + 1 / course.variance)).clamp(0, 1)


def _window(planes: Tensor, at: Tensor) -> Tensor:
    """(E, K) flat indices of the pixels around `at`, the border's own beyond the border."""
    height, width = planes.shape[-2:]
    axis = torch.arange(-REACH, REACH + 1, device=at.device)
    rows = ((at // width)[:, None] + axis).clamp(0, height - 1) * width
    columns = ((at % width)[:, None] + axis).clamp(0, width - 1)
    return (rows[:, :, None] + columns[:, None, :]).flatten(1)


def _nearest_around(defocus: Tensor, at: Tensor, largest: bool) -> Tensor:
    """(E) the largest or smallest defocus of the 3 x 3 pixels around `at`."""
    values = defocus if largest else -defocus
    found = torch.nn.functional.max_pool2d(values[None], 3, stride=1, padding=1).flatten()[at]
    return found if largest else -found


def _put(values: Tensor, at: Tensor, rest: Tensor) -> Tensor:
    """(H * W): `values` at `at`, `rest` elsewhere."""
    return rest.flatten().index_copy(0, at, values)


def _beside(at: Tensor, planes: Tensor, down: int, right: int) -> Tensor:
    """Flat indices of the pixels that many rows and columns away from `at`, the border's own beyond the border."""
    height, width = planes.shape[-2:]
    return (at // width + down).clamp(0, height - 1) * width + (at % width + right).clamp(0, width - 1)
