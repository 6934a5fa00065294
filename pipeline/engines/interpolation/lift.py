"""LIFT: a frame from up to fourteen around it, by a network of `model.lift` that somebody trained (docs/lift.md).

Every frame is encoded once while a film slides by: its features are kept for as long as it is in the context, the fine ones
only until it can be a neighbour of the target no more. Frames are told apart by the memory they lie in, so that a tile of a
frame is not taken for another one; tiles of one instant follow each other and are therefore encoded anew.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.device import resolve_device
from pipeline.engines.base import SafePoint
from pipeline.engines.compiled import compile_parts
from pipeline.engines.info import EngineInfo, option, unrecorded
from pipeline.engines.interpolation.context import Context, UnitPicture
from pipeline.errors import InputError, UsageError
from pipeline.media.arrays import AnyPicture

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from model.lift.encoder import Features
    from model.lift.network import LiftNet

Precision = Literal["fp32", "bf16"]

_Memory = tuple[int, tuple[int, ...], tuple[int, ...], str]


@dataclass
class _Encoded:
    """Holds the picture too: as long as it lives, no other one lies where it does."""

    picture: AnyPicture
    features: "Features"


class Lift:
    """Reads its checkpoint when it is made; in float32 unless asked for bfloat16, which leaves flows and warps in float32."""

    info = EngineInfo(name="lift", role="interpolate", version=1, licence="as the checkpoint", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """The network, whose content goes into fingerprints and not its place, and how it computes."""

        checkpoint: str = unrecorded("", "of a LIFT network: model.safetensors, a checkpoint folder or a run folder")
        dtype: Precision = option("fp32", "fp32, or bf16: autocast, for GPUs that are faster with it")
        compile: bool = unrecorded(
            False, "torch.compile the network: minutes at first, then faster; the last bits may change"
        )

        def __post_init__(self) -> None:
            if self.dtype not in get_args(Precision):
                raise ValueError(f"dtype must be one of {', '.join(get_args(Precision))}, got {self.dtype!r}")

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        if not options.checkpoint:
            raise UsageError(
                "the interpolator lift needs a network: give --checkpoint a model.safetensors, a checkpoint or a run folder "
                "(in other scripts the option checkpoint=PATH)"
            )
        self._device = resolve_device(device)
        self._net, self._path, digest = _network(Path(options.checkpoint), self._device)
        if options.compile:  # the prior between these parts is OpenCV's
            parts = (self._net.encoder, self._net.temporal, self._net.flow, self._net.synthesis, self._net.refinement)
            compile_parts([part for part in parts if part is not None], self._device)
        self.info = replace(type(self).info, weights={self._path.name: digest})
        self._ring: dict[_Memory, _Encoded] = {}

    @property
    def reach(self) -> tuple[int, int]:
        """As many frames as it was trained with; the two neighbours without a context."""
        config = self._net.config
        return (config.frames_before, config.frames_after) if config.use_context else (1, 1)

    def check_t(self, t: float) -> None:
        if not 0 < t < 1:
            raise InputError(f"t must be in (0, 1), got {t}")
        low, high = self._net.config.t_min, self._net.config.t_max
        if not low - 1e-6 <= t <= high + 1e-6:
            trained = f"at t = {low:g} alone" if low == high else f"for t in [{low:g}, {high:g}]"
            raise UsageError(
                f"{self._path} was trained to make frames {trained}, got t = {t:.4g}: take --factor 2, another "
                "checkpoint, or another interpolator"
            )

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        import torch

        self.check_t(context.t)
        pictures, offsets = self._nearest(context)
        with torch.inference_mode(), self._autocast():
            features = self._encoded(pictures, offsets, safe_point)
            safe_point()
            out = self._net.forward_features(
                features,
                torch.tensor([offsets], device=self._device),
                torch.ones(1, len(offsets), dtype=torch.bool, device=self._device),
                torch.tensor([context.t], device=self._device),
            )
        if not bool(torch.isfinite(out.image).all()):
            raise InputError(f"{self._path} made a picture of this clip that holds NaN or Inf; take another checkpoint")
        picture: UnitPicture = out.image[0].float().permute(1, 2, 0).cpu().numpy()
        return picture

    def _autocast(self) -> "AbstractContextManager[object]":
        import torch

        kind = torch.device(self._device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.options.dtype == "bf16")

    def shrink(self) -> bool:
        return False

    def _nearest(self, context: Context) -> tuple[list[AnyPicture], list[float]]:
        """The present frames within reach, in order of time, and their offsets in the unit of the training: the distance of
        neighbouring frames, whatever numbers they have (every second frame of a clip is 0, 2, 4)."""
        steps = [later - early for early, later in zip(context.indices, context.indices[1:], strict=False)]
        unit = median_low(steps)  # a hole at the target, or a frame more somewhere, changes nothing
        found = [
            (frame, offset / unit)
            for frame, offset in zip(context.frames, context.offsets, strict=True)
            if frame is not None
        ]
        early, late = [item for item in found if item[1] < 0], [item for item in found if item[1] > 0]
        kept = early[-self.reach[0] :] + late[: self.reach[1]]
        return [frame for frame, _ in kept], [offset for _, offset in kept]

    def _encoded(self, pictures: list[AnyPicture], offsets: list[float], safe_point: SafePoint) -> "list[Features]":
        from model.lift.network import drop
        from pipeline.media.convert import image_to_tensor

        before = max(place for place, offset in enumerate(offsets) if offset < 0)
        wanted = [_memory(picture) for picture in pictures]
        for memory in set(self._ring) - set(wanted):
            del self._ring[memory]
        for place, (memory, picture) in enumerate(zip(wanted, pictures, strict=True)):
            fine = place >= before
            held = self._ring.get(memory)
            if held is None or (fine and held.features.s1 is None):  # the latter when somebody goes back in time
                safe_point()
                made = self._net.encode(image_to_tensor(picture, self._device)[None], neighbour=fine)
                self._ring[memory] = _Encoded(picture, made)
            elif not fine and held.features.s1 is not None:
                held.features = drop(held.features)
        return [self._ring[memory].features for memory in wanted]


def _memory(picture: AnyPicture) -> _Memory:
    return picture.ctypes.data, picture.shape, picture.strides, str(picture.dtype)


def _network(checkpoint: Path, device: str) -> "tuple[LiftNet, Path, str]":
    """The network, its file and the SHA-256 of that.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be used, is of another version, or a network of another family.
    """
    from model.errors import CheckpointError
    from model.lift.network import LiftNet
    from model.training.network_file import family_of, find_model, load_model
    from pipeline.weights.digest import file_sha256

    file = find_model(checkpoint)
    family = family_of(file)
    if family == "lift":
        net = load_model(file, device).net
        if isinstance(net, LiftNet):
            return net.requires_grad_(False), file, file_sha256(file)
    raise CheckpointError(f"{file} is a {family} network; the interpolator lift needs one of lift")


ENGINE = Lift
