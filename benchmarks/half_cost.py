"""Phase 5 with frames interpolated instead of rendered: what it saves, and what it costs in quality.

    python benchmarks/half_cost.py output --num_sets 2                      # scenes that finished phase 4
    python benchmarks/half_cost.py output --scene bear --f_number 1.4 --focal_mm 135 --focus 10
    python benchmarks/half_cost.py output --engine_opt blades=6 --interpolator flow --sheet worst.png

Runs phase 5 twice on copies of the scenes, whole and with `--render_every`, in processes of their own whose CPU time is
counted; then compares every made picture with the rendered one. The sheet shows each scene's worst: rendered, made, and eight
times their difference.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.measures import psnr
from pipeline.media.images import read_sharp
from pipeline.storage.scene import Scene

ROOT = Path(__file__).resolve().parents[1]
AMPLIFIED = 8  # differences in the sheet
NOT_COPIED = ("bokeh_renders", "focus_maps", "metadata.json")  # what phase 5 makes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One scene.

    Args:
        frames: of the scene.
        made: pictures per lens set that were interpolated.
        whole_cpu_s, part_cpu_s: CPU seconds of phase 5 rendering everything, and with made frames.
        whole_s, part_s: the same by the clock.
        mean_db, worst_db: PSNR of made against rendered pictures.
        worst_set, worst_frame: where the worst one is.
    """

    frames: int
    made: int
    whole_cpu_s: float
    part_cpu_s: float
    whole_s: float
    part_s: float
    mean_db: float
    worst_db: float
    worst_set: int
    worst_frame: int


def measure(scene_id: str, roots: tuple[Path, Path], phase: list[str], made: list[str]) -> tuple[Cost, Image.Image]:
    """One scene's figures, and the strip of its worst made picture.

    Args:
        scene_id: of a scene that finished phase 4.
        roots: two copies of the output root.
        phase: arguments of phase 5 for both runs.
        made: arguments of the second run alone.

    Raises:
        SystemExit: phase 5 failed, or interpolated nothing.
    """
    (whole_s, whole_cpu), (part_s, part_cpu) = (
        run_phase(scene_id, root, [*phase, *more]) for root, more in zip(roots, ([], made), strict=True)
    )
    whole, part = (Scene(root, scene_id) for root in roots)
    frames = part.made_frames()
    sets = len(part.read_metadata()["sets"])
    found = {
        (number, frame): psnr(
            read_sharp(part.bokeh_path(number, frame)), read_sharp(whole.bokeh_path(number, frame)), 255
        )
        for number in range(sets)
        for frame in frames
    }
    if not found:
        raise SystemExit(f"{scene_id}: no frame was interpolated; is it too short, or --min_sharp_db too high?")
    at = min(found, key=lambda key: found[key])
    cost = Cost(
        frames=int(part.read_metadata()["num_frames"]), made=len(frames), whole_cpu_s=whole_cpu, part_cpu_s=part_cpu,
        whole_s=whole_s, part_s=part_s, mean_db=float(np.mean([*found.values()])), worst_db=found[at],
        worst_set=at[0], worst_frame=at[1],
    )  # fmt: skip
    return cost, strip(read_sharp(whole.bokeh_path(*at)), read_sharp(part.bokeh_path(*at)))


def copied(out_root: Path, root: Path) -> Path:
    """The output root as phase 4 left it: all scenes, since the calibration is theirs together."""
    shutil.copytree(out_root, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return root


def run_phase(scene_id: str, root: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of CPU time that phase 5 took."""
    command = [sys.executable, str(ROOT / "scripts" / "05_render_and_labels.py"), "--scene", scene_id]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*command, "--out_root", str(root), "--logs", str(root / "logs"), *arguments], capture_output=True, text=True
    )
    elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"phase 5 failed on {scene_id}:\n{done.stdout}{done.stderr}")
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def strip(rendered: np.ndarray, made: np.ndarray) -> Image.Image:
    """Rendered | made | their difference, amplified around grey."""
    difference = np.clip(128 + AMPLIFIED * (made.astype(np.int32) - rendered), 0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate([rendered, made, difference], axis=1))


def table_of(costs: dict[str, Cost], title: str) -> Table:
    """One row per scene."""
    table = Table(title=title)
    for column in ("scene", "made", "CPU s whole", "with made", "ratio", "mean dB", "worst dB", "worst: set, frame"):
        table.add_column(column, justify="left" if column == "scene" else "right")
    for name, cost in costs.items():
        table.add_row(
            name, f"{cost.made} of {cost.frames}", f"{cost.whole_cpu_s:.1f}", f"{cost.part_cpu_s:.1f}",
            f"{cost.part_cpu_s / cost.whole_cpu_s:.2f}", f"{cost.mean_db:.1f}", f"{cost.worst_db:.1f}",
            f"{cost.worst_set}, {cost.worst_frame}",
        )  # fmt: skip
    return table


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_root", type=Path, help="folder of scenes that finished phase 4")
    parser.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--render_every", type=int, default=2)
    parser.add_argument("--interpolator", default="guided")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--sheet", type=Path, help="write the pictures there")
    args, phase = parser.parse_known_args(argv)  # the rest goes to phase 5
    scenes = args.scene or sorted(path.parent.parent.name for path in args.out_root.glob("*/frames_sharp/.done"))
    if not scenes:
        parser.error(f"{args.out_root} holds no scene that finished phase 2; run phases 1 to 4 first")
    made = ["--render_every", str(args.render_every), "--interpolator", args.interpolator]
    costs, strips = {}, []
    with tempfile.TemporaryDirectory() as work:
        roots = (copied(args.out_root, Path(work) / "whole"), copied(args.out_root, Path(work) / "part"))
        for scene_id in scenes:
            costs[scene_id], picture = measure(scene_id, roots, phase, made)
            strips.append(picture)
    Console().print(table_of(costs, " ".join(["phase 5", *phase, "against", *made])))
    if args.json:
        args.json.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=2) + "\n")
    if args.sheet:
        sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)))
        for i, picture in enumerate(strips):
            sheet.paste(picture, (0, sum(s.height for s in strips[:i])))
        sheet.save(args.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
