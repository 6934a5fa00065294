"""The array types that pictures travel in."""

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (H, W, 3) RGB
DeepPicture = npt.NDArray[np.uint16]  # the same over the whole range of 16 bits, of films with more than 8
AnyPicture = Picture | DeepPicture
