"""Where a film cuts from one shot to the next, found while it streams by."""

import cv2
from scenedetect.common import FrameTimecode
from scenedetect.detectors import ContentDetector

from pipeline.media.images import Picture

_LONGER_EDGE_PX = 256  # what changes at a cut is seen at this size, and noise is not
_THRESHOLD = 27.0  # mean change of hue, saturation and value; the detector's published default


class CutDetector:
    """Says of every frame whether it begins a new shot.

    PySceneDetect's content detector on a shrunk frame: the mean absolute change of hue, saturation and value (8 bit) from
    frame to frame against a threshold. Hard cuts, that is; a dissolve goes by unseen. What is kept is one small frame.
    """

    def __init__(self) -> None:
        self._detector = ContentDetector(threshold=_THRESHOLD, min_scene_len=0)
        self._count = 0

    def begins_shot(self, picture: Picture) -> bool:
        """(H, W, 3) uint8 RGB, the next frame -> whether it is of another shot than the one before; False for the first."""
        scale = min(1.0, _LONGER_EDGE_PX / max(picture.shape[:2]))
        size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]  # of a strip, at least one row
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        # The rate is not used: the detector compares neighbours, whatever the time between them.
        cuts = self._detector.process_frame(FrameTimecode(self._count, 24.0), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        self._count += 1
        return bool(cuts)
