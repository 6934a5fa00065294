"""Numbers in the words of the people who read them: lenses as photographers say them, sizes, distances, licences."""

import math
import re
from typing import Any

DASH = "–"  # what stands where a number is not known
_RESTRICTED = re.compile(r"non[\s_-]*commercial|\bNC\b|research[\s_-]*only|academic[\s_-]*only", re.IGNORECASE)
_UNBOUND = ("none needed", "none")


def number(value: Any) -> float | None:
    """A finite float, or None for anything else that a damaged file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def strings(value: Any) -> tuple[str, ...]:
    """A list of texts; one text, or nothing, where a damaged file holds something else."""
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    return (str(value),) if value else ()


def lens_words(f_m: float, f_number: float, focus_m: float) -> str:
    """A lens as a photographer says it.

    Args:
        f_m: focal length, metres.
        f_number: focal length over the diameter of the opening.
        focus_m: focus distance, metres.

    Example:
        >>> lens_words(0.0501, 1.79, 2.43)
        '50 mm, f/1.8, focus 2.4 m'
    """
    f_mm = f_m * 1000
    focal = f"{f_mm:.0f}" if f_mm >= 10 else f"{f_mm:.1f}".removesuffix(".0")
    stop = f"{f_number:.1f}".removesuffix(".0") if f_number < 9.95 else f"{f_number:.0f}"
    return f"{focal} mm, f/{stop}, focus {metres(focus_m)}"


def metres(value: float | None) -> str:
    """Two significant digits from 10 cm to 10 m, whole metres beyond: 0.85 m, 2.4 m, 16 m."""
    if value is None:
        return DASH
    if value >= 9.95:
        return f"{value:.0f} m"
    return f"{value:.1f} m" if value >= 0.995 else f"{value:.2f} m"


def span(near: float | None, far: float | None) -> str:
    """A range of distances with its unit once: 4.4 to 29 m; 1000 m is how a sky is stored: 4.4 m to sky."""
    if near is None or far is None:
        return DASH
    if far >= 999:
        return "sky" if near >= 999 else f"{metres(near)} to sky"
    return f"{metres(near).removesuffix(' m')} to {metres(far)}"


def moment(text: str) -> str:
    """2026-11-21T00:03:05+0000 without what nobody reads; a text of another form stays as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?", text)
    if not found:
        return text or "at an unknown time"
    zone = found[3] or ""
    return f"{found[1]} {found[2]}" + (" UTC" if zone in ("Z", "+0000", "+00:00") else f" {zone}" if zone else "")


def micrometres(value_m: float | None) -> str:
    """A circle of confusion; one decimal below 10 um."""
    if value_m is None:
        return DASH
    um = value_m * 1e6
    return f"{um:.0f} µm" if um >= 9.95 else f"{um:.1f} µm"


def data_size(num_bytes: float | None) -> str:
    """Decimal units, as disks are sold: 361 MB, 1.2 TB."""
    if num_bytes is None:
        return DASH
    size, units = float(num_bytes), ("B", "kB", "MB", "GB", "TB", "PB")
    for unit in units:
        if size < 999.5 or unit == units[-1]:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit returns")


def decimals(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return DASH if value is None else f"{value * 100:.0f} %"


def count(value: int, singular: str, plural: str = "") -> str:
    """1 scene, 2 scenes, 12,000 frames."""
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


def is_restricted(licence: str) -> bool:
    """Whether a licence forbids commercial use, by its own words."""
    return bool(_RESTRICTED.search(licence))


def is_free(licence: str) -> bool:
    """Whether an engine has no weights, so that nothing binds what it makes."""
    return licence.strip().lower() in _UNBOUND
