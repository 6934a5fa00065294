"""Does a photograph carry the blur that its label says? Phase 6's --check_blur.

The sharp frame is there, so nothing has to be guessed from the photograph alone: the frame is photographed anew with the
label's radii, and with radii that are smaller and larger by steps. Where these differ, the step that comes closest to the
photograph says how much blur there really is. No weights and no model of the engine: whoever rendered, the right step is 0.

The frame's neighbours, photographed with their own labels, are held against it too: a picture that is closer to another frame
than to its own stands at the wrong place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.media.arrays import Picture
from pipeline.media.depth_files import read_npz
from pipeline.media.images import read_sharp
from pipeline.storage.scene import LensSet, Scene

if TYPE_CHECKING:
    from torch import Tensor

# (factor, offset in px) of the label's radius, from sharp to much blurred; the label itself in the middle.
STEPS = ((0.0, 0.0), (0.4, -1.0), (0.65, -0.5), (1.0, 0.0), (1.4, 0.6), (1.9, 1.5), (2.6, 3.0))
RIGHT_STEP = STEPS.index((1.0, 0.0))
TOLERANCE = 1  # steps: what another opening, or an engine of its own taste, may differ by
WINDOW_PX = 7  # over which a difference is averaged before steps are compared
TELLING = 2.5 / 255  # differences between steps that are smaller say nothing
MIN_TELLING_SHARE = 0.005  # of the pixels; with fewer a frame is not judged
MIN_AGREEMENT = 0.85  # of the telling pixels, mean over the frames of a set
MAX_BIAS = 0.6  # steps, likewise
OTHER_FRAME_SHARE = 0.8  # another frame must be closer than this share of the own one's difference
FRAMES_PER_SET = 3

Radii = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BlurFrame:
    """One frame as its files have it.

    Args:
        sharp, photo: (H, W, 3) uint8.
        signed_px: (H, W) radius that the label stands for, negative in front of the focus plane.
        depth_m: (H, W) what hides what.
    """

    sharp: Picture
    photo: Picture
    signed_px: Radii
    depth_m: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FrameBlur:
    """What one photograph shows.

    Args:
        telling: share of the pixels where a wrong radius would be seen.
        agreement: share of those whose radius is the label's, within a step; NaN where none tell.
        bias: mean step, > 0 where more blur is seen than the label says; NaN likewise.
        closer_frame: another frame that the picture is closer to than to its own, or None.
    """

    telling: float
    agreement: float
    bias: float
    closer_frame: int | None

    @property
    def judged(self) -> bool:
        return self.telling >= MIN_TELLING_SHARE


@dataclass(frozen=True, kw_only=True)
class SetBlur:
    """What the looked-at photographs of one lens set show together."""

    frames: Mapping[int, FrameBlur]

    @property
    def judged(self) -> list[FrameBlur]:
        return [one for one in self.frames.values() if one.judged]

    @property
    def agreement(self) -> float:
        """Mean over the judged frames; NaN without any."""
        return float(np.mean([one.agreement for one in self.judged])) if self.judged else float("nan")

    @property
    def bias(self) -> float:
        """Mean step over the judged frames, > 0 where there is more blur than the label says; NaN without any."""
        return float(np.mean([one.bias for one in self.judged])) if self.judged else float("nan")

    def problems(self) -> list[str]:
        """What is wrong, in words; nothing when the blur is the label's or cannot be seen."""
        moved = {number: one.closer_frame for number, one in self.frames.items() if one.closer_frame is not None}
        if moved:
            listed = ", ".join(f"frame {number} shows frame {other}" for number, other in moved.items())
            return [f"pictures stand at other frames' places: {listed}"]
        if not self.judged or (self.agreement >= MIN_AGREEMENT and abs(self.bias) <= MAX_BIAS):
            return []
        tends = (
            "" if abs(self.bias) <= MAX_BIAS else f", and there is {'more' if self.bias > 0 else 'less'} than it says"
        )
        worst = min(self.frames, key=lambda number: (not self.frames[number].judged, self.frames[number].agreement))
        return [
            f"the blur is the label's at {self.agreement:.0%} of the pixels that tell (at least {MIN_AGREEMENT:.0%} is "
            f"right){tends}; worst in frame {worst}"
        ]


def frames_to_check(num_frames: int, count: int = FRAMES_PER_SET) -> list[int]:
    """`count` frames spread over a clip, its ends included; all of a shorter one."""
    return sorted({round(place) for place in np.linspace(0, num_frames - 1, min(count, num_frames))})


