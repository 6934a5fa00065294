"""What is random about sample n: which item it shows, and through which window. All of it follows from (seed, n)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from pipeline.errors import UsageError
from pipeline.seeds import stable_seed


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """What a sample is.

    Args:
        clip_frames: T, consecutive frames of a clip, >= 1.
        crop_width, crop_height: pixels, the same window for all frames of a clip; 0 takes the full frame.
        flip: mirror half of the clips left to right. Never upside down: the ground is a cue for depth.
        rendered_only: leave out frames whose photographs were interpolated: a clip is then T rendered frames in order, further
            apart in time.
        seed: of everything random.
    """

    clip_frames: int = 4
    crop_width: int = 256
    crop_height: int = 256
    flip: bool = True
    rendered_only: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clip_frames < 1:
            raise UsageError(f"clip_frames must be at least 1, got {self.clip_frames}")
        if min(self.crop_width, self.crop_height) < 0 or (self.crop_width == 0) != (self.crop_height == 0):
            raise UsageError(
                f"crop_width and crop_height must both be > 0, or both 0 for full frames, "
                f"got {self.crop_width} and {self.crop_height}"
            )

    @property
    def min_size(self) -> tuple[int, int]:
        """(width, height) a frame must have."""
        return max(1, self.crop_width), max(1, self.crop_height)


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a sample is cut out of its full frames, pixels."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.left}+{self.top}{' mirrored' if self.mirrored else ''}"

    def cut(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (C, height, width), a copy: a view would keep the full frame in memory."""
        window = image[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return window.flip(-1) if self.mirrored else window.clone()


def sample_rng(seed: int, number: int) -> np.random.Generator:
    """The source of everything random in sample `number`."""
    return np.random.Generator(np.random.PCG64(stable_seed("clip", seed, number)))


def item_of(seed: int, number: int, num_items: int) -> int:
    """Which item sample `number` shows: each epoch of `num_items` samples is another shuffle of all items.

    Raises:
        IndexError: number is negative.
    """
    if number < 0:
        raise IndexError(f"sample numbers start at 0, got {number}")
    epoch, position = divmod(number, num_items)
    return _shuffled(seed, epoch, num_items)[position]


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, num_items: int) -> list[int]:
    rng = np.random.Generator(np.random.PCG64(stable_seed("epoch", seed, epoch)))
    return rng.permutation(num_items).tolist()


def draw_window(rng: np.random.Generator, settings: ClipSettings, width: int, height: int) -> Window:
    """A random window of the settings' size in a frame of width x height, which must hold it."""
    crop_width, crop_height = settings.crop_width or width, settings.crop_height or height
    assert crop_width <= width and crop_height <= height, "callers check sizes, and name the file"
    return Window(
        left=int(rng.integers(width - crop_width + 1)),
        top=int(rng.integers(height - crop_height + 1)),
        width=crop_width,
        height=crop_height,
        mirrored=settings.flip and bool(rng.integers(2)),
    )
