"""Where a photograph's depth comes from: delivered with it or at a path, else estimated by Video Depth Anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.engines.base import Clip, SafePoint
from pipeline.engines.vda import VideoDepthAnything
from pipeline.engines.vda.choose import BRING, best_here
from pipeline.errors import UsageError
from pipeline.media.delivered_depth import DeliveredDepth, depth_at, find_delivered_depth
from pipeline.media.depth_cleaning import filled, rounding_step, unrounded
from pipeline.media.depth_files import Depth, resize_depth
from pipeline.media.images import Picture


@dataclass(frozen=True, kw_only=True)
class DepthSource:
    """Depth of one photograph.

    Args:
        said: which it is, for the terminal.
        licence: of the weights, "" for delivered depth.
        read: from the sharp picture at its working size, all of it finite and > 0, in metres.
    """

    said: str
    licence: str
    read: Callable[[Picture, SafePoint], Depth]


def choose_depth(asked: str, photo: Path, size: tuple[int, int], device: str, options: dict[str, str]) -> DepthSource:
    """The depth that was asked for, or the best there is.

    Args:
        asked: "auto", "given", "vda", or a path.
        photo: the photograph, beside which delivered depth is looked for.
        size: (width, height) of the photograph as it is shown.
        device: resolved, to estimate on.
        options: of the depth network.

    Raises:
        UsageError: it is not there; the message says the command that would bring it.
        InputError: delivered depth cannot be used.
    """
    if asked not in ("auto", "given", "vda"):
        if not Path(asked).exists():
            raise UsageError(
                f"--depth must be given, vda or a file or folder with depth, got {asked}, which is not there"
            )
        return _delivered(depth_at(Path(asked), photo, 1), size)
    if asked != "vda":
        found = find_delivered_depth(photo, 1)
        if found is not None:
            return _delivered(found, size)
        if asked == "given":
            base = photo.with_suffix("")
            raise UsageError(
                f"{photo} has no depth with it (no {base}.depth/ or {base}.depth.npz); name it with --depth PATH"
            )
    network = best_here(device, options)
    if network is None:
        raise UsageError(
            f"no weights of Video Depth Anything are here to estimate depth; get the small ones (Apache-2.0): {BRING}"
        )
    return _estimated(network, f"estimated by Video Depth Anything, {network.options.encoder} on {network.device}")


def _delivered(depth: DeliveredDepth, size: tuple[int, int]) -> DepthSource:
    def read(sharp: Picture, safe_point: SafePoint) -> Depth:
        depth_m, step = filled(depth.read_fitting(0, size)), rounding_step(depth)
        if step:
            depth_m = unrounded(depth_m, step)
        return filled(resize_depth(depth_m, (sharp.shape[1], sharp.shape[0])))

    return DepthSource(said=f"{depth.kind} delivered in {depth.files()[0]}", licence="", read=read)


def _estimated(network: VideoDepthAnything, said: str) -> DepthSource:
    def read(sharp: Picture, safe_point: SafePoint) -> Depth:
        return filled(network.estimate(Clip(range(1), lambda _: sharp, None), safe_point)[0])

    return DepthSource(said=said, licence=network.info.licence, read=read)
