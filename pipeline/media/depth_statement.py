"""`depth.json`: what the numbers of delivered depth mean, and the way from there to metres.

Special: far and unknown are different things. Infinite depth and zero disparity are far; NaN and what the source calls invalid
is unknown. What is not said is taken by the conventions below, and a guess is never made about a unit.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.storage.bounded import read_bounded

Kind = Literal["depth", "disparity", "disparity_px", "inverse_depth"]
KINDS: tuple[Kind, ...] = ("depth", "disparity", "disparity_px", "inverse_depth")
UNITS_M = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "um": 1e-6, "km": 1000.0, "in": 0.0254, "ft": 0.3048}
_LIMIT_BYTES = 65536
EXAMPLES = {
    "depth": '{"kind": "depth", "unit": "mm", "invalid": [0]}',
    "disparity": '{"kind": "disparity", "near_m": 1.2, "far_m": 25}',
    "disparity_px": '{"kind": "disparity_px", "focal_px": 3997.7, "baseline_m": 0.193, "doffs_px": 131.1}',
}


@dataclass(frozen=True, kw_only=True)
class DepthStatement:
    """How stored values v become metres.

    Args:
        kind: "depth": v * scale * unit. "inverse_depth": unit / (v * scale). "disparity": v * scale in [0, 1], 1/metres linear
            from 1/far_m to 1/near_m. "disparity_px": focal_px * baseline_m / (v * scale + doffs_px), as Middlebury has it.
        unit: of depth; empty for metres, and for millimetres where depth is stored as integers.
        scale: on stored values; 0 for the usual one: 1, and for "disparity" 1 / the largest integer of its type.
        invalid: stored values that mean unknown; None for the usual ones: 0, and nothing for "disparity".
        far: stored values that mean infinitely far.
        near_m, far_m: of "disparity", metres.
        focal_px, baseline_m, doffs_px: of "disparity_px": focal length and principal points' offset in pixels of the map.
    """

    kind: Kind = "depth"
    unit: str = ""
    scale: float = 0.0
    invalid: tuple[float, ...] | None = None
    far: tuple[float, ...] = ()
    near_m: float = 0.0
    far_m: float = 0.0
    focal_px: float = 0.0
    baseline_m: float = 0.0
    doffs_px: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}; relative depth has no metres")
        if self.unit and self.unit not in UNITS_M:
            raise InputError(f"unit must be one of {', '.join(UNITS_M)}, got {self.unit!r}")
        if not 0 <= self.scale < math.inf:
            raise InputError(f"scale must be positive, got {self.scale}")
        if self.kind == "disparity" and not 0 < self.near_m < self.far_m < math.inf:
            raise InputError(f"a disparity needs 0 < near_m < far_m, got near_m {self.near_m}, far_m {self.far_m}")
        if self.kind == "disparity_px" and not (0 < self.focal_px < math.inf and 0 < self.baseline_m < math.inf):
            raise InputError(f"needs focal_px and baseline_m, both positive, got {self.focal_px} and {self.baseline_m}")

    def metres(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(H, W) as stored -> (H, W) float32 metres: NaN where unknown, +inf where infinitely far, else > 0."""
        values = stored.astype(np.float64)
        unknown = np.isnan(values) | (values < 0) | np.isin(values, self._invalid_values())
        far = np.isin(values, self.far) & ~np.isnan(values)
        if self.kind == "depth":
            metres = values * (self.scale or 1.0) * self._unit_m(stored.dtype)
            unknown |= metres <= 0
        else:
            unknown |= np.isinf(values)
            with np.errstate(divide="ignore", invalid="ignore"):
                metres = self._from_inverse(values, stored.dtype)
            unknown |= ~(metres > 0)
        metres = np.where(far, np.inf, np.where(unknown, np.nan, metres))
        return metres.astype(np.float32)

    def _invalid_values(self) -> tuple[float, ...]:
        if self.invalid is not None:
            return self.invalid
        return () if self.kind == "disparity" or 0.0 in self.far else (0.0,)

    def _unit_m(self, dtype: np.dtype[Any]) -> float:
        return UNITS_M[self.unit or ("mm" if dtype.kind in "iu" else "m")]

    def _from_inverse(self, values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
        if self.kind == "disparity":
            share = values * (self.scale or (1 / np.iinfo(dtype).max if dtype.kind in "iu" else 1.0))
            return 1 / (share * (1 / self.near_m - 1 / self.far_m) + 1 / self.far_m)
        if self.kind == "inverse_depth":
            return UNITS_M[self.unit or "m"] / (values * (self.scale or 1.0))
        return self.focal_px * self.baseline_m / (values * (self.scale or 1.0) + self.doffs_px)


def read_statement(path: Path, default_kind: Kind) -> tuple[DepthStatement, list[str]]:
    """A depth.json, and a line on each key that nothing reads.

    Raises:
        InputError: it does not say how to read the numbers; the message shows an example.
    """
    example = EXAMPLES[default_kind if default_kind in EXAMPLES else "depth"]
    try:
        said = json.loads(read_bounded(path, _LIMIT_BYTES))
        if not isinstance(said, dict):
            raise TypeError("it must be an object")
        known = {item.name for item in fields(DepthStatement)}
        values = {key: _value(key, value) for key, value in said.items() if key in known}
        if default_kind == "disparity" and values.get("kind") == "disparity" and "focal_px" in values:
            values["kind"] = "disparity_px"
        statement = DepthStatement(**{"kind": default_kind, **values})
    except Exception as error:  # a reader of JSON by hand: integers too long for a float, nesting without end
        raise InputError(f"{path} cannot be used ({error}); it should look like {example}") from None
    ignored = sorted(set(said) - known)
    return statement, [f"{path.name}: {', '.join(ignored)} is not read"] if ignored else []


def _value(key: str, value: Any) -> Any:
    if key in ("kind", "unit"):
        return str(value)
    if key in ("invalid", "far"):
        listed = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(float(item) for item in listed)
    return float(value)
