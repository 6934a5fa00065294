"""Ray-traced demo scenes with exact depth: input for the pipeline that needs no download.

python scripts/make_demo_scenes.py --raw_root demo/data              # six scenes, under a minute: what make demo does
python scripts/make_demo_scenes.py --num_scenes 90 --width 848 --height 480 --workers 16
python scripts/make_demo_scenes.py --dry_run                         # only say what would be made
"""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.arguments import ArgumentParser  # noqa: E402
from pipeline.raytrace import RaytraceError, SceneRequest, scene_requests, write_scenes  # noqa: E402
from pipeline.reporter import Reporter  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 a scene failed, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw_root", type=Path, default=Path("data"), help="folder of scene folders (default: data)")
    parser.add_argument("--num_scenes", type=int, default=6, help="bear, fence, night, then variations (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="changes the variations (default: 0)")
    parser.add_argument("--width", type=int, default=320, help="pixels (default: 320)")
    parser.add_argument("--height", type=int, default=192, help="pixels (default: 192)")
    parser.add_argument("--num_frames", type=int, default=24, help="frames per scene, at 24 a second (default: 24)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--degrade", action="store_true", help="slightly soft and noisy frames, so that deblurring has something to do"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the scenes and stop")
    args = parser.parse_args(argv)
    try:
        if args.workers < 1:
            raise RaytraceError(f"workers must be at least 1, got {args.workers}")
        size = {"width": args.width, "height": args.height, "num_frames": args.num_frames, "degrade": args.degrade}
        chosen = scene_requests(args.num_scenes, args.seed)
        requests = [SceneRequest(scene_id=i, name=name, seed=seed, **size) for i, name, seed in chosen]
    except RaytraceError as error:
        parser.error(str(error))
    if args.dry_run:
        for one in requests:
            print(f"{args.raw_root / one.scene_id}: {one.num_frames} frames {one.width}x{one.height}, seed {one.seed}")
        return 0
    with Reporter("demo_scenes", None) as reporter:
        written, failed = write_scenes(args.raw_root, requests, args.workers, reporter)
    print(f"{written} written, {len(requests) - written - failed} already there, {failed} failed; in {args.raw_root}")
    print(f"next: {shlex.join(['python', 'scripts/01_validate_dataset.py', '--raw_root', str(args.raw_root)])}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
