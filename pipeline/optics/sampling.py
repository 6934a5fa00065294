"""Lens parameters drawn per scene, from seeds that are the same in every process, node and year."""

from dataclasses import dataclass

import numpy as np

from pipeline.optics.lens import CocModel, Lens, OpticsError
from pipeline.seeds import stable_seed

FOCAL_RANGE_MM = (24.0, 85.0)
F_NUMBER_RANGE = (1.4, 8.0)


@dataclass(frozen=True)
class DrawnLens:
    """A lens, and why it is not all that its prior asks for; `reason` is empty where it is."""

    lens: Lens
    reason: str = ""


def draw_lens(
    scene_id: str,
    set_index: int,
    *,
    near_m: float,
    far_m: float,
    project_seed: int = 0,
    coc_model: CocModel = "contract",
) -> Lens:
    """The lens of one set of one scene by the prior `published`; `visible` is in the module of that name.

    f is uniform in 24 to 85 mm, N log-uniform in 1.4 to 8, and S = near + Beta(2, 2) * (far - near), so that the focus
    lies inside the scene and rarely at its very ends.

    Args:
        scene_id: the scene's name.
        set_index: which of the scene's lens sets, >= 0.
        near_m: near end of the scene's focus range, metres, > 0.
        far_m: far end, metres, >= near_m.
        project_seed: changes every draw of a project at once.
        coc_model: the model that the lens will be used with.

    Raises:
        OpticsError: the range is empty or not positive, or set_index is negative.
    """
    if not 0 < near_m <= far_m < float("inf"):
        raise OpticsError(f"the focus range must satisfy 0 < near <= far < inf, got near={near_m} m, far={far_m} m")
    if set_index < 0:
        raise OpticsError(f"set_index must be >= 0, got {set_index}")
    rng = np.random.Generator(np.random.PCG64(stable_seed("lens", scene_id, set_index, project_seed)))
    f_mm = rng.uniform(*FOCAL_RANGE_MM)
    f_number = float(np.exp(rng.uniform(*np.log(F_NUMBER_RANGE))))
    focus_m = near_m + float(rng.beta(2, 2)) * (far_m - near_m)
    return Lens(f_m=f_mm / 1000, f_number=f_number, focus_m=focus_m, coc_model=coc_model)
