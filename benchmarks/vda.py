"""Video Depth Anything: seconds a frame and peak memory, streamed as the engine does it and whole as it is commonly done.

    python benchmarks/vda.py                                  # ViT-L on CUDA, 1280x720 frames, seen at 924x518
    python benchmarks/vda.py --encoder vits --precision fp32
    python benchmarks/vda.py --quick                          # CPU, a minute: ViT-S on small frames
    python benchmarks/vda.py --json vda.json

Weights are random, of full size, in a file of the published form, since speed does not depend on their values. Frames lie in
memory: decoding is not counted, the cubic resize is. "Streamed" is the engine for several micro-batches. "Whole windows" is
the same network with 32 frames encoded and decoded at once in every window and no level kept. The first window warms up and
is not timed. CPU seconds, summed over threads, say more than the clock where others compute too. Peak memory on CUDA is what
PyTorch allocated; on a CPU it is the process's own, so each row runs in a process.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.device import TORCH_THREADS, resolve_device
from pipeline.engines import load_engine
from pipeline.engines.base import Clip, DepthEstimator
from pipeline.engines.vda import VideoDepthAnything
from pipeline.engines.vda.architecture import PATCH_PX, PUBLISHED
from pipeline.engines.vda.network import VideoDepthNetwork, load_network
from pipeline.engines.vda.preprocess import network_size, normalise, resize_frame
from pipeline.engines.vda.temporal import WINDOW
from pipeline.engines.vda.windows import FADE, STEP
from pipeline.media.images import Picture

WHOLE = "whole windows"
FIRST = WINDOW - FADE - 1  # the last frame that the first window finishes


def random_weights(folder: Path, encoder: str) -> Path:
    """A file of the published form with the default initialisation of its layers."""
    torch.manual_seed(0)
    path = folder / f"metric_video_depth_anything_{encoder}.pth"
    torch.save(VideoDepthNetwork(PUBLISHED[encoder]).state_dict(), path)
    return path


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def streamed(args: argparse.Namespace, folder: Path, pictures: list[Picture], micro_batch: int) -> Iterator[None]:
    """The engine on a video that does not end while it is timed; yields after each window, each 22 frames further."""
    options = {"encoder": args.encoder, "precision": args.precision, "weights": str(folder)}
    options |= {"input_size": str(args.input_size), "micro_batch": str(micro_batch)}
    engine = load_engine("depth", "vda", options, args.device, DepthEstimator)
    assert isinstance(engine, VideoDepthAnything)
    clip = Clip(range(STEP * (args.windows + 2)), lambda index: pictures[index % len(pictures)], None)
    for frame, _ in enumerate(engine.stream(clip, lambda: None)):
        if frame >= FIRST and (frame - FIRST) % STEP == 0:
            yield


@torch.inference_mode()
def whole_windows(args: argparse.Namespace, folder: Path, pictures: list[Picture]) -> Iterator[None]:
    """32 frames at once, every window from its pictures; each gives 22 new maps at the frames' size."""
    network = load_network(folder / f"metric_video_depth_anything_{args.encoder}.pth", args.encoder, args.device)
    height, width = pictures[0].shape[:2]
    size = network_size(width, height, args.input_size)
    half = args.precision == "fp16" or (args.precision == "auto" and args.device.startswith("cuda"))
    for window in range(args.windows):
        batch = [resize_frame(pictures[(window * STEP + slot) % len(pictures)], size) for slot in range(32)]
        with torch.autocast(torch.device(args.device).type, torch.float16, enabled=half):
            depth = network(normalise(torch.stack(batch).to(args.device)))
        torch.nn.functional.interpolate(depth[:, None], (height, width), mode="bilinear", align_corners=True).cpu()
        assert depth.shape[1:] == (size[1], size[0]) and size[0] % PATCH_PX == 0
        yield


def measure(args: argparse.Namespace, folder: Path, micro_batch: int, answer: Any) -> None:
    """One row, in a process of its own: seconds a frame after the first window, and the peak of memory."""
    torch.set_num_threads(TORCH_THREADS)
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (args.height, args.width, 3), dtype=np.uint8) for _ in range(8)]
    run = streamed(args, folder, pictures, micro_batch) if micro_batch else whole_windows(args, folder, pictures)
    ends = []
    for _ in islice(run, args.windows):
        synchronise(args.device)
        ends.append((time.perf_counter(), time.process_time()))
    seconds, cpu_seconds = (
        (last - first) / (len(ends) - 1) / STEP for first, last in zip(ends[0], ends[-1], strict=True)
    )
    if args.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.put({"seconds_per_frame": seconds, "cpu_seconds_per_frame": cpu_seconds, "peak_bytes": peak})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=tuple(PUBLISHED), default="vitl")
    parser.add_argument("--precision", choices=("auto", "fp16", "fp32"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--input_size", type=int, default=518)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--micro_batch", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--quick", action="store_true", help="ViT-S on 320x180 frames seen at 168x98, for a CPU")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    if args.quick:
        args.encoder, args.width, args.height, args.input_size = "vits", 320, 180, 98
        args.windows, args.micro_batch = 3, [1, 8]
    args.device = resolve_device(args.device)
    seen = network_size(args.width, args.height, args.input_size)
    table = Table("micro-batch", "s / frame", "frames / s", "CPU s / frame", "peak GB", box=None)
    figures = {"seen_at": seen, "torch": torch.__version__, **{k: v for k, v in vars(args).items() if k != "json"}}
    if args.device.startswith("cuda"):
        figures["gpu"] = torch.cuda.get_device_name()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        random_weights(Path(folder), args.encoder)
        for micro_batch in (*args.micro_batch, 0):
            answer = processes.Queue()
            worker = processes.Process(target=measure, args=(args, Path(folder), micro_batch, answer))
            worker.start()
            worker.join()
            if worker.exitcode:
                raise SystemExit(f"the measuring process ended with {worker.exitcode}, see above")
            found = answer.get()
            name = str(micro_batch) if micro_batch else WHOLE
            figures[name] = found
            seconds = found["seconds_per_frame"]
            cells = (f"{seconds:.4f}", f"{1 / seconds:.2f}", f"{found['cpu_seconds_per_frame']:.4f}")
            table.add_row(name, *cells, f"{found['peak_bytes'] / 1e9:.2f}")
    Console().print(f"{args.encoder}, {args.width}x{args.height} seen at {seen[0]}x{seen[1]}, {args.device}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
