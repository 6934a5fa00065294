"""The command line of scripts/refocus.py: flags, and the settings they become."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.arguments import ArgumentParser, named_values
from pipeline.errors import ExitCode, UsageError
from pipeline.refocus.settings import RefocusSettings


def parser(description: str | None) -> ArgumentParser:
    """All flags, with the defaults of the settings."""
    usual = RefocusSettings()
    made = ArgumentParser(description=description)
    made.add_argument("photo", type=Path, help="the photograph")
    made.add_argument("-o", "--output", type=Path, required=True, help="a .png or .jpg")
    made.add_argument(
        "--focus_px", metavar="X,Y", help="focus on this pixel of the photograph as shown; its middle unless given"
    )
    made.add_argument("--K", dest="k", type=float, default=usual.k, help="blur: px of radius per 1/m; 0 blurs nothing")
    made.add_argument("--engine", default=usual.engine, help="bokehnet, or lens: optics, without weights")
    made.add_argument(
        "--depth",
        default=usual.depth,
        help="given (beside the photograph), vda, or a file or folder; auto: the best there is",
    )
    made.add_argument("--no_deblur", action="store_true", help="the photograph is sharp: leave DeblurNet out")
    made.add_argument("--long_side", type=int, metavar="PX", help="resize to this longer side first")
    made.add_argument("--steps", type=int, default=usual.steps, help="denoising steps of each network")
    made.add_argument("--seed", type=int, default=usual.seed, help="of the networks' noise")
    made.add_argument(
        "--author_seeds", action="store_true", help="the published code's noise, 42 and 1234, on the device"
    )
    made.add_argument(
        "--engine_opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the engines that know it; may be repeated",
    )
    made.add_argument("--device", default=usual.device, help="auto, cpu, cuda or cuda:N")
    made.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return made


def settings_of(args: argparse.Namespace) -> RefocusSettings:
    """The flags as settings.

    Raises:
        UsageError: one is malformed or out of range.
    """
    pairs = named_values(args.engine_opt, "--engine_opt")
    return RefocusSettings(
        focus_px=None if args.focus_px is None else pixel_of(args.focus_px),
        k=args.k,
        engine=args.engine,
        depth=args.depth,
        deblur=not args.no_deblur,
        long_side=args.long_side,
        steps=args.steps,
        seed=args.seed,
        author_seeds=args.author_seeds,
        engine_opts=pairs,
        device=args.device,
    )


def pixel_of(text: str) -> tuple[int, int]:
    """X,Y as given on a command line. Raises UsageError where it is something else."""
    try:
        x, y = (int(piece) for piece in text.split(","))
    except ValueError:
        raise UsageError(f"--focus_px takes X,Y in pixels, for example 410,220, got {text!r}") from None
    return x, y


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parser(description).parse_args(argv)

    def body() -> ExitCode:
        settings = settings_of(args)
        from pipeline.refocus.photograph import refocus  # SciPy: a wrong flag need not wait for it

        refocus(args.photo, args.output, settings, overwrite=args.overwrite)
        return ExitCode.DONE

    return cli.main(body, computes=True)
