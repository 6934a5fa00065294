"""RIFE: intermediate flow by a network, on published weights (Huang and others, ECCV 2022); the network is our own code."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.device import resolve_device
from pipeline.engines.base import SafePoint, with_weights
from pipeline.engines.compiled import compile_parts
from pipeline.engines.info import EngineInfo, option, unrecorded
from pipeline.engines.interpolation.context import Context, TwoFrames, UnitPicture
from pipeline.errors import UsageError
from pipeline.weights import differences, read_torch, require, weights_folder, weights_named

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engines.interpolation.rife.ifnet import IFNet

Version = Literal["4.0", "4.6", "4.25"]
Precision = Literal["auto", "fp16", "fp32"]

# What the files hold beside the network: teachers and estimators that were used in training alone.
_TRAINING_ONLY = ("teacher.", "caltime.", "block_tea.")


class Rife(TwoFrames):
    """Checks its weights when it is made, and looks at two frames."""

    info = EngineInfo(name="rife", role="interpolate", version=1, licence="MIT", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which published network, and how it computes; dtype is recorded as what "auto" became."""

        version: Version = option("4.25", "of the network: 4.0, 4.6 or 4.25")
        dtype: Precision = option("auto", "fp16, fp32, or auto: fp16 on CUDA and fp32 elsewhere")
        compile: bool = unrecorded(
            False, "torch.compile the network: minutes at first, then faster; the last bits may change"
        )
        weights: str = unrecorded("", "folder to look for weights in")

        def __post_init__(self) -> None:
            for name, kind in (("version", Version), ("dtype", Precision)):
                if getattr(self, name) not in get_args(kind):
                    raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")

    def __init__(self, options: Options, device: str) -> None:
        self._device = resolve_device(device)
        if options.dtype == "auto":
            options = replace(options, dtype="fp16" if self._device.startswith("cuda") else "fp32")
        if options.dtype == "fp16" and not self._device.startswith("cuda"):
            raise UsageError(f"dtype fp16 needs a CUDA device, got {self._device}; leave it out or give fp32")
        self.options = options
        [found] = require([weights_named(f"rife_{options.version}.pkl")], weights_folder(options.weights))
        self.info = with_weights(type(self).info, [found])
        self._net = _network(read_torch(found.path), options.version, str(found.path))
        if options.compile:
            compile_parts([self._net], self._device)

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        import torch
        from torch.nn.functional import pad

        from pipeline.media.convert import image_to_tensor

        safe_point()
        self._net.to(self._device, torch.float16 if self.options.dtype == "fp16" else torch.float32)
        pair = torch.stack([image_to_tensor(frame, self._device) for frame in (context.before, context.after)])
        height, width = pair.shape[-2:]
        multiple = self._net.layout.multiple
        below, right = -height % multiple, -width % multiple
        pair = pad(pair, (0, right, 0, below), mode="replicate").to(next(self._net.parameters()).dtype)
        with torch.inference_mode():
            made = self._net(pair[:1], pair[1:], context.t)[0, :, :height, :width]
        picture: UnitPicture = made.float().permute(1, 2, 0).cpu().numpy()
        return picture


def _network(stored: "dict[str, Tensor]", version: str, where: str) -> "IFNet":
    """The network with its weights.

    Raises:
        UsageError: they are those of another version.
    """
    import torch

    from pipeline.engines.interpolation.rife.ifnet import LAYOUTS, IFNet

    with torch.device("meta"):
        net = IFNet(LAYOUTS[version])
    state: dict[str, Any] = {name.removeprefix("module."): value for name, value in stored.items()}
    state = {name: value for name, value in state.items() if not name.startswith(_TRAINING_ONLY)}
    needed, found = ({name: tuple(v.shape) for name, v in one.items()} for one in (net.state_dict(), state))
    wrong = differences(needed, found)
    if wrong:
        raise UsageError(f"{where} holds weights of another version than RIFE {version}: {wrong}")
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


ENGINE = Rife
