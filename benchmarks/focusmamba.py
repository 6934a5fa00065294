"""What a FocusMamba costs: frames per second and peak memory of a film, with its state, at the film's own size.

    python benchmarks/focusmamba.py                                     720p on the CPU, the three sizes
    python benchmarks/focusmamba.py --size 1920x1080 --device cuda --variants focus_nano
    python benchmarks/focusmamba.py --size 320x176                       what scripts/focus_map.py works at by default

Every size runs in a process of its own, since peak memory is a process's. Weights are random: they change no cost. Seconds
are wall time, the median of --frames after one that is thrown away; CPU seconds beside them tell whether the machine was busy.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def measure(variant: str, width: int, height: int, frames: int, threads: int, device: str) -> dict[str, object]:
    """Run one size in this process."""
    import torch

    from model.focusmamba import VARIANTS, FocusMamba

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = FocusMamba(VARIANTS[variant]).to(device).eval()
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    state, walls, cpus = None, [], []
    with torch.inference_mode():
        for _ in range(frames + 1):
            frame = torch.rand(1, 3, height, width, device=device)
            wall, cpu = time.monotonic(), time.process_time()
            _, state = net(frame, state)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            walls.append(time.monotonic() - wall)
            cpus.append(time.process_time() - cpu)
    cuda = device.startswith("cuda")
    peak_mib = (
        torch.cuda.max_memory_allocated() / 2**20 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    return {
        "variant": variant,
        "parameters_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "size": f"{width}x{height}",
        "threads": threads,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "s_per_frame": round(statistics.median(walls[1:]), 3),
        "cpu_s_per_frame": round(statistics.median(cpus[1:]), 3),
        "fps": round(1 / statistics.median(walls[1:]), 2),
        "peak_mib": round(peak_mib),
        "above_start_mib": round(peak_mib if cuda else peak_mib - before_mib),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["focus_nano", "focus_small", "focus_base"])
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT (default: 1280x720)")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    if args.one:
        print(json.dumps(measure(args.variants[0], width, height, args.frames, args.threads, args.device)))
        return 0
    rows = []
    for variant in args.variants:
        again = ["--one", "--variants", variant, "--size", args.size, "--frames", str(args.frames)]
        again += ["--threads", str(args.threads), "--device", args.device]
        said = subprocess.run([sys.executable, __file__, *again], check=True, stdout=subprocess.PIPE, text=True).stdout
        print(said, end="", flush=True)
        rows.append(json.loads(said))
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
