"""What a folder of photographs through BokehDiff depends on, checked before anything is read."""

import math
from dataclasses import dataclass, field

from pipeline.errors import UsageError

_CHOICES = {
    "organization": ("folder", "pngdepth"),
    "depth": ("auto", "given", "vda"),
    "variant": ("base", "small"),
}


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """The flags of scripts/bokehdiff.py.

    Args:
        k: px of radius per disparity, where the nearest point of a photograph has disparity 1; 0 leaves it as it is.
        organization: "folder" or "pngdepth".
        depth: of "folder": "auto" (given, else vda), "given" or "vda".
        variant: of the published weights.
        upsample: enlarge what has a shorter side below a tile.
        focus_px: (x, y) in every photograph; None for its subject's mask, else its middle.
        mask_network: ONNX file that finds the subject where nobody masked it; empty for none.
        shifts: three pictures each.
        engine_opts: NAME -> VALUE of the engine.

    Raises:
        UsageError: a value that is not allowed.
    """

    k: float = 20.0
    organization: str = "folder"
    depth: str = "auto"
    variant: str = "base"
    upsample: bool = False
    focus_px: tuple[int, int] | None = None
    mask_network: str = ""
    shifts: bool = False
    engine_opts: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k) and self.k >= 0):
            raise UsageError(f"--K must be finite and >= 0, got {self.k:g}; the published training covered 2 to 96")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"--{name} must be {', '.join(allowed)}, got {getattr(self, name)!r}")
