"""The lens prior `visible`: lenses that show depth of field in the scene at hand, by the contract's own formula.

The published prior draws lenses as photographers own them, and most of those blur next to nothing. This one begins at the end:
something to focus on, how much blur there shall be, then the lens that makes it.
"""

import math

import numpy as np
import numpy.typing as npt

from pipeline.optics.lens import CocModel, Lens, OpticsError, coc_to_radius_px, infinity_coc
from pipeline.optics.sampling import DrawnLens
from pipeline.seeds import stable_seed

SKY_M = 100.0  # depths beyond are never focused on
TARGET_SHARES = (0.005, 0.035)  # of the frame's width: the 95th percentile of the blur radius
SOLVED_FOCAL_MM, DRAWN_F_NUMBER, SOLVED_F_NUMBER = (24.0, 200.0), (1.2, 8.0), (0.95, 16.0)
MAX_MISS = 1 / 3  # of the target, before the f-number is solved too
MIN_SHARP, MIN_BLURRED = 0.05, 0.5  # shares of the pixels that a set needs
MAX_DRAWS = 16
# Mean focus belongs to a saturation that is calibrated from these very draws; it comes out near this share of the width.
EXPECTED_SATURATION, MEAN_FOCUS = 0.024, (0.2, 0.8)


def draw_visible_lens(
    scene_id: str,
    set_index: int,
    depth_m: npt.NDArray[np.floating],
    *,
    px_per_mm: float,
    width_px: int,
    project_seed: int = 0,
    coc_model: CocModel = "contract",
    target_shares: tuple[float, float] = TARGET_SHARES,
) -> DrawnLens:
    """The lens of one set of one scene, drawn so that its blur can be seen.

    1. Focus: the depth of a pixel, with inverse depth evenly covered between the 5th and 95th percentile, never the sky.
    2. Target: the 95th percentile of the blur radius, log-uniform between 0.5 % and 3.5 % of the frame's width.
    3. N log-uniform in 1.2 to 8, f solved for the target and clipped to 24 to 200 mm; where that misses the target by more
       than a third, N is solved instead, clipped to 0.95 to 16.
    4. Kept when at least 5 % of the pixels are within 1 px (or a tenth of the target) of sharp, and half of all beyond 1 px;
       otherwise drawn again, at most 16 times, and then the best of them with the reason. Of draws that are kept, the first
       whose mean focus is likely to lie in 0.2 to 0.8 stands, or the first.

    Args:
        scene_id: the scene's name.
        set_index: which of the scene's lens sets, >= 0.
        depth_m: any sample of the scene's depth, metres, > 0; the same sample gives the same lens.
        px_per_mm: of the full frame.
        width_px: of the full frame.
        project_seed: changes every draw of a project at once.
        coc_model: the model that the lens will be used with.
        target_shares: bounds of the target, shares of the width.

    Raises:
        OpticsError: no depth, or one that is not positive, or set_index is negative.
    """
    import torch  # here and not above: who only asks what phases there are does not wait for it

    from pipeline.optics.coc import coc_diameter

    if set_index < 0:
        raise OpticsError(f"set_index must be >= 0, got {set_index}")
    depth = np.asarray(depth_m, dtype=np.float64).ravel()
    if depth.size == 0 or not bool((depth > 0).all()):
        raise OpticsError("depth_m must hold at least one depth, all of them > 0 metres; fill missing depth first")
    subjects_m = np.sort(depth[depth < SKY_M] if bool((depth < SKY_M).any()) else depth)
    px_per_metre = coc_to_radius_px(1.0, px_per_mm)
    assert isinstance(px_per_metre, float)
    rng = np.random.Generator(np.random.PCG64(stable_seed("visible lens", scene_id, set_index, project_seed)))
    best, best_score = None, -1.0
    kept: DrawnLens | None = None
    for _ in range(MAX_DRAWS):
        focus_m = _subject(subjects_m, rng)
        target_px = width_px * float(np.exp(rng.uniform(*np.log(target_shares))))
        f_number = float(np.exp(rng.uniform(*np.log(DRAWN_F_NUMBER))))
        unit = Lens(f_m=1.0, f_number=1.0, focus_m=focus_m)
        # The circle of confusion of every pixel in units of the one that infinity gets, which is all that a lens changes.
        spread = coc_diameter(torch.from_numpy(depth), unit).numpy() / unit.infinity_coc_m
        reach = float(np.percentile(spread, 95))
        if reach <= 0:
            continue  # nothing but the focused plane in sight
        lens = _solve(focus_m, f_number, target_px / px_per_metre / reach, coc_model)
        radius_px = spread * lens.infinity_coc_m * px_per_metre
        sharp = float((radius_px <= max(1.0, target_px / 10)).mean())
        blurred = float((radius_px > 1).mean())
        score = min(sharp / MIN_SHARP, 1.0) + min(blurred / MIN_BLURRED, 1.0)
        if score >= 2:
            mean_focus = 1 - float(np.minimum(radius_px / (EXPECTED_SATURATION * width_px), 1).mean())
            if MEAN_FOCUS[0] <= mean_focus <= MEAN_FOCUS[1]:
                return DrawnLens(lens)
            kept = kept or DrawnLens(lens)
        elif score > best_score:
            best_score = score
            best = DrawnLens(
                lens,
                f"none of {MAX_DRAWS} draws shows {MIN_SHARP:.0%} of the pixels sharp and {MIN_BLURRED:.0%} blurred; this "
                f"one has {sharp:.0%} sharp, {blurred:.0%} beyond 1 px",
            )
    if kept is not None:
        return kept
    if best is None:
        plane = Lens(f_m=0.05, f_number=2.0, focus_m=float(subjects_m[0]), coc_model=coc_model)
        return DrawnLens(plane, "the depth is one constant plane, which no lens blurs")
    return best


def _subject(depth_m: npt.NDArray[np.float64], rng: np.random.Generator) -> float:
    """The depth of the pixel whose inverse depth is nearest to an even draw; `depth_m` is sorted."""
    low, high = np.percentile(1 / depth_m, (5, 95))
    wanted_m = 1 / rng.uniform(low, high)
    right = min(int(np.searchsorted(depth_m, wanted_m)), depth_m.size - 1)
    near, far = float(depth_m[max(right - 1, 0)]), float(depth_m[right])
    return near if abs(1 / near - 1 / wanted_m) < abs(1 / far - 1 / wanted_m) else far


def _solve(focus_m: float, f_number: float, infinity_m: float, coc_model: CocModel) -> Lens:
    """The lens whose circle of confusion at infinity is `infinity_m` metres, or as near as its clips allow."""
    wanted_m2 = infinity_m * f_number
    if coc_model == "contract":
        f_m = math.sqrt(wanted_m2 * focus_m)  # f^2 / (N S)
    else:
        f_m = (math.sqrt(wanted_m2**2 + 4 * focus_m * wanted_m2) - wanted_m2) / 2  # f^2 / (N (S - f))
    f_m = min(max(f_m, SOLVED_FOCAL_MM[0] / 1000), SOLVED_FOCAL_MM[1] / 1000)
    if coc_model == "thin_lens":
        f_m = min(f_m, focus_m / 2)  # nearer than 1:1 nothing focuses
    made_m = infinity_coc(f_m, f_number, focus_m, coc_model)
    if abs(made_m / infinity_m - 1) > MAX_MISS:
        f_number = min(max(f_number * made_m / infinity_m, SOLVED_F_NUMBER[0]), SOLVED_F_NUMBER[1])
    return Lens(f_m=f_m, f_number=f_number, focus_m=focus_m, coc_model=coc_model)
