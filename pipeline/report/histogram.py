"""The picture of the calibration: how blur is distributed, and where labels will saturate."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.storage.files import write_shared

_INK, _BAR, _MARK = "#1d2530", "#7fa6c9", "#c2562d"


def draw_histogram(path: Path, stats: dict[str, Any]) -> None:
    """Write the histogram of coc_stats.json as a png.

    Args:
        path: where to.
        stats: the content of coc_stats.json.
    """
    edges = [edge * 1e6 for edge in stats["histogram"]["edges"]]
    shares = [count / stats["counts"]["samples"] * 100 for count in stats["histogram"]["counts"]]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(edges[:-1], shares, width=edges[1] - edges[0], align="edge", color=_BAR, edgecolor="white", linewidth=0.4)
    top = max(shares) * 1.18
    for name in ("p50", "p90", "p95", "p99"):
        value, chosen = stats[name] * 1e6, name == "p95"
        if value > edges[-1]:
            continue
        axes.axvline(
            value, color=_MARK if chosen else _INK, linewidth=2 if chosen else 0.8, linestyle="-" if chosen else ":"
        )
        label = f"{name}  {value:.0f} µm" + (" (recommended)" if chosen else "")
        axes.text(
            value, top, f" {label}", rotation=90, va="top", ha="right", fontsize=8, color=_MARK if chosen else _INK
        )
    axes.set(
        xlabel="circle of confusion, diameter on the sensor (µm)",
        ylabel="share of pixels (%)",
        xlim=(0, edges[-1]),
        ylim=(0, top),
        title=f"{stats['counts']['scenes_sampled']} scenes × {stats['counts']['lens_draws_per_scene']} lenses",
    )
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    write_shared(path, buffer.getvalue())
