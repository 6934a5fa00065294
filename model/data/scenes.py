"""Clips from generated scenes: T consecutive frames, a random crop and flip, and one of the scene's lens sets.

Sample n is the same on every machine, in every process and after every resume: all that is random about it comes from
(seed, n), never from a rank or a worker. The numbers go on without end; one epoch shows every scene and set once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from model.data.samples import Clip
from model.data.sampling import ClipSettings, Window, draw_window, item_of, sample_rng
from model.data.scene_manifest import SceneManifest, TrainingScene
from pipeline.errors import InputError, UsageError
from pipeline.media import depth_files
from pipeline.media.convert import image_to_tensor
from pipeline.media.images import read_sharp


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What sample n is, before anything is read."""

    scene: TrainingScene
    set_index: int
    numbers: tuple[int, ...]
    window: Window

    @property
    def first_frame(self) -> int:
        return self.numbers[0]

    @property
    def name(self) -> str:
        return f"{self.scene.scene_id} set {self.set_index} frames {self.numbers[0]}-{self.numbers[-1]} {self.window}"


class ClipDataset(Dataset[Clip]):
    """Sample n of an endless, seeded stream; `len` is one epoch: every scene and lens set once.

    Args:
        manifest: the scenes, as `find_scenes` gives them with `min_frames` and `min_size` of the settings.
        settings: what a sample is.

    Raises:
        UsageError: a scene has fewer frames or pixels than a sample needs.
    """

    def __init__(self, manifest: SceneManifest, settings: ClipSettings) -> None:
        self.settings = settings
        self._pairs = [(scene, index) for scene in manifest.scenes for index in range(len(scene.sets))]
        for scene in manifest.scenes:
            width, height = settings.min_size
            count = len(self._frames(scene))
            if count < settings.clip_frames or scene.width < width or scene.height < height:
                which = "rendered frames" if settings.rendered_only else "frames"
                raise UsageError(
                    f"scene {scene.scene_id} has {count} {which} of {scene.width}x{scene.height}; a sample "
                    f"needs {settings.clip_frames} of {width}x{height}: choose a smaller crop or shorter clips"
                )

    def __len__(self) -> int:
        return len(self._pairs)

    def _frames(self, scene: TrainingScene) -> Sequence[int]:
        return scene.rendered_frames if self.settings.rendered_only else range(scene.num_frames)

    def choose(self, number: int) -> Choice:
        """What sample `number` (>= 0) is; reads nothing."""
        scene, set_index = self._pairs[item_of(self.settings.seed, number, len(self._pairs))]
        rng = sample_rng(self.settings.seed, number)
        frames, length = self._frames(scene), self.settings.clip_frames
        first = int(rng.integers(len(frames) - length + 1))
        return Choice(
            scene=scene,
            set_index=set_index,
            numbers=tuple(frames[first : first + length]),
            window=draw_window(rng, self.settings, scene.width, scene.height),
        )

    def __getitem__(self, number: int) -> Clip:
        """Read sample `number`.

        Raises:
            InputError: a file is gone, damaged or not what the metadata says; the message names sample and file.
        """
        choice = self.choose(number)
        try:
            return read_clip(choice)
        except InputError as error:
            raise InputError(f"sample {number} ({choice.name}): {error}") from None


def read_clip(choice: Choice) -> Clip:
    """Read what was chosen; InputError names the file that cannot be used."""
    found = choice.scene
    numbers = choice.numbers
    lens_set = found.sets[choice.set_index]
    return Clip(
        name=choice.name,
        frames=torch.stack([choice.window.cut(read_frame(found, number)) for number in numbers]),
        bokeh=torch.stack([choice.window.cut(read_bokeh(found, choice.set_index, number)) for number in numbers]),
        depth_m=torch.stack([choice.window.cut(read_depth(found, number)) for number in numbers]),
        lens=lens_set.lens_at(numbers[0]),
        px_per_mm=found.px_per_mm,
        max_radius_px=found.max_radius_px,
        pull_m=tuple(lens_set.pull_m[number] for number in numbers) if lens_set.pull_m else (),
    )


def _sized(image: Tensor, found: TrainingScene, path: object) -> Tensor:
    if tuple(image.shape[-2:]) != (found.height, found.width):
        raise InputError(
            f"{path} is {image.shape[-1]}x{image.shape[-2]}, metadata.json says {found.width}x{found.height}"
        )
    return image


def read_frame(found: TrainingScene, number: int) -> Tensor:
    """(3, H, W) the sharp frame in [0, 1]; InputError names a file that cannot be used."""
    path = found.scene.sharp_path(number)
    return _sized(image_to_tensor(read_sharp(path)), found, path)


def read_bokeh(found: TrainingScene, set_index: int, number: int) -> Tensor:
    """(3, H, W) the photograph of a lens set in [0, 1]; InputError names a file that cannot be used."""
    path = found.scene.bokeh_path(set_index, number)
    return _sized(image_to_tensor(read_sharp(path)), found, path)


def read_depth(found: TrainingScene, number: int) -> Tensor:
    """(1, H, W) float32 metres, finite and > 0; InputError names a file that cannot be used."""
    path = found.scene.depth_path(number)
    depth = torch.from_numpy(depth_files.read_depth(path).astype(np.float32))[None]
    bad = int((~(torch.isfinite(depth) & (depth > 0))).sum())
    if bad:
        raise InputError(f"{path} has {bad} values that are not finite and > 0; run phase 6, which finds such files")
    return _sized(depth, found, path)
