"""What the pipeline itself costs: every phase with an engine that costs nothing.

    python benchmarks/pipeline_overhead.py
    python benchmarks/pipeline_overhead.py --quick
    python benchmarks/pipeline_overhead.py --json overhead.json

Prints frames per second at 854x480 and 1920x1088, beside a bare loop in the same run that decodes, encodes and writes the
same files one after the other, without fsync, queues, journals or checks; and the memory that a scene four times as long
needs more. A phase runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.commands import Page
from pipeline.device import OPENCV_THREADS, TORCH_THREADS
from pipeline.engines import load_engine
from pipeline.engines.base import BokehRequest, Deblurrer, DepthEstimator, SafePoint
from pipeline.engines.info import EngineInfo
from pipeline.media.depth_files import encode_npz, read_depth, read_npz
from pipeline.media.images import Picture, encode_png, multiple_of_16, read_sharp, resize_picture
from pipeline.optics.labels import label_of
from pipeline.phases.calibrate import run_calibrate
from pipeline.phases.calibration import CalibrateSettings, Calibration, confirm
from pipeline.phases.deblur import DeblurPhase, DeblurSettings
from pipeline.phases.depth import DepthPhase, DepthSettings
from pipeline.phases.index import IndexSettings, run_index
from pipeline.phases.render import RenderPhase, RenderSettings
from pipeline.phases.runner import run_scenes
from pipeline.phases.scene_check import check_scene
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import Scene, SceneIndex

SIZES = ((854, 480), (1920, 1088))
SETS = 2


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """There is nothing to set."""


class FreeRenderer:
    """Returns the sharp frame: a renderer that costs nothing."""

    info = EngineInfo(name="free", role="bokeh", version=1, licence="none needed", deterministic=True)
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any, device: str) -> None:
        self.options = options

    def shrink(self) -> bool:
        return False

    def render(self, request: BokehRequest, safe_point: SafePoint) -> Picture:
        return request.sharp


def make_raw(root: Path, size: tuple[int, int], count: int) -> None:
    """A panning view of detailed noise with a depth ramp: pictures that compress about as badly as photographs."""
    width, height = size
    rng = np.random.default_rng(0)
    world = cv2.resize(
        rng.integers(0, 256, (height // 8, (width + 2 * count) // 8, 3), np.uint8), (width + 2 * count, height)
    )
    world = cv2.add(world // 2, rng.integers(0, 24, world.shape, np.uint8))
    folder = root / "scene"
    (folder / "depth").mkdir(parents=True)
    bumps = cv2.resize(rng.random((12, 20), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(12, 1, height, dtype=np.float32)[:, None] * (1 + 0.3 * bumps)  # smooth, as estimated depth is
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), world[:, 2 * number : 2 * number + width])
        (folder / "depth" / f"{number:04d}.npz").write_bytes(encode_npz("depth", ramp.astype(np.float16)))


def phases(run: RunSettings) -> dict[str, Callable[[], Any]]:
    """Name -> what to time. Each needs the ones before it to have run once."""

    def deblur(temporal: Any) -> None:
        engine = load_engine("deblur", "none", {}, "cpu", Deblurrer)
        run_scenes(DeblurPhase(DeblurSettings(temporal=temporal), engine, run), run)

    def depth() -> None:
        engine = load_engine("depth", "given", {}, "cpu", DepthEstimator)
        run_scenes(DepthPhase(DepthSettings(), engine, run), run)

    def render() -> None:
        calibration = Calibration(settings=CalibrateSettings(), max_coc_m=3e-4, depth_fingerprints={})
        run_scenes(RenderPhase(RenderSettings(num_sets=SETS), FreeRenderer(NoOptions(), "cpu"), calibration), run)

    def index() -> None:
        run_index(IndexSettings(workers=1), run)

    def calibrate() -> None:
        run_calibrate(CalibrateSettings(), run, Page())
        confirm(None, run)

    def validate() -> None:
        check_scene(run.out_root, SceneIndex.load(run.index_path).entries["scene"])

    return {
        "1 index": index,
        "2 deblur, no averaging": lambda: deblur("none"),
        "2 deblur, flow": lambda: deblur("flow"),
        "3 depth": depth,
        "4 calibrate": calibrate,
        f"5 render, {SETS} sets": render,
        "6 validate": validate,
    }


def bare(run: RunSettings, name: str, size: tuple[int, int], count: int, out: Path) -> None:
    """The same codecs without the pipeline: decode, compute, encode, write, in one loop."""
    raw, wanted = run.raw_root / "scene", multiple_of_16(size)
    scene = Scene(run.out_root, "scene")
    lenses = scene.lens_sets() if name.startswith("5") else []
    for number in range(count):
        if name.startswith("2"):
            frame = read_sharp(raw / f"{number:04d}.jpg")
            (out / f"{number}.png").write_bytes(encode_png(resize_picture(frame, wanted)))
        elif name.startswith("3"):
            depth = read_npz(raw / "depth" / f"{number:04d}.npz", "depth").astype(np.float16)
            (out / f"{number}.npz").write_bytes(encode_npz("depth", depth))
        else:
            sharp, stored = read_sharp(scene.sharp_path(number)), read_depth(scene.depth_path(number))
            for lens_set in lenses:
                label = label_of(stored, lens_set.lens, lens_set.max_coc_m)
                (out / f"{number}.npz").write_bytes(encode_npz("focus_map", label))
                (out / f"{number}.png").write_bytes(encode_png(sharp))


def _in_child(pipe: Any, root: Path, name: str) -> None:
    torch.set_num_threads(TORCH_THREADS)
    cv2.setNumThreads(OPENCV_THREADS)
    run = RunSettings(raw_root=root / "data", out_root=root / "output", logs=root / "logs", on_stale="redo")
    work = phases(run)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    pipe.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def measure(root: Path, name: str) -> tuple[float, float]:
    """Seconds, and MiB of memory above what the imports take, of one phase over the scene in `root`."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(send, root, name))
    process.start()
    seconds, mebibytes = receive.recv()
    process.join()
    return seconds, mebibytes


