"""Metric depth from Video Depth Anything (Chen and others, CVPR 2025, arXiv 2501.12375): our network on the published weights.

The output is depth in metres, larger is farther. One call is one video: a chunk of phase 3. What differs from the authors'
program, and why, is in docs/engines.md; none of it changes the result by more than rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.engines.base import Clip, SafePoint
from pipeline.engines.info import EngineInfo, unrecorded
from pipeline.engines.vda.architecture import PATCH_PX
from pipeline.engines.vda.head import resize
from pipeline.engines.vda.network import VideoDepthNetwork, load_network, read_state
from pipeline.engines.vda.preprocess import network_size, normalise, resize_frame
from pipeline.engines.vda.windows import stream_depth
from pipeline.errors import InputError, UsageError
from pipeline.media.prefetch import map_ahead
from pipeline.weights import DamagedWeightsError, require, weights_folder, weights_named, with_weights

Encoder = Literal["vits", "vitb", "vitl"]
Precision = Literal["auto", "fp16", "fp32"]


class VideoDepthAnything:
    """Loads its weights when the first frame is asked for; that they are whole and fit is checked before."""

    info = EngineInfo(name="vda", role="depth", version=1, licence="as the encoder's weights", deterministic=True)
    temporal = True

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """encoder: vits, vitb or vitl. input_size: short side in px at which the network sees a frame. precision: fp16 or
        fp32; auto is fp16 on CUDA and fp32 elsewhere, and is recorded as what it became. weights: the weights folder.
        micro_batch: frames worked on at once, a matter of memory and speed."""

        encoder: Encoder = "vitl"
        input_size: int = 518
        precision: Precision = "auto"
        weights: str = unrecorded("")
        micro_batch: int = unrecorded(8)

        def __post_init__(self) -> None:
            for name, kind in (("encoder", Encoder), ("precision", Precision)):
                if getattr(self, name) not in get_args(kind):
                    raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
            if self.input_size < PATCH_PX or self.input_size % PATCH_PX:
                raise ValueError(f"input_size must be a positive multiple of {PATCH_PX}, got {self.input_size}")
            if not 1 <= self.micro_batch <= 32:
                raise ValueError(f"micro_batch must be in [1, 32] frames, got {self.micro_batch}")

    def __init__(self, options: Options, device: str) -> None:
        self._device = torch.device(device)
        if options.precision == "auto":
            options = replace(options, precision="fp16" if self._device.type == "cuda" else "fp32")
        self.options = options
        self._micro_batch = options.micro_batch
        self._network: VideoDepthNetwork | None = None
        title = f"metric_video_depth_anything_{options.encoder}.pth"
        [found] = require([weights_named(title)], weights_folder(options.weights))
        self._path = found.path
        try:
            read_state(found.path, options.encoder)
        except DamagedWeightsError as error:
            raise UsageError(f"{error}. Get the file again: python -m pipeline weights {title} --download") from None
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

    @torch.inference_mode()
    def stream(self, clip: Clip, safe_point: SafePoint) -> Iterator[npt.NDArray[np.float32]]:
        """(H, W) metres for each frame of a video of any length, in order, in the memory of one window.

        Raises:
            InputError: the frames are not all of one size.
        """
        safe_point()
        if self._network is None:
            self._network = load_network(self._path, self.options.encoder, str(self._device))
        network = self._network
        height, width = clip.frames(clip.indices[0]).shape[:2]
        size = network_size(width, height, self.options.input_size)
        grid = (size[1] // PATCH_PX, size[0] // PATCH_PX)

        def load(index: int) -> Tensor:
            frame = clip.frames(index)
            if frame.shape[:2] != (height, width):
                raise InputError(f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first is {width}x{height}")
            return resize_frame(frame, size)

        frames = map_ahead(load, clip.indices, workers=4, depth=8)

        def encode(new: range) -> list[Tensor]:
            batches = []
            for start in range(0, len(new), self._micro_batch):
                safe_point()
                batch = torch.stack(list(islice(frames, min(self._micro_batch, len(new) - start)))).to(self._device)
                with self._autocast():
                    levels = network.encode(normalise(batch))
                # What reads them under autocast would narrow them anyway; a window's levels are what memory goes to.
                batches.append([level.half() for level in levels] if self._half else levels)
            return [torch.cat(level) for level in zip(*batches, strict=True)]

        def decode(levels: list[Tensor], wanted: slice) -> Tensor:
            with self._autocast():
                return network.decode(levels, grid, wanted, self._micro_batch, safe_point)

        for block in stream_depth(encode, decode, len(clip.indices)):
            for part in torch.split(block, self._micro_batch):
                yield from resize(part[:, None], (height, width))[:, 0].float().cpu().numpy()

    @property
    def _half(self) -> bool:
        return self.options.precision == "fp16"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.float16, enabled=self._half)


ENGINE = VideoDepthAnything