def others_of(frame: int, num_frames: int) -> list[int]:
    """The frames that a picture is most likely mistaken for: its neighbours, and its place counted from the end."""
    near = (frame - 1, frame + 1, num_frames - 1 - frame)
    return sorted({other for other in near if 0 <= other < num_frames and other != frame})


def check_set(read: Callable[[int], BlurFrame], num_frames: int) -> SetBlur:
    """Look at some photographs of a lens set.

    Args:
        read: a frame by its number.
        num_frames: of the scene.
    """
    found = {}
    for number in frames_to_check(num_frames):
        own = read(number)
        found[number] = check_frame(own, {other: read(other) for other in others_of(number, num_frames)})
    return SetBlur(frames=found)


def check_frame(own: BlurFrame, others: Mapping[int, BlurFrame]) -> FrameBlur:
    """Hold one photograph against its sharp frame blurred by steps, and against other frames with their labels."""
    import torch

    with torch.inference_mode():
        photo = _tensor(own.photo)
        steps = torch.stack([_difference(_photographed(own, *step), photo) for step in STEPS])
        telling = (steps.amax(0) - steps.amin(0)) > TELLING
        # Of steps that are equally near the label's own is believed: a radius of 0 is 0 at any factor.
        favoured = steps.clone()
        favoured[RIGHT_STEP] -= 0.25 / 255
        step = favoured.argmin(0)[telling] - RIGHT_STEP
        share = float(telling.float().mean())
        agreement = float((step.abs() <= TOLERANCE).float().mean()) if step.numel() else float("nan")
        bias = float(step.float().mean()) if step.numel() else float("nan")
        return FrameBlur(
            telling=share, agreement=agreement, bias=bias, closer_frame=_closer(own, others, steps[RIGHT_STEP])
        )


def _closer(own: BlurFrame, others: Mapping[int, BlurFrame], difference: "Tensor") -> int | None:
    photo = _tensor(own.photo)
    least, closest = OTHER_FRAME_SHARE * float(difference.mean()), None
    for number, other in others.items():
        if other.sharp.shape != own.sharp.shape:
            continue
        found = float(_difference(_photographed(other, 1.0, 0.0), photo).mean())
        if found < least:
            least, closest = found, number
    return closest


def _tensor(picture: Picture) -> "Tensor":
    from pipeline.media.convert import image_to_tensor

    return image_to_tensor(picture)[None]


def _photographed(frame: BlurFrame, factor: float, offset_px: float) -> "Tensor":
    """(1, 3, H, W) the sharp frame with the label's radii, changed by a factor and an offset."""
    import torch

    from pipeline.optics import render_lens_blur

    signed = torch.from_numpy(frame.signed_px)[None, None]
    radius = (signed.abs() * factor + offset_px).clamp(min=0)
    side = torch.where(signed < 0, -1.0, 1.0)
    return render_lens_blur(_tensor(frame.sharp), side * radius, order=torch.from_numpy(frame.depth_m)[None, None])


def _difference(made: "Tensor", photo: "Tensor") -> "Tensor":
    """(H, W) mean absolute difference in sRGB over a small window."""
    from torch.nn import functional

    difference = (made.clamp(0, 1) - photo).abs().mean(1, keepdim=True)
    return functional.avg_pool2d(difference, WINDOW_PX, stride=1, padding=WINDOW_PX // 2, count_include_pad=False)[0, 0]


def listed(sets: Sequence[SetBlur]) -> list[dict[str, object]]:
    """For the validation report: agreement and bias of every set, None where no frame tells anything."""
    return [
        {
            "agreement": round(one.agreement, 4) if one.judged else None,
            "bias": round(one.bias, 4) if one.judged else None,
            "frames": sorted(one.frames),
            "judged": len(one.judged),
        }
        for one in sets
    ]


def read_blur_frame(scene: Scene, set_index: int, lens_set: LensSet, per_mm: float, frame: int) -> BlurFrame:
    """One frame of a lens set, with the radius that its stored label stands for."""
    import torch

    from pipeline.optics import focus_map_to_defocus_px

    depth = read_npz(scene.depth_path(frame), "depth").astype(np.float32)
    label = read_npz(scene.focus_path(set_index, frame), "focus_map").astype(np.float32)
    signed = focus_map_to_defocus_px(
        torch.from_numpy(label), torch.from_numpy(depth), lens_set.lens_at(frame).focus_m, lens_set.max_coc_m, per_mm
    )
    return BlurFrame(
        sharp=read_sharp(scene.sharp_path(frame)),
        photo=read_sharp(scene.bokeh_path(set_index, frame)),
        signed_px=signed.numpy(),
        depth_m=depth,
    )
