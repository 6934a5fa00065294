"""What the page says of coc_stats.json: the numbers, who confirmed which value and when, or what is wrong with the file."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.hints import phase_command
from pipeline.optics.lens import coc_to_radius_px
from pipeline.report.formatting import number
from pipeline.storage.files import read_json

PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """coc_stats.json as the page shows it. All diameters in metres on the sensor.

    Args:
        state: "waiting" (not measured), "damaged", "unconfirmed", "confirmed", or "stale" (confirmed for other depth).
        problem: what is wrong, when damaged or stale.
        command: what the operator runs next; empty when there is nothing to do.
        edges_m, counts: the histogram, len(edges_m) == len(counts) + 1; empty when it cannot be drawn.
        samples: circles of confusion measured, those beyond the histogram included.
    """

    state: str
    problem: str = ""
    command: str = ""
    percentiles_m: dict[str, float] = field(default_factory=dict)
    max_m: float | None = None
    recommended_m: float | None = None
    confirmed_m: float | None = None
    confirmed_by: str = ""
    confirmed_at: str = ""
    took_recommendation: bool = False
    edges_m: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    samples: float = 0.0
    scenes_sampled: int = 0
    scenes_with_depth: int = 0
    draws: int = 0
    sensor_width_mm: float | None = None
    fingerprint: str = ""

    def share_above(self, coc_m: float) -> float | None:
        """The share of samples above a diameter, linear inside a bin; None without a histogram."""
        if not self.counts or self.samples <= 0:
            return None
        below = 0.0
        for left, right, found in zip(self.edges_m, self.edges_m[1:], self.counts, strict=False):
            below += found * min(1.0, max(0.0, (coc_m - left) / (right - left)))
        return max(0.0, 1 - below / self.samples)

    def radius_px(self, coc_m: float, width_px: int) -> float | None:
        """The blur radius that a diameter on the sensor makes in a frame of this width."""
        if not self.sensor_width_mm or width_px <= 0:
            return None
        return float(coc_to_radius_px(coc_m, width_px / self.sensor_width_mm))


def read_calibration(path: Path) -> CalibrationFacts:
    """Read coc_stats.json as far as it can be read; never raises for what the file holds."""
    try:
        stats = read_json(path, "the calibration")
    except FileNotFoundError:
        return CalibrationFacts(state="waiting", command=phase_command("calibrate"))
    except (InputError, OSError) as error:
        return CalibrationFacts(
            state="damaged", problem=str(error), command=phase_command("calibrate", "--on_stale", "redo")
        )
    confirmed_m = number(stats.get("confirmed_max_coc"))
    confirmation = _mapping(stats.get("confirmed"))
    counts = _mapping(stats.get("counts"))
    edges_m, bins = _histogram(_mapping(stats.get("histogram")))
    percentiles_m = {name: value for name in PERCENTILES if (value := number(stats.get(name))) is not None}
    problem = ""
    if not edges_m or len(percentiles_m) < len(PERCENTILES):
        problem = f"{path} lacks its histogram or a percentile; it was changed by hand or by another program"
    state = "damaged" if problem else "confirmed" if confirmed_m else "unconfirmed"
    command = {
        "damaged": phase_command("calibrate", "--on_stale", "redo"),
        "unconfirmed": phase_command("calibrate", "--confirm"),
    }.get(state, "")
    return CalibrationFacts(
        state=state,
        problem=problem,
        command=command,
        percentiles_m=percentiles_m,
        max_m=number(stats.get("max")),
        recommended_m=number(stats.get("recommended_max_coc")),
        confirmed_m=confirmed_m,
        confirmed_by=str(confirmation.get("by", "")),
        confirmed_at=str(confirmation.get("at", "")),
        took_recommendation=confirmation.get("took_recommendation") is True,
        edges_m=edges_m,
        counts=bins,
        samples=number(counts.get("samples")) or sum(bins),
        scenes_sampled=int(number(counts.get("scenes_sampled")) or 0),
        scenes_with_depth=int(number(counts.get("scenes_with_depth")) or 0),
        draws=int(number(counts.get("lens_draws_per_scene")) or 0),
        sensor_width_mm=number(_mapping(_mapping(stats.get("fields")).get("settings")).get("sensor_width_mm")),
        fingerprint=str(stats.get("fingerprint", "")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _histogram(stored: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges and counts; both empty when they do not make a histogram."""
    edges, counts = stored.get("edges"), stored.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1 or not counts:
        return (), ()
    known_edges = [value for edge in edges if (value := number(edge)) is not None]
    known_counts = [value for found in counts if (value := number(found)) is not None and value >= 0]
    rising = all(left < right for left, right in pairwise(known_edges))
    if len(known_edges) != len(edges) or len(known_counts) != len(counts) or not rising or sum(known_counts) <= 0:
        return (), ()
    return tuple(known_edges), tuple(known_counts)
