"""DeblurNet: FLUX.1-dev that sees the blurred frame and draws the sharp one."""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.device import resolve_device
from pipeline.engines.base import SafePoint
from pipeline.engines.genfocus.options import FLUX, FluxOptions
from pipeline.engines.info import EngineInfo, option
from pipeline.media.images import Picture
from pipeline.weights import weights_named

GUIDANCE = 3.5
AUTHOR_SEED = 42
# By the number of conditions: which file, and where the position ids of the conditions are moved (rows, columns).
LORA = {1: "deblurNet.safetensors", 2: "deblurNet_with_pre_deblur.safetensors"}
DELTAS = {1: ((0, 0),), 2: ((0, 32), (0, 0))}
# On this day a network with one condition took the name of one with two.
RENAMED = datetime(2026, 3, 11, tzinfo=UTC)

if TYPE_CHECKING:
    from pipeline.engines.genfocus.load import Parts

_log = logging.getLogger(__name__)


class GenfocusDeblur:
    """One frame at a time; noise from the seed, so that `--temporal resample` has draws to average."""

    info = EngineInfo(
        name="genfocus", role="deblur", version=1, licence=weights_named(FLUX).licence, deterministic=False
    )

    @dataclass(frozen=True, kw_only=True)
    class Options(FluxOptions):
        """With two conditions a black picture, no frame deblurred by other means, comes before the blurred one."""

        conditions: int = option(1, "1, the frame, or 2, a black picture before it", flag="deblur_conditions")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.conditions not in LORA:
                raise ValueError(f"conditions must be 1 or 2, got {self.conditions}")

    @classmethod
    def info_for(cls, options: Options) -> EngineInfo:
        """The published noise is the same for every seed."""
        return replace(cls.info, deterministic=options.author_seeds)

    def __init__(self, options: Options, device: str) -> None:
        from pipeline.engines.genfocus.load import choose_files
        from pipeline.engines.genfocus.network import FluxNetwork

        device = resolve_device(device)
        self.options = options
        self.info, self._files = choose_files(type(self).info, LORA[options.conditions], options)
        self._network = FluxNetwork(self._read, options, device)
        self._device = device

    def _read(self) -> "Parts":
        """Says what is used; a phase's log is open by now."""
        from pipeline.engines.genfocus.load import read_parts
        from pipeline.engines.genfocus.prompts import DEBLUR_PROMPT

        _log.info("%s is used with conditions=%d", self._files.lora.name, self.options.conditions)
        if self.options.conditions == 1:
            warn_of_old_file(self._files.lora)
        return read_parts(self._files, DEBLUR_PROMPT, self.options)

    def shrink(self) -> bool:
        return self._network.plan.shrink()

    def deblur(self, frame: Picture, seed: int, safe_point: SafePoint) -> Picture:
        import torch

        from pipeline.engines.genfocus.latents import Noise
        from pipeline.engines.genfocus.network import Sampling

        safe_point()
        published = self.options.author_seeds
        noise = Noise(AUTHOR_SEED if published else seed, self._device, native=published)
        blurred = self._network.condition(frame)
        images = (blurred,) if self.options.conditions == 1 else (torch.full_like(blurred, -1), blurred)
        sampling = Sampling(
            images=images,
            deltas=DELTAS[self.options.conditions],
            guidance=GUIDANCE,
            noise=noise,
            posterior_noise=noise,  # one stream: first the latents, then a sample per condition
        )
        return self._network.generate(sampling, safe_point)


def warn_of_old_file(path: Path) -> None:
    """Two networks were published as deblurNet.safetensors, with the same layers and sizes: nothing inside tells them apart.

    Only a file that was here before the newer one came is known to be the older.
    """
    if datetime.fromtimestamp(path.stat().st_mtime, UTC) < RENAMED:
        _log.warning(
            "%s is from before %s, when files of this name expected 2 conditions; it is used with 1. Fetch it again, or "
            "rename it to %s and use --deblur_conditions 2",
            path,
            RENAMED.date(),
            LORA[2],
        )


ENGINE = GenfocusDeblur
