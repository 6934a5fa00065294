"""Scores of methods over clips: how figures of single frames are pooled, and what an evaluation consists of.

PSNR is pooled: the mean squared error over all frames first, decibels last. A lens that blurs nothing leaves frames whose
photograph *is* the frame; their PSNR is infinite, and a mean of decibels would be infinite with it. `psnr_frame_db`, the mean
over frames that papers print, therefore counts each frame as 60 dB at most (rounding to 8 bits alone is 58.9 dB).
"""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from model.evaluation import metrics
from model.evaluation.distances import Distance
from pipeline.measures import psnr_of_mse
from pipeline.media.images import Picture
from pipeline.reporter import Reporter

FRAME_CAP_DB = 60.0
_REGION = "mse in "  # of a tally's sums over pixels of a region; reported as psnr_<region>_db
_ORDER = (
    "ssim",
    "lpips",
    "st_lpips",
    "temporal",
    "abs_rel",
    "delta1",
    "depth_temporal",
)  # of the usual figures; others follow


@dataclass
class Tally:
    """Sums over frames of what one method scored; NaN (a depth figure without a valid pixel) is not counted."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        if not math.isnan(value):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def add_region(self, region: str, total: float, pixels: int) -> None:
        """A sum of squared errors over so many pixels of a region, pooled over all of them; none are not counted."""
        if pixels:
            name = f"{_REGION}{region}"
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + pixels

    def add_image(self, image: Tensor, truth: Tensor, distances: Mapping[str, Distance] = MappingProxyType({})) -> None:
        """MSE, capped PSNR, SSIM and learned distances of one (1, 3, H, W) image in [0, 1]."""
        error = float(metrics.mse(image, truth))
        self.add("mse", error)
        self.add("psnr_frame_db", min(FRAME_CAP_DB, psnr_of_mse(error)))
        self.add("ssim", float(metrics.ssim(image, truth)))
        for name, distance in distances.items():
            self.add(name, distance(image, truth))

    def merge(self, other: "Tally") -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.counts[name] if self.counts.get(name) else None

    def scores(self) -> dict[str, float | None]:
        """For JSON: None where nothing was measured; a pooled PSNR of equal images is None beside an MSE of 0."""
        pooled = self.mean("mse")
        found: dict[str, float | None] = {
            "psnr_db": None if not pooled else psnr_of_mse(pooled),
            "psnr_frame_db": self.mean("psnr_frame_db"),
            "mse": pooled,
        }
        names = [name for name in _ORDER if name in self.counts]
        names += [n for n in self.counts if n not in found and n not in _ORDER and not n.startswith(_REGION)]
        found |= {name: self.mean(name) for name in names}
        for name in self.counts:
            if name.startswith(_REGION):
                error = self.mean(name)
                found[f"psnr_{name.removeprefix(_REGION)}_db"] = None if not error else psnr_of_mse(error)
        return found


@dataclass(kw_only=True)
class ClipResult:
    """One clip: a tally per method, a row of images of its middle frame, and what it is also pooled by."""

    name: str
    num_frames: int
    tallies: dict[str, Tally]
    images: list[Picture]
    group: str = ""


def pool(results: Sequence[ClipResult]) -> dict[str, dict[str, float | None]]:
    """Scores per method over all frames of all clips."""
    totals: dict[str, Tally] = {}
    for result in results:
        for name, tally in result.tallies.items():
            totals.setdefault(name, Tally()).merge(tally)
    return {name: tally.scores() for name, tally in totals.items()}


def gains(scores: Mapping[str, Mapping[str, float | None]], network: str) -> str:
    """How far a network is ahead of every other method in the mean PSNR over pictures, in a line."""
    ours = scores[network]["psnr_frame_db"]
    others = {name: row["psnr_frame_db"] for name, row in scores.items() if name != network}
    return ", ".join(
        f"{ours - theirs:+.2f} dB against {name}"
        for name, theirs in others.items()
        if ours is not None and theirs is not None
    )


def pool_groups(results: Sequence[ClipResult]) -> dict[str, dict[str, dict[str, float | None]]]:
    """The same by group; clips without one are left out."""
    groups = sorted({result.group for result in results if result.group})
    return {group: pool([result for result in results if result.group == group]) for group in groups}


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What `python -m model.evaluate` asks of a family.

    Args:
        split, data_root: of the data.
        device: where to run.
        max_frames: of each clip, 0 for all.
        flags: the parsed command line, for flags that the family added.
        reporter: for messages and progress.
        safe_point: to be called between frames.
    """

    split: str
    data_root: Path
    device: str
    max_frames: int
    flags: Namespace
    reporter: Reporter
    safe_point: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Args:
        results: a clip each; the first of them carry images for the sheet.
        notes: what was left out and why.
        columns: figures of the printed table, in order.
        sheet_columns: headings of the sheet of images.
        summary: a sentence to close with; may be empty.
    """

    results: Sequence[ClipResult]
    notes: Sequence[str]
    columns: Sequence[str]
    sheet_columns: Sequence[str]
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkPage:
    """A family's words for its part of the report page.

    Args:
        title, note: what the network is, and what may be read into its figures.
        curves: name in train.jsonl -> its words.
        columns: figure of the evaluation -> its words and digits.
        methods: rows of the table, in order; those that were not measured are left out.
        strong: the row that is pointed at; the best figures are marked whoever has them.
    """

    title: str
    note: str
    curves: Mapping[str, str]
    columns: Mapping[str, tuple[str, int]]
    methods: Sequence[str]
    strong: str
