"""A video or a folder of pictures through a lens, with a trained BokehFlow.

python scripts/apply_bokeh.py output/bear/frames_sharp --checkpoint runs/demo --f_number 1.8 --focal_mm 50 --focus 4 -o bear.mp4
python scripts/apply_bokeh.py holiday.mp4 --checkpoint runs/small --f_number 1.4 --focal_mm 85 --focus_px 410,220 -o out.mp4
python scripts/apply_bokeh.py holiday.mp4 --checkpoint runs/small --focus_pull 0:1.2,2.5:6 -o frames/
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model.video.apply import ApplySettings, apply_bokeh  # noqa: E402
from model.video.focus import FocusPull, check_focus_m, parse_pixel, parse_pull  # noqa: E402
from pipeline import cli  # noqa: E402
from pipeline.errors import ExitCode  # noqa: E402


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a video, or a folder of pictures, all in focus")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="a video (.mp4, .mov, .mkv, .webm) or a folder"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.safetensors, a checkpoint or run folder")
    parser.add_argument("--f_number", type=float, default=2.0, help="1 to 22 (default: 2)")
    parser.add_argument("--focal_mm", type=float, default=50.0, help="focal length, 10 to 200 mm (default: 50)")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument("--focus", type=float, metavar="METRES", help="focus distance, 0.1 to 100 m")
    focus.add_argument("--focus_px", metavar="X,Y", help="focus on what this pixel of the first frame shows")
    focus.add_argument("--focus_pull", metavar="S:M,...", help="focus distances over time, seconds:metres")
    parser.add_argument("--sensor_mm", type=float, default=36.0, help="sensor along the frame's width (default: 36)")
    parser.add_argument("--fps", type=float, default=24.0, help="of a folder of pictures (default: 24)")
    parser.add_argument("--no_audio", action="store_true", help="leave the sound out")
    parser.add_argument("--no_cuts", action="store_true", help="one shot: look for no cuts, carry the state throughout")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> ApplySettings:
    focus = parse_pull(args.focus_pull) if args.focus_pull else None
    if args.focus is not None:
        focus = FocusPull(keys=((0.0, check_focus_m(args.focus, "--focus")),))
    return ApplySettings(
        f_number=args.f_number,
        focal_mm=args.focal_mm,
        focus=focus,
        focus_px=parse_pixel(args.focus_px) if args.focus_px else None,
        sensor_mm=args.sensor_mm,
        device=args.device,
        fps=args.fps,
        audio=not args.no_audio,
        find_cuts=not args.no_cuts,
        overwrite=args.overwrite,
    )


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parse(argv)

    def body() -> ExitCode:
        apply_bokeh(args.input, args.output, args.checkpoint, settings_of(args))
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
