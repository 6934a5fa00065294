"""What an engine is: three small protocols, one per job, and the options and facts every engine carries.

An engine module `pipeline/engines/<name>.py` (or folder) defines `ENGINE`, a class with a frozen dataclass `Options` inside.
It turns arrays into arrays; it knows no paths, no done records and no scenes. Whatever is slow to import (PyTorch above all) is
imported where it computes, since every engine of a job is looked at for `--help`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.engines.info import EngineInfo
from pipeline.media.depth_files import Depth
from pipeline.media.images import Picture
from pipeline.optics.lens import Lens
from pipeline.weights import Found, verified_sha256

SafePoint = Callable[
    [], None
]  # raises StoppedError when a signal asked for it; engines call it between denoising steps


def with_weights(info: EngineInfo, found: list[Found]) -> EngineInfo:
    """An engine's facts with the content and the licences of the weights it uses.

    Raises:
        UsageError: see `verified_sha256`.
    """
    licences = list(dict.fromkeys(item.weights.licence for item in found))
    weights = {item.weights.title: verified_sha256(item) for item in found}
    return replace(info, licence="; ".join(licences), weights=weights)


class Engine(Protocol):
    """What all engines share."""

    info: EngineInfo  # of the class before weights are chosen, of the instance afterwards
    Options: ClassVar[type]
    options: Any

    def __init__(self, options: Any, device: str) -> None:
        """device: as in --device, "auto" included; an engine that computes with PyTorch resolves it (`pipeline.device`)."""
        ...

    def shrink(self) -> bool:
        """Need less memory from now on, after an out-of-memory error; False when nothing more can be saved."""
        ...


@runtime_checkable
class Deblurrer(Engine, Protocol):
    """Phase 2."""

    def deblur(self, frame: Picture, seed: int, safe_point: SafePoint) -> Picture:
        """(H, W, 3) uint8 RGB -> the same, sharper. Sides are multiples of 16."""
        ...


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one scene for a depth engine.

    Args:
        indices: which frames.
        frames: reads frame number i of the scene, (H, W, 3) uint8, on demand.
        delivered: reads the depth delivered for frame i at the frames' size, (H, W) metres with NaN; None without any.
        source_size: (width, height) of the frames as they were shot, where it is known and may differ.
    """

    indices: range
    frames: Callable[[int], Picture]
    delivered: Callable[[int], Depth] | None
    source_size: tuple[int, int] | None = None


@runtime_checkable
class DepthEstimator(Engine, Protocol):
    """Phase 3."""

    temporal: ClassVar[bool]  # looks at several frames at once, so that long scenes need chunks and crossfades

    def estimate(self, clip: Clip, safe_point: SafePoint) -> npt.NDArray[np.float32]:
        """(T, H, W) z-depth in metres, NaN where unknown."""
        ...


@runtime_checkable
class StreamingDepth(DepthEstimator, Protocol):
    """Phase 3, for a video of any length as one, in memory that does not grow with it."""

    def stream(self, clip: Clip, safe_point: SafePoint, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """(H, W) metres of each frame from position `first` of the clip on, as a run from its beginning would give them."""
        ...


@dataclass(frozen=True, kw_only=True)
class BokehRequest:
    """One frame of one lens set.

    Args:
        sharp: (H, W, 3) uint8 RGB, all in focus.
        focus_map: (H, W) float16 in [0, 1], the stored label, read back.
        depth_m: (H, W) float32 metres.
        lens: the set's lens.
        max_coc_m: diameter at which the focus map saturates, metres.
        px_per_mm: of the full frame.
        seed: one per scene, shared by all its frames and sets.
    """

    sharp: Picture
    focus_map: npt.NDArray[np.float16]
    depth_m: Depth
    lens: Lens
    max_coc_m: float
    px_per_mm: float
    seed: int


@runtime_checkable
class BokehRenderer(Engine, Protocol):
    """Phase 5."""

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        """The photograph that the focus map describes, (H, W, 3) uint8 RGB."""
        ...


@runtime_checkable
class MapRenderer(BokehRenderer, Protocol):
    """A renderer whose network reads a defocus map, for callers that have the map itself and no label of a scene."""

    def render_map(self, sharp: Picture, defocus: npt.NDArray[np.float32], seed: int, safe_point: SafePoint) -> Picture:
        """The photograph, (H, W, 3) uint8 RGB, of a sharp one of that form and a (H, W) map in [0, 1], 0 in focus."""
        ...
