"""A video through the network as a stream of windows, with the memory of one window, however long the video is."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.engines.base import Clip, SafePoint
from pipeline.engines.vda.architecture import PATCH_PX
from pipeline.engines.vda.head import resize
from pipeline.engines.vda.network import VideoDepthNetwork
from pipeline.engines.vda.preprocess import network_size, normalise, resize_frame
from pipeline.engines.vda.windows import fresh_frames, stream_depth
from pipeline.errors import InputError
from pipeline.media.prefetch import map_ahead


@dataclass(kw_only=True)
class DepthStream:
    """How a video goes through a network.

    Args:
        network: on the device.
        device: where it computes.
        half: fp16 under autocast.
        input_size: short side at which the network sees a frame, px.
        micro_batch: frames worked on at once; may shrink between videos and within one.
    """

    network: VideoDepthNetwork
    device: torch.device
    half: bool
    input_size: int
    micro_batch: int

    @torch.inference_mode()
    def depth(self, clip: Clip, safe_point: SafePoint, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """(H, W) metres for each frame of a video of any length from position `first` on, in order.

        Raises:
            InputError: the frames are not all of one size.
        """
        height, width = clip.frames(clip.indices[0]).shape[:2]
        # The authors' program sees the frames as they were shot; phase 2 has made their sides multiples of 16 since.
        shot = clip.source_size or (width, height)
        size = network_size(shot[0], shot[1], self.input_size)
        grid = (size[1] // PATCH_PX, size[0] // PATCH_PX)

        def load(index: int) -> Tensor:
            frame = clip.frames(index)
            if frame.shape[:2] != (height, width):
                raise InputError(f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first is {width}x{height}")
            return resize_frame(frame, size)

        wanted_frames = (clip.indices[place] for new in fresh_frames(len(clip.indices), first) for place in new)
        frames = map_ahead(load, wanted_frames, workers=4, depth=8)

        def encode(new: range) -> list[Tensor]:
            batches = []
            for start in range(0, len(new), self.micro_batch):
                safe_point()
                batch = torch.stack(list(islice(frames, min(self.micro_batch, len(new) - start)))).to(self.device)
                with self._autocast():
                    levels = self.network.encode(normalise(batch))
                # What reads them under autocast would narrow them anyway; a window's levels are what memory goes to.
                batches.append([level.half() for level in levels] if self.half else levels)
            return [torch.cat(level) for level in zip(*batches, strict=True)]

        def decode(levels: list[Tensor], wanted: slice) -> Tensor:
            with self._autocast():
                return self.network.decode(levels, grid, wanted, self.micro_batch, safe_point)

        for block in stream_depth(encode, decode, len(clip.indices), first):
            for part in torch.split(block, self.micro_batch):
                yield from resize(part[:, None], (height, width))[:, 0].float().cpu().numpy()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half)
