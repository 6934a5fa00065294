"""Which of the depth networks to take where nobody said: of the weights that are here, those that suit the device."""

from collections.abc import Mapping

from pipeline.engines import load_engine
from pipeline.engines.base import DepthEstimator
from pipeline.engines.vda import VideoDepthAnything
from pipeline.hints import command
from pipeline.weights import Condition, find, weights_folder, weights_named

BRING = command("pipeline", "weights", "metric_video_depth_anything_vits.pth", "--download")
_ENCODERS = {
    "cpu": ("vits", "vitb", "vitl"),
    "cuda": ("vitl", "vitb", "vits"),
}  # a laptop waits a minute a frame for vitl


def best_here(device: str, options: Mapping[str, str] | None = None) -> VideoDepthAnything | None:
    """Video Depth Anything with the weights that are here: the smallest on a CPU, the largest on CUDA; None without any.

    Args:
        device: resolved, not "auto".
        options: of the engine; an `encoder` among them is the only one looked for.

    Raises:
        UsageError: the weights are damaged, or an option is none.
    """
    given = dict(options or {})
    usual = _ENCODERS["cuda" if device.startswith("cuda") else "cpu"]
    for encoder in (given["encoder"],) if given.get("encoder") in usual else usual:
        weights = weights_named(f"metric_video_depth_anything_{encoder}.pth")
        if find(weights, weights_folder(given.get("weights", ""))).condition is not Condition.MISSING:
            engine = load_engine("depth", "vda", {"encoder": encoder} | given, device, DepthEstimator)
            assert isinstance(engine, VideoDepthAnything)
            return engine
    return None
