"""The label: the focus map as it is stored, which phase 5 writes and phase 6 and the training data check again."""

import numpy as np
import numpy.typing as npt

from pipeline.optics.lens import Lens

FocusMap = npt.NDArray[np.float16]


def label_of(depth: npt.NDArray[np.float16], lens: Lens, max_coc_m: float) -> FocusMap:
    """The stored focus map of a stored depth map.

    Args:
        depth: (H, W) float16 metres.
        lens: the set's lens.
        max_coc_m: saturation diameter, metres.

    Returns:
        (H, W) float16 in [0, 1], computed in float32 and rounded once.
    """
    import torch  # takes seconds to import, and phases that only plan their work do not call this

    from pipeline.optics.coc import focus_map

    values: FocusMap = focus_map(torch.from_numpy(depth.astype(np.float32)), lens, max_coc_m).numpy().astype(np.float16)
    return values
