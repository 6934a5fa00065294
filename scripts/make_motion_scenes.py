"""Ray-traced clips with exact flow and occlusion: the test set for frame interpolation, and training clips from seeds.

python scripts/make_motion_scenes.py --out_root motion --split test
python scripts/make_motion_scenes.py --out_root motion --split train --num_clips 120 --width 192 --height 128 --num_frames 17
python scripts/make_motion_scenes.py --split test --seed 7           # the same phenomena in other looks, to motion/test_7
python scripts/make_motion_scenes.py --num_clips 1 --width 96 --height 64 --num_frames 3             # a try of seconds
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.arguments import ArgumentParser  # noqa: E402
from pipeline.orphans import die_with_parent  # noqa: E402
from pipeline.raytrace import RaytraceError  # noqa: E402
from pipeline.raytrace.generated import FAMILIES  # noqa: E402
from pipeline.raytrace.motion import ClipRequest, clip_requests, make_clip  # noqa: E402


def begin_worker() -> None:
    die_with_parent()
    torch.set_num_threads(1)


def _made(folder: Path, requests: list[ClipRequest], workers: int) -> Iterator[tuple[bool, bool, str]]:
    """Results as they come; one worker is this process."""
    if workers == 1:
        yield from (make_clip(folder, one) for one in requests)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) as pool:
        for job in as_completed([pool.submit(make_clip, folder, one) for one in requests]):
            yield job.result()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 a clip failed, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_root", type=Path, default=Path("motion"), help="folder of the splits (default: motion)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="what to make (default: test)")
    parser.add_argument("--num_clips", type=int, help="how many (default: 120 of train, all of test)")
    parser.add_argument(
        "--seed", type=int, default=0, help="which clips; of test, others than 0 go to test_SEED (default: 0)"
    )
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), help=f"of training: {', '.join(FAMILIES)} (all)"
    )
    parser.add_argument("--width", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--height", type=int, default=160, help="pixels (default: 160)")
    parser.add_argument("--num_frames", type=int, default=31, help="frames per clip (default: 31)")
    parser.add_argument("--fps", type=float, default=24.0, help="frames per second; more are denser (default: 24)")
    parser.add_argument("--supersample", type=int, default=3, help="samples along each side of a pixel (default: 3)")
    parser.add_argument("--flow_spans", type=int, nargs="+", default=[1], help="frames that flow spans (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--dry_run", action="store_true", help="print the clips and stop")
    args = parser.parse_args(argv)
    names = ("width", "height", "num_frames", "fps", "supersample")
    try:
        if args.workers < 1:
            raise RaytraceError(f"workers must be at least 1, got {args.workers}")
        size = {name: getattr(args, name) for name in names} | {"flow_spans": tuple(sorted(set(args.flow_spans)))}
        requests = clip_requests(args.split, args.num_clips, args.seed, families=tuple(args.families), **size)
    except RaytraceError as error:
        parser.error(str(error))
    folder = args.out_root / (f"test_{args.seed}" if args.split == "test" and args.seed else args.split)
    if args.dry_run:
        for one in requests:
            print(f"{folder / one.clip_id}: {one.phenomenon}, {one.num_frames} frames {one.width}x{one.height}")
        return 0
    written, failed, console = 0, 0, Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("clips", total=len(requests))
        for ok, made, message in _made(folder, requests, min(args.workers, len(requests))):
            bar.advance(task)
            console.print(message, highlight=False, soft_wrap=True)
            written, failed = written + made, failed + (not ok)
    print(f"{written} written, {len(requests) - written - failed} already there, {failed} failed; in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
