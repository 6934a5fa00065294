"""Samples for networks that estimate focus: a photograph, the sharp frame, depth, the focus map and the lens.

One sample is one frame through one lens set. With `verify=True` each stored focus map is computed again from depth and
metadata and must come out the same, to the last bit: the check that a label still belongs to its image.
"""

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from model.data.roi import RoiKind, check_kind, choose_box
from model.data.scene_manifest import SceneManifest, TrainingScene
from model.data.scenes import read_bokeh, read_depth, read_frame
from pipeline.errors import InputError
from pipeline.hints import phase_command
from pipeline.media.convert import tensor_to_image
from pipeline.media.depth_files import read_npz
from pipeline.optics.labels import label_of, signed_label_px
from pipeline.seeds import stable_seed


class FocusSample(TypedDict):
    """What a focus network is shown, and what it should find. Default collation stacks frames of one size."""

    frame: Tensor  # (3, H, W) all in focus, [0, 1]
    bokeh: Tensor  # (3, H, W) the photograph, [0, 1]
    depth_m: Tensor  # (1, H, W) metres
    focus_map: Tensor  # (1, H, W) 1 in focus, 0 at least max_coc out of focus
    signed_px: (
        Tensor  # (1, H, W) blur radius in pixels, negative in front of the focus plane, saturated as the photograph is
    )
    roi: Tensor  # (4,) int64: left, top, right, bottom in pixels, half-open
    f_m: Tensor  # scalars, float32
    f_number: Tensor
    focus_m: Tensor
    max_coc_m: Tensor
    px_per_mm: Tensor  # of the full frame
    name: str


class FocusDataset(Dataset[FocusSample]):
    """Every frame of every lens set of a split, by number.

    Args:
        manifest: the scenes, as `find_scenes` gives them.
        roi: "full", "random" or "saliency"; see `model.data.roi`.
        verify: compute every focus map again and compare.
        seed: of the boxes; `set_epoch` changes them from one epoch to the next.

    Raises:
        UsageError: roi is none of the three.
    """

    def __init__(
        self, manifest: SceneManifest, *, roi: RoiKind = "random", verify: bool = False, seed: int = 0
    ) -> None:
        check_kind(roi)
        self._roi, self._verify, self._seed, self._epoch = roi, verify, seed, 0
        self._items = [
            (scene, set_index, number)
            for scene in manifest.scenes
            for set_index in range(len(scene.sets))
            for number in range(scene.num_frames)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Draw other boxes from now on; the boxes of one epoch are always the same."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> FocusSample:
        """Read one sample.

        Raises:
            InputError: a file cannot be used or, with verify, a focus map is not its depth's; the message names it.
        """
        scene, set_index, number = self._items[index]
        name = f"{scene.scene_id} set {set_index} frame {number}"
        chosen = scene.sets[set_index]
        lens = chosen.lens_at(number)
        frame, depth = read_frame(scene, number), read_depth(scene, number)
        stored = self._read_focus(scene, set_index, number, depth)
        rng = np.random.Generator(np.random.PCG64(stable_seed("roi", name, self._seed, self._epoch)))
        return FocusSample(
            frame=frame,
            bokeh=read_bokeh(scene, set_index, number),
            depth_m=depth,
            focus_map=stored,
            signed_px=signed_label_px(depth, lens, scene.px_per_mm, scene.max_radius_px),
            roi=torch.tensor(choose_box(self._roi, tensor_to_image(frame), rng)),
            f_m=torch.tensor(lens.f_m),
            f_number=torch.tensor(lens.f_number),
            focus_m=torch.tensor(lens.focus_m),
            max_coc_m=torch.tensor(chosen.max_coc_m),
            px_per_mm=torch.tensor(scene.px_per_mm),
            name=name,
        )

    def _read_focus(self, scene: TrainingScene, set_index: int, number: int, depth: Tensor) -> Tensor:
        path = scene.scene.focus_path(set_index, number)
        stored = read_npz(path, "focus_map")
        if stored.shape != tuple(depth.shape[1:]) or stored.dtype != np.float16:
            raise InputError(f"{path} must be float16 {tuple(depth.shape[1:])}, got {stored.dtype} {stored.shape}")
        if self._verify:
            chosen = scene.sets[set_index]
            # float16 values that were widened when they were read, so this narrows them without a loss
            again = label_of(depth[0].numpy().astype(np.float16), chosen.lens_at(number), chosen.max_coc_m)
            wrong = int((again != stored).sum())
            if wrong:
                error = float(np.abs(again.astype(np.float32) - stored.astype(np.float32)).max())
                raise InputError(
                    f"{path} is not the focus map of its depth and lens: {wrong} pixels differ, by {error:.3g} at most; "
                    f"run phase 6 and what it names: {phase_command('validate', '--out_root', str(scene.scene.dir.parent))}"
                )
        return torch.from_numpy(stored.astype(np.float32))[None]
