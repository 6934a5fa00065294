"""The command line of scripts/interpolate.py: flags, and the settings they become."""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from model.video.interpolate.settings import InterpolateSettings
from pipeline import cli
from pipeline.arguments import ArgumentParser, named_values
from pipeline.errors import ExitCode, UsageError


def parser(description: str | None) -> argparse.ArgumentParser:
    """All flags."""
    made = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("input", type=Path, help="a video, or a folder of pictures")
    made.add_argument("-o", "--output", type=Path, required=True, help="a video (.mp4, .mov, .mkv, .webm) or a folder")
    rate = made.add_mutually_exclusive_group()
    rate.add_argument("--factor", type=int, metavar="N", help="frames for each frame (default: 2)")
    rate.add_argument("--fps", metavar="RATE", help="frames a second in place of --factor, as 60 or 60000/1001")
    engine = made.add_argument_group("engine")
    engine.add_argument(
        "--interpolator",
        default="auto",
        metavar="NAME",
        help="lift, rife, flow, mean or nearest; auto takes the first of lift, rife and flow that is there (default)",
    )
    engine.add_argument("--checkpoint", type=Path, help="of LIFT: model.safetensors, a checkpoint or a run folder")
    engine.add_argument(
        "--engine_opt", action="append", default=[], metavar="NAME=VALUE", help="an option of the engine; repeatable"
    )
    engine.add_argument(
        "--dtype", help="fp32 or fp16 of RIFE (default: fp16 on CUDA), fp32 or bf16 of LIFT (default: fp32)"
    )
    engine.add_argument("--compile", action="store_true", help="torch.compile RIFE or LIFT: slow to start, then faster")
    engine.add_argument(
        "--tile", type=int, metavar="PX", help="side of tiles; 0 for none (default: 2048 beyond 2560x1440, networks)"
    )
    engine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    film = made.add_argument_group("film")
    film.add_argument("--cuts", type=Path, metavar="FILE", help='cuts, one a line: a frame\'s number or "12.48s"')
    film.add_argument("--no_cuts", action="store_true", help="one shot: look for no cuts")
    film.add_argument("--source_fps", type=float, default=24.0, help="of a folder of pictures (default: 24)")
    film.add_argument("--bits", type=int, help="8 or 10 a channel (default: as the film)")
    film.add_argument("--no_audio", action="store_true", help="leave the sound out")
    film.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return made


def settings_of(args: argparse.Namespace) -> InterpolateSettings:
    """The flags as settings.

    Raises:
        UsageError: one is out of range, or two do not go together.
    """
    options = named_values(args.engine_opt, "--engine_opt")
    if args.dtype is not None:
        options["dtype"] = args.dtype
    if args.compile:
        options["compile"] = "true"
    fps = None
    if args.fps is not None:
        try:
            fps = Fraction(args.fps)
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"--fps must be a number or a fraction as 60000/1001, got {args.fps!r}") from None
    return InterpolateSettings(
        factor=2 if args.factor is None and fps is None else args.factor,
        fps=fps,
        interpolator=args.interpolator,
        options=options,
        checkpoint=args.checkpoint,
        cuts=args.cuts,
        find_cuts=not args.no_cuts,
        tile_px=args.tile,
        source_fps=args.source_fps,
        bits=args.bits,
        device=args.device,
        audio=not args.no_audio,
        overwrite=args.overwrite,
    )


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parser(description).parse_args(argv)

    def body() -> ExitCode:
        from model.video.interpolate.run import interpolate_film  # PyTorch and PyAV: --help need not wait for them

        interpolate_film(args.input, args.output, settings_of(args))
        return ExitCode.DONE

    return cli.main(body)
