"""Interpolation engines beside each other on any clips: every second frame is removed and made again from the two beside it.

    python benchmarks/interpolation.py clip.mp4 folder_of_frames --engines mean,nearest,flow,rife:version=4.6
    python benchmarks/interpolation.py clip.mp4 --every 10 --json figures.json       # every tenth target

Frames 0, 2, 4, ... are kept; cuts are not left out. PSNR in RGB after rounding to 8 bits: the mean over pictures, and of the
error pooled over all of them, which a few bad pictures decide.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from model.lift.evaluation import load_baselines
from model.lift.sequences import FrameSequence, folder_sequence, video_sequence
from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.media.convert import unit_to_image

MOST_DB = 60.0  # of one picture: equal ones would make the mean infinite


def measure(clip: FrameSequence, engines: dict[str, Interpolator], every: int) -> list[dict[str, Any]]:
    """One row per engine: targets, both PSNRs in dB and seconds a picture."""
    targets = range(1, clip.num_frames - 1, 2)[::every]
    errors: dict[str, list[float]] = {name: [] for name in engines}
    seconds = dict.fromkeys(engines, 0.0)
    for target in targets:
        truth = clip.read(target)
        context = Context(
            frames=(clip.read(target - 1), clip.read(target + 1)), indices=(target - 1, target + 1), target=target
        )
        for name, engine in engines.items():
            began = time.perf_counter()
            made = unit_to_image(engine.interpolate(context, lambda: None), context.before)
            seconds[name] += time.perf_counter() - began
            errors[name].append(float(np.mean((made.astype(np.float64) - truth) ** 2)) / 255**2)
    return [
        {
            "clip": clip.name,
            "engine": name,
            "targets": len(targets),
            "psnr_frame_db": float(np.mean([decibels(error) for error in found])),
            "psnr_db": decibels(float(np.mean(found))),
            "seconds": seconds[name] / len(targets),
        }
        for name, found in errors.items()
    ]


def decibels(error: float) -> float:
    """PSNR of a mean square error in [0, 1], at most 60 dB."""
    return min(MOST_DB, -10 * math.log10(error)) if error else MOST_DB


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, help="videos, or folders of frames")
    parser.add_argument("--engines", default="mean,nearest,flow", help="NAME or NAME:OPTION=VALUE, with commas between")
    parser.add_argument("--every", type=int, default=1, help="only every n-th target")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(argv)
    engines = load_baselines(args.engines, args.device)
    rows = []
    for path in args.clips:
        clip = folder_sequence(path) if path.is_dir() else video_sequence(path)
        if clip.num_frames < 3:
            parser.error(f"{path} has {clip.num_frames} frames; a clip needs three")
        rows += measure(clip, engines, args.every)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")
    table = Table(title="Every second frame made again")
    for title in ("clip", "engine", "targets", "mean PSNR, dB", "pooled, dB", "s a picture"):
        table.add_column(title, justify="left" if title in ("clip", "engine") else "right")
    for row in rows:
        table.add_row(
            row["clip"], row["engine"], str(row["targets"]), f"{row['psnr_frame_db']:.2f}", f"{row['psnr_db']:.2f}",
            f"{row['seconds']:.2f}",
        )  # fmt: skip
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
