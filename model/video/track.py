"""A point followed through a film: where it is, how far away, and when it is out of sight.

Special: depth helps. Only pixels about as far away as the target speak for it, so that a background that shines through
between two arms does not pull the point away. The motion is the median of many Lucas-Kanade tracks that agree forwards and
backwards (Kalal, Mikolajczyk, Matas, ICPR 2010). The point's first appearance corrects the drift while it still looks like
that, its colours and its distance keep it on its surface. Not a segmentation: what is followed is a neighbourhood.

Shape letters: h, w = the picture as tracked, at most 640 px along its longer side.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from pipeline.media.depth_files import Depth
from pipeline.media.images import Picture

_LONGER_EDGE_PX = 640
_BOX_SHARE = 0.035  # half side of the neighbourhood, of the longer edge
_MOST_POINTS = 80
_LK: dict[str, Any] = {
    "winSize": (17, 17),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
}
_RETURN_PX = 1.0  # there and back again within this
_FEWEST, _SMALLEST_SHARE = 5, 0.2  # tracks that agree, or the point counts as lost
_LIKE_FIRST, _FOUND_AGAIN = 0.8, 0.75  # normalised cross-correlation
_SEARCH_BOXES = 4  # how far from one frame to the next something alike is looked for
_LOOKS_LIKE_IT, _LIES_LIKE_IT = 0.25, 0.3  # mean over the neighbourhood
_BIN = 16  # of 8-bit Lab
_ABOUT_AS_FAR = 0.2  # of the inverse depth: one person is one distance, and people move


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Where the point is in one frame.

    Args:
        xy: in pixels of the frame.
        inverse_m: 1/distance of the neighbourhood, the median; NaN while the point is lost.
        sure: share of tracks that agree; 0 while lost.
    """

    xy: tuple[float, float]
    inverse_m: float
    sure: float


