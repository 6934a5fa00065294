"""The network that both engines use: which file, what of it is recorded, in which precision it computes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.device import resolve_device
from pipeline.engines.info import EngineInfo, option, unrecorded
from pipeline.errors import InputError, UsageError
from pipeline.media.images import Picture

if TYPE_CHECKING:
    from model.bokehflow import BokehFlowOutput, BokehFlowState, LensBatch

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network, and how it computes; precision is recorded as what "auto" became."""

    checkpoint: str = unrecorded(
        "",
        "a BokehFlow: model.safetensors, a checkpoint or a run folder; the one that comes with the code unless given",
    )
    precision: Precision = option("auto", "bf16 (CUDA only), fp32, or auto: bf16 on CUDA and fp32 elsewhere")

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")

    def resolved(self, device: str) -> "NetworkOptions":
        """With the precision that "auto" is on this device.

        Raises:
            UsageError: bf16 was asked for where there is no CUDA.
        """
        cuda = device.startswith("cuda")
        if self.precision == "bf16" and not cuda:
            raise UsageError(f"precision bf16 is for CUDA devices, got {device}; use precision=fp32 or auto")
        return replace(self, precision=("bf16" if cuda else "fp32") if self.precision == "auto" else self.precision)


class Network:
    """A BokehFlow read from its checkpoint when an engine is made, so that a wrong one stops a phase before it begins."""

    def __init__(self, info: EngineInfo, options: NetworkOptions, device: str) -> None:
        """Raises:
        UsageError: there is no such checkpoint, or none came with the code.
        CheckpointError: it cannot be used, or is a network of another family.
        """
        from model.bokehflow.checkpoint import load_bokehflow
        from model.weights import LICENCE, default_weights
        from pipeline.weights.digest import file_sha256

        self._device = resolve_device(device)
        self.options = options.resolved(self._device)
        loaded = load_bokehflow(
            Path(options.checkpoint) if options.checkpoint else default_weights("bokehflow"), device
        )
        self.path = loaded.path
        self.net = loaded.net.requires_grad_(False)
        # Under one name, whatever the file is called: its content decides.
        licence = "as the checkpoint" if options.checkpoint else LICENCE
        self.info = replace(info, licence=licence, weights={"checkpoint": file_sha256(loaded.path)})

    def through(
        self,
        picture: Picture,
        lens: "LensBatch",
        state: "BokehFlowState | None",
        depth_m: npt.NDArray[np.float32] | None = None,
    ) -> "tuple[BokehFlowOutput, BokehFlowState]":
        """One frame, (H, W, 3) uint8, through the network.

        Args:
            picture: all in focus.
            lens: one, for this frame.
            state: of the frame before; None starts afresh.
            depth_m: (H, W) metres that are known; the network's own where None.

        Raises:
            InputError: what it made is not a number.
        """
        import torch

        from pipeline.media.convert import image_to_tensor
        from pipeline.optics import OpticsError

        known = {} if depth_m is None else {"depth_m": torch.from_numpy(depth_m).to(self._device)[None, None]}
        half = self.options.precision == "bf16"
        with torch.inference_mode(), torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=half):
            frame = image_to_tensor(picture, self._device)[None]
            try:
                out, following = self.net(frame, lens.to(self._device), state, **known)
            except OpticsError as error:  # the picture is bytes and the lens was checked: the network's own depth
                raise InputError(f"{self.path} made something that cannot be rendered ({error})") from None
            if not bool(torch.isfinite(out.bokeh).all() and torch.isfinite(out.depth_m).all()):
                raise InputError(f"{self.path} made a picture or depth that holds NaN or Inf; take another checkpoint")
        return out, following

    def shrink(self) -> bool:
        """Nothing that changes no pixel is left to save: every token of a frame sees every other."""
        return False
