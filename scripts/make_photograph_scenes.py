"""Generated scenes (rooms, streets, landscapes) with ray-traced photographs through drawn lenses, ready for training.

python scripts/make_photograph_scenes.py --out_root photographs --num_scenes 96 --workers 16
python scripts/make_photograph_scenes.py --out_root pentagon --blades 5 --families bear fence night --num_scenes 12
python scripts/make_photograph_scenes.py --num_scenes 3 --width 128 --height 80 --num_frames 2 --samples 16    # a try
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
from pipeline.photographs import (  # noqa: E402
    HELD_OUT,
    PLACES,
    PhotographRequest,
    contact_sheet,
    make_photographs,
    photograph_requests,
)
from pipeline.raytrace import RaytraceError  # noqa: E402
from pipeline.raytrace.generated import FAMILIES, VERSION  # noqa: E402


def begin_worker() -> None:
    die_with_parent()
    torch.set_num_threads(1)


def _made(out_root: Path, requests: list[PhotographRequest], workers: int) -> Iterator[tuple[bool, bool, str]]:
    """Results as they come; one worker is this process."""
    if workers == 1:
        yield from (make_photographs(out_root, one) for one in requests)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) as pool:
        for job in as_completed([pool.submit(make_photographs, out_root, one) for one in requests]):
            yield job.result()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 a scene failed, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out_root", type=Path, default=Path("photographs"), help="folder of scenes (default: photographs)"
    )
    parser.add_argument("--num_scenes", type=int, default=96, help="families in turn (default: 96)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (default: 0)")
    parser.add_argument(
        "--first_scene",
        type=int,
        default=0,
        help="number of the first: continues a set, or keeps one apart (default: 0)",
    )
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), help=f"of {', '.join(PLACES)} (default: {' '.join(FAMILIES)})"
    )
    parser.add_argument("--held_out", nargs="*", help=f"families for testing only (default: {' '.join(HELD_OUT)})")
    parser.add_argument("--width", type=int, default=512, help="pixels, a multiple of 16 (default: 512)")
    parser.add_argument("--height", type=int, default=288, help="pixels, a multiple of 16 (default: 288)")
    parser.add_argument("--num_frames", type=int, default=6, help="frames per scene (default: 6)")
    parser.add_argument("--num_sets", type=int, default=2, help="lenses per scene (default: 2)")
    parser.add_argument(
        "--pulls", type=int, default=0, help="of the lenses, the last, whose focus travels (default: 0)"
    )
    parser.add_argument("--samples", type=int, default=64, help="rays per pixel of a photograph (default: 64)")
    parser.add_argument("--blades", type=int, default=0, help="of the opening, 0 for a disc (default: 0)")
    parser.add_argument(
        "--version",
        type=int,
        default=VERSION,
        help=f"of the generator, to go on with an older set (default: {VERSION})",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--dry_run", action="store_true", help="print the scenes and stop")
    args = parser.parse_args(argv)
    names = ("width", "height", "num_frames", "num_sets", "samples", "blades", "pulls", "version", "first_scene")
    try:
        if args.workers < 1:
            raise RaytraceError(f"workers must be at least 1, got {args.workers}")
        requests = photograph_requests(
            args.num_scenes,
            args.seed,
            families=tuple(args.families),
            held_out=None if args.held_out is None else tuple(args.held_out),
            **{name: getattr(args, name) for name in names},
        )
    except RaytraceError as error:
        parser.error(str(error))
    if args.dry_run:
        for one in requests:
            print(f"{args.out_root / one.scene_id}: {one.split}, {one.num_frames} frames, {one.num_sets} lenses")
        return 0
    args.out_root.mkdir(parents=True, exist_ok=True)
    written, failed, console = 0, 0, Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scenes", total=len(requests))
        for ok, made, message in _made(args.out_root, requests, min(args.workers, len(requests))):
            bar.advance(task)
            console.print(message, highlight=False, soft_wrap=True)
            written, failed = written + made, failed + (not ok)
    shown = contact_sheet(args.out_root, [one.scene_id for one in requests], args.out_root / "contact_sheet.jpg")
    print(f"{written} written, {len(requests) - written - failed} already there, {failed} failed; in {args.out_root}")
    print(f"look at {args.out_root / 'contact_sheet.jpg'} ({shown} scenes)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
