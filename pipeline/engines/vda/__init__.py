"""Metric depth from Video Depth Anything (Chen and others, CVPR 2025, arXiv 2501.12375): our network on the published weights.

The output is depth in metres, larger is farther. One call is one video: a whole scene, unless phase 3 is asked for chunks. What
differs from the authors' program, and why, is in docs/engines.md; none of it changes the result by more than rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.device import resolve_device
from pipeline.engines.base import Clip, SafePoint, with_weights
from pipeline.engines.info import EngineInfo, option, unrecorded
from pipeline.engines.vda.architecture import PATCH_PX
from pipeline.errors import UsageError
from pipeline.weights import DamagedWeightsError, download_command, require, weights_folder, weights_named

if TYPE_CHECKING:
    from pipeline.engines.vda.stream import DepthStream

Encoder = Literal["vits", "vitb", "vitl"]
Precision = Literal["auto", "fp16", "fp32"]


class VideoDepthAnything:
    """Loads its weights when the first frame is asked for; that they are whole and fit is checked before."""

    info = EngineInfo(name="vda", role="depth", version=2, licence="as the encoder's weights", deterministic=True)
    temporal = True

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which network, and how it sees a frame; precision is recorded as what "auto" became."""

        encoder: Encoder = option("vitl", "vits, vitb or vitl; their licences differ")
        input_size: int = option(518, "short side at which the network sees a frame, px, a multiple of 14")
        precision: Precision = option("auto", "fp16, fp32, or auto: fp16 on CUDA and fp32 elsewhere")
        weights: str = unrecorded("", "folder to look for weights in")
        micro_batch: int = unrecorded(8, "frames worked on at once, 1 to 32: memory against speed")

        def __post_init__(self) -> None:
            for name, kind in (("encoder", Encoder), ("precision", Precision)):
                if getattr(self, name) not in get_args(kind):
                    raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
            if self.input_size < PATCH_PX or self.input_size % PATCH_PX:
                raise ValueError(f"input_size must be a positive multiple of {PATCH_PX}, got {self.input_size}")
            if not 1 <= self.micro_batch <= 32:
                raise ValueError(f"micro_batch must be in [1, 32] frames, got {self.micro_batch}")

    def __init__(self, options: Options, device: str) -> None:
        from pipeline.engines.vda.network import read_state

        self._device = resolve_device(device)
        if options.precision == "auto":
            options = replace(options, precision="fp16" if self._device.startswith("cuda") else "fp32")
        self.options = options
        self._micro_batch = options.micro_batch
        self._stream: DepthStream | None = None
        title = f"metric_video_depth_anything_{options.encoder}.pth"
        [found] = require([weights_named(title)], weights_folder(options.weights))
        self._path = found.path
        try:
            read_state(found.path, options.encoder)
        except DamagedWeightsError as error:
            raise UsageError(
                f"{error}. Get the file again: {download_command([title], weights_folder(options.weights))}"
            ) from None
        self.info = with_weights(type(self).info, [found])

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self._device)

    def shrink(self) -> bool:
        if self._micro_batch == 1:
            return False
        self._micro_batch //= 2
        return True

    def estimate(self, clip: Clip, safe_point: SafePoint) -> npt.NDArray[np.float32]:
        maps = self.stream(clip, safe_point)
        first = next(maps)
        depth = np.empty((len(clip.indices), *first.shape), np.float32)
        depth[0] = first
        for number, depth_map in enumerate(maps, start=1):
            depth[number] = depth_map
        return depth

    def stream(self, clip: Clip, safe_point: SafePoint, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """(H, W) metres for each frame of a video of any length, in order, in the memory of one window.

        Args:
            clip: the whole video.
            safe_point: called between micro-batches.
            first: position in the clip from which on depth is wanted; the result is that of a run from the beginning.

        Raises:
            InputError: the frames are not all of one size.
        """
        import torch

        from pipeline.engines.vda.network import load_network
        from pipeline.engines.vda.stream import DepthStream

        safe_point()
        if self._stream is None:
            self._stream = DepthStream(
                network=load_network(self._path, self.options.encoder, self._device),
                device=torch.device(self._device),
                half=self.options.precision == "fp16",
                input_size=self.options.input_size,
                micro_batch=self._micro_batch,
            )
        self._stream.micro_batch = self._micro_batch
        yield from self._stream.depth(clip, safe_point, first)


ENGINE = VideoDepthAnything
