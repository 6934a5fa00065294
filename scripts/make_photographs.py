"""Ray-traced photographs through true thin lenses, with sharp frames and exact depth, for networks that read blur.

python scripts/make_photographs.py photographs/train --num_scenes 9 --first_seed 101
python scripts/make_photographs.py photographs/test --num_scenes 3 --first_seed 201
python scripts/make_photographs.py photographs/pentagon --num_scenes 3 --first_seed 201 --blades 5
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.arguments import ArgumentParser  # noqa: E402
from pipeline.orphans import die_with_parent  # noqa: E402
from pipeline.raytrace import SCENES, RaytraceError  # noqa: E402
from pipeline.raytrace.thin_lens import PhotographRequest, make_photographs  # noqa: E402


def begin_worker() -> None:
    die_with_parent()
    torch.set_num_threads(1)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 a scene failed, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of scene folders")
    parser.add_argument("--num_scenes", type=int, default=3, help="bear, fence and night in turn (default: 3)")
    parser.add_argument("--first_seed", type=int, default=0, help="variation of the first three (default: 0)")
    parser.add_argument("--width", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--height", type=int, default=160, help="pixels (default: 160)")
    parser.add_argument("--num_frames", type=int, default=4, help="frames per lens (default: 4)")
    parser.add_argument("--num_sets", type=int, default=2, help="lenses per scene (default: 2)")
    parser.add_argument("--samples", type=int, default=128, help="rays per pixel (default: 128)")
    parser.add_argument("--blades", type=int, default=0, help="of the opening, 0 for a disc (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    args = parser.parse_args(argv)
    try:
        if args.workers < 1 or args.num_scenes < 1:
            raise RaytraceError(f"workers and num_scenes must be at least 1, got {args.workers} and {args.num_scenes}")
        requests = []
        for number in range(args.num_scenes):
            name, seed = SCENES[number % len(SCENES)], args.first_seed + number // len(SCENES)
            requests.append(
                PhotographRequest(
                    scene_id=f"{name}_{seed:03d}",
                    name=name,
                    seed=seed,
                    width=args.width,
                    height=args.height,
                    num_frames=args.num_frames,
                    num_sets=args.num_sets,
                    samples=args.samples,
                    blades=args.blades,
                )
            )
    except RaytraceError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    workers = min(args.workers, len(requests))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin_worker) as pool:
        for ok, _, message in pool.map(partial(make_photographs, args.out), requests):
            print(message, flush=True)
            failed += not ok
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