def benchmark(size: tuple[int, int], count: int, console: Console) -> dict[str, Any]:
    """All phases over scenes of `count` and 4 * `count` frames."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        roots = {frames: Path(folder) / str(frames) for frames in (count, 4 * count)}
        for frames, root in roots.items():
            make_raw(root / "data", size, frames)
        names = list(phases(RunSettings()))
        for name in names:
            long_s, long_mib = measure(roots[4 * count], name)
            _, short_mib = measure(roots[count], name)
            outputs = 4 * count * (SETS if name.startswith("5") else 1)
            row = {"frames_per_s": outputs / long_s, "mib_short": short_mib, "mib_long": long_mib}
            if name[0] in "235" and "flow" not in name:
                run = RunSettings(raw_root=roots[count] / "data", out_root=roots[count] / "output")
                spare = Path(folder) / "bare"
                spare.mkdir()
                started = time.perf_counter()
                bare(run, name, size, count, spare)
                bare_fps = outputs / 4 / (time.perf_counter() - started)
                shutil.rmtree(spare)
                row |= {"bare_frames_per_s": bare_fps, "ratio_to_bare": row["frames_per_s"] / bare_fps}
            results[name] = row
    table = Table(title=f"{size[0]}x{size[1]}, {4 * count} frames; memory beside {count} frames")
    for heading in ("phase", "frames/s", "bare loop", "ratio", f"MiB, {count} frames", f"MiB, {4 * count} frames"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for name, row in results.items():
        bare_text = f"{row['bare_frames_per_s']:.1f}" if "ratio_to_bare" in row else ""
        ratio = f"{row['ratio_to_bare']:.2f}" if "ratio_to_bare" in row else ""
        table.add_row(
            name, f"{row['frames_per_s']:.1f}", bare_text, ratio, f"{row['mib_short']:.0f}", f"{row['mib_long']:.0f}"
        )
    console.print(table)
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="854x480 and 16 frames only")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    console = Console(width=120)
    sizes = SIZES[:1] if args.quick else SIZES
    results = {f"{size[0]}x{size[1]}": benchmark(size, 16 if args.quick else 24, console) for size in sizes}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
