"""The command line of scripts/apply_bokeh.py: flags, and the settings they become."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from model.video.focus import FocusPull, check_focus_m, parse_anchors, parse_pixel, parse_pull
from model.video.settings import ApplySettings
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.errors import ExitCode, UsageError
from pipeline.optics import Aperture, OpticsError


def parser(description: str | None) -> argparse.ArgumentParser:
    """All flags; what has no default here is decided by looking at the film, and said."""
    made = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("input", type=Path, help="a video, or a folder of pictures, all in focus")
    made.add_argument("-o", "--output", type=Path, required=True, help="a video (.mp4, .mov, .mkv, .webm) or a folder")
    made.add_argument(
        "--engine",
        default="auto",
        help="lens (optics on depth) or bokehflow (a network); default: as --checkpoint says",
    )
    made.add_argument(
        "--depth",
        default="auto",
        help="given (beside the film), vda (Video Depth Anything), bokehflow, or a folder; default: the best there is",
    )
    made.add_argument(
        "--checkpoint",
        type=Path,
        help="of a network: file, checkpoint or run folder; where one is needed, the one that comes with the code",
    )
    _add_lens(made.add_argument_group("lens"))
    _add_focus(
        made.add_argument_group("focus; without any of these, what the middle of the first frame shows is followed")
    )
    _add_film(made.add_argument_group("film"))
    return made


def _add_lens(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strength", type=float, metavar="PERCENT", help="blur radius in percent of the width (default: 1.5)"
    )
    group.add_argument("--f_number", type=float, help="in place of --strength")
    group.add_argument("--focal_mm", type=float, help="focal length (default: 50)")
    group.add_argument("--sensor_mm", type=float, default=36.0, help="sensor along the frame's width (default: 36)")
    group.add_argument("--blades", type=int, default=0, help="straight blades of the aperture (default: 0, a disc)")
    group.add_argument("--rotation", type=float, default=0.0, metavar="DEGREES", help="of the blades")
    group.add_argument(
        "--cat_eye",
        type=float,
        default=0.0,
        metavar="RADII",
        help="shade the opening towards the corners, 0 to 0.95; slow",
    )
    group.add_argument("--roundness", type=float, default=0.0, help="0 has straight blades, 1 is a disc")


def _add_focus(group: argparse._ArgumentGroup) -> None:
    one = group.add_mutually_exclusive_group()
    one.add_argument("--focus", type=float, metavar="METRES", help="focus distance")
    one.add_argument(
        "--focus_px", metavar="X,Y", help="stay at the distance of what this pixel of the first frame shows"
    )
    one.add_argument(
        "--focus_track",
        action="append",
        metavar="[S:]X,Y",
        help="follow what this pixel shows, from the beginning or from S seconds on; may be repeated",
    )
    one.add_argument("--focus_pull", metavar="S:M,...", help="focus distances over time, seconds:metres")
    group.add_argument(
        "--temporal", type=float, default=0.3, metavar="S", help="seconds over which a followed focus is steadied (0.3)"
    )


def _add_film(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max_frames", type=int, metavar="N", help="only the first N frames")
    group.add_argument("--resize", type=int, metavar="PX", help="longer side of what is worked on and written")
    group.add_argument("--side_by_side", action="store_true", help="the film and the result beside each other")
    group.add_argument("--depth_video", type=Path, metavar="PATH", help="the depth as colours too, a video or folder")
    group.add_argument(
        "--save_depth", type=Path, metavar="DIR", help="keep estimated depth, for the next run's --depth DIR"
    )
    group.add_argument("--bits", type=int, help="8 or 10 a channel (default: as the film)")
    group.add_argument("--fps", type=float, default=24.0, help="of a folder of pictures (default: 24)")
    group.add_argument("--no_audio", action="store_true", help="leave the sound out")
    group.add_argument("--no_cuts", action="store_true", help="one shot: look for no cuts")
    group.add_argument("--overwrite", action="store_true", help="replace an existing output")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--profile", action="store_true", help="say at the end what a frame cost, part by part")


def settings_of(args: argparse.Namespace) -> ApplySettings:
    """The flags as settings.

    Raises:
        UsageError: one is out of range, or two do not go together.
    """
    focus = parse_pull(args.focus_pull) if args.focus_pull is not None else None
    if args.focus is not None:
        focus = FocusPull(keys=((0.0, check_focus_m(args.focus, "--focus")),))
    try:
        aperture = Aperture(blades=args.blades, rotation_deg=args.rotation, roundness=args.roundness)
    except OpticsError as error:
        raise UsageError(f"--blades, --rotation, --roundness: {error}") from None
    return ApplySettings(
        engine=args.engine,
        depth=args.depth,
        checkpoint=args.checkpoint,
        f_number=args.f_number,
        focal_mm=args.focal_mm,
        strength_percent=args.strength,
        sensor_mm=args.sensor_mm,
        aperture=aperture,
        cat_eye=args.cat_eye,
        focus=focus,
        focus_px=parse_pixel(args.focus_px) if args.focus_px is not None else None,
        focus_track=parse_anchors(args.focus_track or ()),
        temporal_s=args.temporal,
        device=args.device,
        fps=args.fps,
        audio=not args.no_audio,
        find_cuts=not args.no_cuts,
        overwrite=args.overwrite,
        max_frames=args.max_frames,
        resize_px=args.resize,
        bits=args.bits,
        side_by_side=args.side_by_side,
        depth_video=args.depth_video,
        save_depth=args.save_depth,
        profile=args.profile,
    )


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parser(description).parse_args(argv)

    def body() -> ExitCode:
        from model.video.apply import apply_bokeh  # PyTorch and SciPy: --help and a wrong flag need not wait for them

        apply_bokeh(args.input, args.output, settings_of(args))
        return ExitCode.DONE

    return cli.main(body)
