"""How far out of focus every pixel of a film or a photograph is: maps as npz, and as colours beside the film.

python scripts/focus_map.py clip.mp4 -o maps                                     # by the network that comes with the code
python scripts/focus_map.py photo.jpg --checkpoint runs/focus_nano -o photo_focus
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import cli  # noqa: E402
from pipeline.arguments import ArgumentParser  # noqa: E402
from pipeline.errors import ExitCode  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a video, a folder of pictures, or a photograph")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="of a FocusMamba: file, checkpoint or run folder (default: the one that comes with the code)",
    )
    parser.add_argument(
        "--work_width",
        type=int,
        default=320,
        help="width the network works at, px; 0 for the film's own (default: 320)",
    )
    parser.add_argument("--max_frames", type=int, default=0, help="only the first N frames (default: 0, all)")
    parser.add_argument("--fps", type=float, default=24.0, help="of a folder of pictures (default: 24)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)

    def body() -> ExitCode:
        from model.video.focus_map import FocusMapSettings, focus_maps  # PyTorch: --help need not wait for it

        settings = FocusMapSettings(
            checkpoint=args.checkpoint,
            work_width=args.work_width,
            max_frames=args.max_frames,
            fps=args.fps,
            device=args.device,
            overwrite=args.overwrite,
        )
        focus_maps(args.input, args.output, settings)
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
