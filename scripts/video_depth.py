"""Metric depth of one video by Video Depth Anything: an npz of all maps, a colour video, and EXR files where they are wanted.

python scripts/video_depth.py clip.mp4
python scripts/video_depth.py clip.mp4 -o depth --engine_opt encoder=vits --max_res 640 --target_fps 12 --max_len 300 --save_exr
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import cli  # noqa: E402
from pipeline.arguments import ArgumentParser  # noqa: E402
from pipeline.errors import ExitCode  # noqa: E402


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a video, or a folder of pictures")
    parser.add_argument("-o", "--output", type=Path, help="folder (default: that of the input)")
    parser.add_argument("--max_len", type=int, default=-1, help="frames at most (default: -1, all)")
    parser.add_argument("--target_fps", type=float, default=-1, help="leave frames out down to this rate (default: -1)")
    parser.add_argument(
        "--max_res", type=int, default=1280, help="longer side at most, px; -1 for none (default: 1280)"
    )
    parser.add_argument("--save_exr", action="store_true", help="one EXR a frame, metres, channel Z")
    parser.add_argument("--no_video", action="store_true", help="no colour video")
    parser.add_argument("--fps", type=float, default=24.0, help="of a folder of pictures (default: 24)")
    parser.add_argument("--engine_opt", action="append", default=[], metavar="NAME=VALUE", help="option of engine vda")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parse(argv)

    def body() -> ExitCode:
        from pipeline.engines import load_engine
        from pipeline.engines.base import StreamingDepth
        from pipeline.engines.vda.video import VideoDepthSettings, video_depth
        from pipeline.media.video_io import open_timed
        from pipeline.signals import StopSignals

        settings = VideoDepthSettings(
            max_len=args.max_len,
            target_fps=args.target_fps,
            max_res=args.max_res,
            save_exr=args.save_exr,
            colour_video=not args.no_video,
        )
        source = open_timed(args.input, args.fps)
        options = dict(item.partition("=")[::2] for item in args.engine_opt)
        engine = load_engine("depth", "vda", options, args.device, StreamingDepth)
        with StopSignals() as signals:
            folder = args.output or args.input.resolve().parent
            print(video_depth(engine, source, folder, settings, signals.safe_point))
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
