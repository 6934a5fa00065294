"""What a person chooses: once, when the page is opened, and with every move of a slider."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.optics.lens import CocModel, Lens

LONG_SIDE_PX = (64, 1920)
F_NUMBER = (0.5, 64.0)
FOCAL_MM = (1.0, 2000.0)
FOCUS_M = (0.01, 1000.0)  # what phase 3 stores; 1000 m is a sky
MAX_COC_M = (1e-6, 0.05)  # phase 4 confirms nothing wider


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How the page is served.

    Args:
        port: of the loopback address; 0 takes any that is free.
        long_side_px: longer side of the previews; frames are never enlarged.
        device: auto, cpu, cuda or cuda:N.
        checkpoint: of a trained network that is shown beside the lens renderer; None for none.
    """

    port: int = 8760
    long_side_px: int = 480
    device: str = "auto"
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be in [0, 65535], got {self.port}")
        if not LONG_SIDE_PX[0] <= self.long_side_px <= LONG_SIDE_PX[1]:
            raise UsageError(f"--long_side must be in {list(LONG_SIDE_PX)} pixels, got {self.long_side_px}")


@dataclass(frozen=True, kw_only=True)
class Look:
    """One frame through one lens.

    Args:
        scene: its id.
        frame: its number, from 0.
        f_number, focal_mm, focus_m: the lens.
        max_coc_m: where the focus map saturates, a diameter on the sensor in metres.
        saturate: photograph what the focus map says, as phase 5 does; else the lens without any limit.
    """

    scene: str
    frame: int
    f_number: float
    focal_mm: float
    focus_m: float
    max_coc_m: float
    saturate: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise UsageError(f"{name} must be from {low:g} to {high:g}, got {value:g}")

    def lens(self, coc_model: CocModel) -> Lens:
        """The lens in metres; OpticsError where that model has none of the kind."""
        return Lens(f_m=self.focal_mm / 1000, f_number=self.f_number, focus_m=self.focus_m, coc_model=coc_model)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Look":
        """A look as the page asks for it.

        Raises:
            UsageError: something is missing, no number, or out of range.
        """
        numbers = {name: number_in(query, name) for name in _RANGES}
        return cls(
            scene=word_in(query, "scene"),
            frame=whole_in(query, "frame"),
            saturate=query.get("saturate", "1") != "0",
            **numbers,
        )


_RANGES = {"f_number": F_NUMBER, "focal_mm": FOCAL_MM, "focus_m": FOCUS_M, "max_coc_m": MAX_COC_M}


def word_in(query: Mapping[str, str], name: str) -> str:
    """A word of a query; UsageError where it is missing."""
    if not query.get(name):
        raise UsageError(f"{name} is missing; given were: {', '.join(sorted(query)) or 'none'}")
    return query[name]


def number_in(query: Mapping[str, str], name: str) -> float:
    """A number of a query; UsageError where it is missing or none."""
    try:
        return float(word_in(query, name))
    except ValueError:
        raise UsageError(f"{name} must be a number, got {query[name]!r}") from None


def whole_in(query: Mapping[str, str], name: str) -> int:
    """A whole number of a query; UsageError where it is missing or none."""
    value = number_in(query, name)
    if value != value // 1 or abs(value) > 1e9:
        raise UsageError(f"{name} must be a whole number, got {query[name]!r}")
    return int(value)
