"""The subject of a photograph, by a segmentation network in the form of IS-Net as ONNX; an option, and nothing is downloaded.

What such a file takes is (1, 3, 1024, 1024), (level - 128) / 256 in RGB, and its first output is the mask in [0, 1]. It is run
by OpenCV, which reads no code from it. A mask decides where the focus is and nothing else.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, UsageError
from pipeline.media.images import Picture
from pipeline.storage.bounded import one_line

_SIDE_PX = 1024
_MIDDLE, _RANGE = 128.0, 256.0


class SubjectNetwork:
    """A mask for every photograph.

    Args:
        path: of the ONNX file.

    Raises:
        UsageError: there is none, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"--mask_network: there is no file {path}; docs/engines.md says where one comes from")
        self._path = path
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UsageError(
                f"--mask_network: {path} is no ONNX network that OpenCV reads: {one_line(error)}"
            ) from None

    def mask(self, picture: Picture) -> npt.NDArray[np.bool_]:
        """(H, W) where the subject is; empty where it finds none.

        Raises:
            InputError: the network takes another input, or gives no mask of one channel.
        """
        height, width = picture.shape[:2]
        resized = cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        self._net.setInput(((resized - _MIDDLE) / _RANGE).transpose(2, 0, 1)[None])
        try:
            names = self._net.getUnconnectedOutLayersNames()
            found = np.asarray(self._net.forward(names)[0], np.float32)
        except cv2.error as error:
            raise InputError(f"{self._path} does not run on 1 x 3 x 1024 x 1024: {one_line(error)}") from None
        if found.ndim != 4 or found.shape[:2] != (1, 1) or not np.isfinite(found).all():
            raise InputError(f"{self._path} must give a finite mask (1, 1, H, W) first, got {found.shape}")
        share = cv2.resize(found[0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(share > 0.5)
