"""The histogram of circles of confusion as plain geometry; the template turns it into inline SVG.

All positions are in the SVG's own units. The template writes them, so nothing here escapes or formats markup.
"""

import math
from dataclasses import dataclass

from pipeline.report.calibration import CalibrationFacts
from pipeline.report.formatting import micrometres

WIDTH, HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _BOTTOM = 44.0, 10.0, 40.0
_ROW = 19.0  # height of a row of labels above the plot
_LABEL_WIDTH = 7.8  # of one character, generously: labels must not touch in any system font
_TICKS = 7


@dataclass(frozen=True, kw_only=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    title: str
    saturated: bool


@dataclass(frozen=True, kw_only=True)
class Tick:
    position: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line with its label. `anchor` is SVG's text-anchor."""

    x: float
    label_x: float
    label_y: float
    anchor: str
    text: str
    kind: str  # "percentile", "recommended" or "confirmed"


@dataclass(frozen=True, kw_only=True)
class Histogram:
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    top: float
    floor: float
    left: float
    right: float
    width: float = WIDTH
    height: float = HEIGHT


def histogram(facts: CalibrationFacts) -> Histogram | None:
    """Lay the histogram out; None when coc_stats.json has none that can be drawn."""
    if not facts.counts or facts.samples <= 0:
        return None
    values = _marked_values(facts)
    first, last = facts.edges_m[0], facts.edges_m[-1]
    if facts.confirmed_m and first < facts.confirmed_m <= 3 * last:
        last = max(last, facts.confirmed_m * 1.04)  # a value confirmed beyond the data must still be seen
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x_of(value_m: float) -> float:
        return round(_LEFT + (value_m - first) / (last - first) * (right - _LEFT), 2)

    visible = [(value, text, kind) for value, text, kind in values if first <= value <= last]
    rows = _rows([(x_of(value), text) for value, text, _ in visible], right)
    top = 8 + _ROW * (max((row for row, _, _ in rows), default=0) + 1)
    shares = [found / facts.samples * 100 for found in facts.counts]
    step = _nice_step(max(shares), 4)
    ceiling = step * math.ceil(max(shares) / step)

    def y_of(share: float) -> float:
        return round(floor - share / ceiling * (floor - top), 2)

    bars = tuple(
        Bar(
            x=x_of(start),
            y=y_of(share),
            width=round(max(0.5, x_of(end) - x_of(start) - 0.8), 2),
            height=round(floor - y_of(share), 2),
            title=f"{start * 1e6:.0f} to {end * 1e6:.0f} µm: {share:.1f} % of pixels",
            saturated=facts.confirmed_m is not None and start >= facts.confirmed_m,
        )
        for start, end, share in zip(facts.edges_m, facts.edges_m[1:], shares, strict=False)
    )
    marks = tuple(
        Mark(x=x_of(value), label_x=label_x, label_y=8 + _ROW * row + 12, anchor=anchor, text=text, kind=kind)
        for (value, text, kind), (row, label_x, anchor) in zip(visible, rows, strict=True)
    )
    x_step = _nice_step((last - first) * 1e6, _TICKS)
    x_values = [x_step * number for number in range(math.ceil(first * 1e6 / x_step), int(last * 1e6 / x_step) + 1)]
    return Histogram(
        bars=bars,
        marks=marks,
        x_ticks=tuple(Tick(position=x_of(value / 1e6), text=f"{value:g}") for value in x_values),
        y_ticks=tuple(
            Tick(position=y_of(step * number), text=f"{step * number:g} %")
            for number in range(round(ceiling / step) + 1)
        ),
        top=top,
        floor=floor,
        left=_LEFT,
        right=right,
    )


def _marked_values(facts: CalibrationFacts) -> list[tuple[float, str, str]]:
    """(metres, label, kind), ascending; a confirmed recommendation is one mark, not two on top of each other."""
    values = []
    for name, value in facts.percentiles_m.items():
        same = facts.confirmed_m is not None and abs(value - facts.confirmed_m) <= 1e-3 * facts.confirmed_m
        if same:
            continue
        kind = "recommended" if name == "p95" else "percentile"
        values.append((value, f"{name} {micrometres(value)}", kind))
    if facts.confirmed_m:
        same_name = next(
            (name for name, value in facts.percentiles_m.items() if abs(value - facts.confirmed_m) <= 1e-3 * value), ""
        )
        name = f" = {same_name}" if same_name else ""
        values.append((facts.confirmed_m, f"confirmed{name}, {micrometres(facts.confirmed_m)}", "confirmed"))
    return sorted(values)


def _rows(labels: list[tuple[float, str]], right: float) -> list[tuple[int, float, str]]:
    """Place labels beside their lines, each in the lowest row where it touches neither a label nor a line's foot.

    Labels stand to the right of their line. Rows are filled from the right, so that a line never runs through the label
    of one further left: a label on the left goes higher when it would reach the next line.

    Returns:
        (row from the top, x, text-anchor) for every label.
    """
    placed: list[tuple[int, float, str]] = []
    starts: dict[int, float] = {}  # row from the bottom -> where its leftmost label or line begins
    for x, text in reversed(labels):
        width = _LABEL_WIDTH * len(text)
        if x + 5 + width > right:
            row = 0
            while starts.get(row, math.inf) < x:
                row += 1
            placed.append((row, x - 5, "end"))
            begin = x - 5 - width
        else:
            row = 0
            while starts.get(row, math.inf) < x + 5 + width:
                row += 1
            placed.append((row, x + 5, "start"))
            begin = x
        for lower in range(row + 1):  # the line runs from its label down through the lower rows
            starts[lower] = min(starts.get(lower, math.inf), begin if lower == row else x)
    highest = max((row for row, _, _ in placed), default=0)
    return [(highest - row, x, anchor) for row, x, anchor in reversed(placed)]


def _nice_step(extent: float, wanted: int) -> float:
    """The step of 1, 2 or 5 times a power of ten that gives about `wanted` ticks."""
    if not extent > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent / wanted))
    return next(power * factor for factor in (1, 2, 5, 10) if extent / (power * factor) <= wanted)
