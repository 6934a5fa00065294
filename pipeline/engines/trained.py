"""A trained network of `model` on single frames, for whoever shows it beside the lens renderer; no phase runs it.

Every frame is seen with a fresh state, so this is the network at the first frame of a film.
"""

from pathlib import Path

from pipeline.device import resolve_device
from pipeline.media.images import Picture
from pipeline.optics.lens import Lens


class TrainedNetwork:
    """A BokehFlow checkpoint: a file, a checkpoint folder or a run's folder.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be used, or is a network of another family.
    """

    def __init__(self, checkpoint: Path, device: str) -> None:
        from model.bokehflow.checkpoint import load_bokehflow
        from model.video.trust import describe_training, weakness

        self._loaded = load_bokehflow(checkpoint, resolve_device(device))
        self.said = ". ".join(text for text in (describe_training(self._loaded), weakness(self._loaded)) if text)

    def photograph(self, picture: Picture, lens: Lens, sensor_width_mm: float) -> Picture:
        """(H, W, 3) uint8 through the lens.

        Raises:
            UsageError: a lens that the network never learned of.
            CheckpointError: its own depth is not a number.
        """
        from model.video.engines import NetworkEngine
        from pipeline.media.convert import tensor_to_image

        engine = NetworkEngine(self._loaded.net, lens.f_number, lens.f_mm, sensor_width_mm)
        out, _ = engine.through(picture, lens.focus_m, None)
        return tensor_to_image(out.bokeh[0])