class PointTracker:
    """Follows one point from frame to frame; `begin` says which, `step` takes the next frame."""

    def __init__(self) -> None:
        self._grey: Any = None
        self._inverse: Any = None
        self._at = np.zeros(2)
        self._box = 0
        self._distance = 0.0
        self._looks: list[Any] = []  # patches: the first, and the last that was sure
        self._lost = 0
        self._cut = False

    def begin(self, picture: Picture, depth_m: Depth, xy: tuple[float, float]) -> Sight:
        """Take up what this pixel shows.

        Args:
            picture: (H, W, 3) uint8.
            depth_m: (H, W) metres without NaN, the same size.
            xy: in pixels of the picture.
        """
        self._picture, grey, inverse, scale = _reduced(picture, depth_m)
        self._scale, self._at, self._lost, self._cut = scale, np.array(xy) * scale, 0, False
        self._box = max(6, round(_BOX_SHARE * max(grey.shape)))
        self._grey, self._inverse = grey, inverse
        self._distance = float(np.median(self._around(inverse, max(2, self._box // 4))))
        self._distance = self._similar_median(inverse, self._box // 2) or self._distance
        first = self._patch(grey)
        self._looks = [first, first]
        target = self._similar(self._around(inverse, self._box // 2))
        self._colours = Colours(self._picture, self._around(self._picture, self._box // 2)[target])
        return self._sight(1.0)

    def step(self, picture: Picture, depth_m: Depth, *, cut: bool = False) -> Sight:
        """The next frame; `cut` says that it begins another shot, in which the point has to be found again."""
        before, self._grey = self._grey, None
        depth_before = self._inverse
        self._picture, self._grey, self._inverse, _ = _reduced(picture, depth_m)
        self._cut = self._cut or cut
        if cut or self._lost:
            self._lost += 1
            return self._sight(self._find_again())
        moved, share = self._motion(before, depth_before)
        if moved is not None:
            self._at = self._at + moved
            self._correct_by_appearance()
        if not self._hold_on():
            self._lost = 1
            return self._sight(self._find_again())
        if moved is not None:
            self._looks[1] = self._patch(self._grey)
        return self._sight(max(share, 0.01))

    def _sight(self, sure: float) -> Sight:
        x, y = (float(value) / self._scale for value in self._at)
        return Sight(xy=(x, y), inverse_m=self._distance if sure > 0 else float("nan"), sure=sure)

    def _motion(self, before: Any, depth_before: Any) -> tuple[npt.NDArray[np.float64] | None, float]:
        """Median motion of the tracks that agree, and their share; None when too few do."""
        points = self._points(before, depth_before)
        if len(points) < _FEWEST:
            return None, 0.0
        there, found = _lucas_kanade(before, self._grey, points)
        back, returned = _lucas_kanade(self._grey, before, there)
        error = np.linalg.norm((back - points)[:, 0], axis=1)
        good = (found[:, 0] == 1) & (returned[:, 0] == 1) & (error < _RETURN_PX)
        share = float(good.mean())
        if good.sum() < _FEWEST or share < _SMALLEST_SHARE:
            return None, share
        return np.median((there - points)[good, 0], axis=0), share

    def _points(self, grey: Any, inverse: Any) -> Any:
        """(N, 1, 2) corners and a loose grid in the neighbourhood, where depth is the target's."""
        height, width = grey.shape
        x, y = self._at
        mask = np.zeros((height, width), np.uint8)
        top, bottom, left, right = _bounds(self._at, self._box, (height, width))
        near = self._similar(inverse[top:bottom, left:right])
        mask[top:bottom, left:right] = near.astype(np.uint8) * 255
        corners = cv2.goodFeaturesToTrack(grey, _MOST_POINTS // 2, 0.02, 3, mask=mask)
        step = max(2, self._box // 3)
        grid = [
            (x + dx, y + dy)
            for dy in range(-self._box, self._box + 1, step)
            for dx in range(-self._box, self._box + 1, step)
            if 0 <= x + dx < width and 0 <= y + dy < height and mask[int(y + dy), int(x + dx)]
        ]
        parts = [] if corners is None else [corners.reshape(-1, 2)]
        parts += [np.array(grid, np.float32)] if grid else []
        return np.concatenate(parts)[:, None].astype(np.float32) if parts else np.empty((0, 1, 2), np.float32)

    def _correct_by_appearance(self) -> None:
        """Small drift goes where the first look fits best, as long as something still looks like it."""
        place, score = self._match(self._looks[0], self._at, self._box // 2)
        if score >= _LIKE_FIRST:
            self._at = place

    def _hold_on(self) -> bool:
        """Stay on the target and read its distance; False when nothing near looks and lies like it.

        Motion alone slides off: a plain shirt and a fast turn give few tracks, and a hand on the floor gives the floor's. So
        where the neighbourhood has become unlike the target, the point goes to the nearest part that is like it: as far
        away, and of its colours.
        """
        reach = _SEARCH_BOXES * self._box
        top, bottom, left, right = _bounds(self._at, reach, self._inverse.shape)
        alike = self._similar(self._inverse[top:bottom, left:right]).astype(np.float32)
        coloured = alike * self._colours.likeness(self._picture[top:bottom, left:right])
        here = self._at - (left, top)
        for weights, enough in ((coloured, _LOOKS_LIKE_IT), (alike, _LIES_LIKE_IT)):
            dense = cv2.blur(weights, (self._box + 1, self._box + 1), borderType=cv2.BORDER_CONSTANT)
            column, row = np.clip(np.round(here), 0, np.array(dense.shape[::-1]) - 1).astype(int)
            if dense[row, column] >= enough:
                break
            rows, columns = np.indices(dense.shape, np.float32)
            nearby = dense * np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / (2 * (reach / 2) ** 2))
            row, column = np.unravel_index(int(nearby.argmax()), nearby.shape)
            if dense[row, column] >= enough:
                self._at = np.array([column + left, row + top], np.float64)
                break
        distance = self._similar_median(self._inverse, self._box // 2)
        if distance is None:
            return False
        self._distance = distance
        return True

    def _find_again(self) -> float:
        """Look for the point's appearance, farther out the longer it is gone, everywhere after a cut; 0 without a find."""
        reach = max(self._grey.shape) if self._cut else self._box * min(2 + self._lost, 12)
        for look in self._looks:
            place, score = self._match(look, self._at, reach)
            if score < (_LIKE_FIRST if self._cut else _FOUND_AGAIN):
                continue
            here = float(np.median(self._around(self._inverse, max(2, self._box // 4), place)))
            if not self._cut and abs(here - self._distance) > 2 * _ABOUT_AS_FAR * self._distance:
                continue
            self._at, self._lost, self._cut = place, 0, False
            self._distance = here
            self._distance = self._similar_median(self._inverse, self._box // 2) or here
            return score
        return 0.0

    def _match(self, look: Any, centre: Any, reach: int) -> tuple[Any, float]:
        """Where within `reach` a patch fits best, and how well; flat patches fit nowhere."""
        half = look.shape[0] // 2, look.shape[1] // 2
        top, bottom, left, right = _bounds(centre, reach + max(half), self._grey.shape)
        window = self._grey[top:bottom, left:right]
        if look.std() < 2 or window.shape[0] < look.shape[0] or window.shape[1] < look.shape[1]:
            return centre, 0.0
        scores = np.nan_to_num(cv2.matchTemplate(window, look, cv2.TM_CCOEFF_NORMED), posinf=0, neginf=0)
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        offset = centre - np.round(centre) if reach < self._box else 0.0
        return np.array([column + left + half[1], row + top + half[0]], np.float64) + offset, float(scores.max())

    def _patch(self, grey: Any) -> Any:
        return self._around(grey, self._box).copy()

    def _around(self, values: Any, reach: int, centre: Any = None) -> Any:
        top, bottom, left, right = _bounds(self._at if centre is None else centre, reach, values.shape)
        return values[top:bottom, left:right]

    def _similar(self, inverse: Any) -> Any:
        return np.abs(inverse - self._distance) <= _ABOUT_AS_FAR * self._distance

    def _similar_median(self, inverse: Any, reach: int) -> float | None:
        """Median over the neighbourhood's pixels that are about as far as the target; None when they are few."""
        near = self._around(inverse, reach)
        similar = self._similar(near)
        return float(np.median(near[similar])) if similar.mean() >= 0.1 else None


def _lucas_kanade(before: Any, after: Any, points: Any) -> tuple[Any, Any]:
    """(N, 1, 2) where points went, and (N, 1) whether they were found."""
    flow: Any = cv2.calcOpticalFlowPyrLK  # its stub knows no None for points that are not guessed
    there, found, _ = flow(before, after, points, None, **_LK)
    return there, found


class Colours:
    """What a target's colours are, against those of the whole picture: Lab histograms (Comaniciu, Ramesh, Meer, PAMI 2003)."""

    def __init__(self, lab: Any, target: Any) -> None:
        own, all_of_it = _histogram(target), _histogram(lab.reshape(-1, 3))
        self._share = own / (own + all_of_it + 1e-6)

    def likeness(self, lab: Any) -> Any:
        """(h, w) in [0, 1]: how much more a pixel's colour is the target's than the picture's."""
        bins = (lab // _BIN).astype(np.int32)
        return self._share[bins[..., 0], bins[..., 1], bins[..., 2]]


def _histogram(pixels: Any) -> Any:
    counts, _ = np.histogramdd(pixels.reshape(-1, 3) / _BIN, bins=[np.arange(256 // _BIN + 1)] * 3)
    spread = gaussian_filter(counts, 0.7).astype(np.float32)  # light changes a little from frame to frame
    return spread / max(float(spread.sum()), 1.0)


def _reduced(picture: Picture, depth_m: Depth) -> tuple[Any, Any, Any, float]:
    """Lab picture, its grey and inverse depth at the size that is tracked at, and the factor."""
    scale = min(1.0, _LONGER_EDGE_PX / max(picture.shape[:2]))
    inverse: Any = 1 / np.asarray(depth_m, np.float32)
    seen: Any = picture
    if scale < 1:
        seen = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        inverse = cv2.resize(inverse, seen.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.cvtColor(seen, cv2.COLOR_RGB2LAB), cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY), inverse, scale


def _bounds(centre: Any, reach: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """top, bottom, left, right of a square around a point, inside the picture; never empty."""
    column, row = (round(float(value)) for value in centre)
    row, column = min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)
    return (
        max(0, row - reach),
        min(shape[0], row + reach + 1),
        max(0, column - reach),
        min(shape[1], column + reach + 1),
    )
