"""The command line of scripts/bokehdiff.py: flags as users of the published program know them, and the settings they become."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.arguments import ArgumentParser, named_values
from pipeline.errors import ExitCode, UsageError
from pipeline.refocus.command import pixel_of
from pipeline.refocus.folder_settings import FolderSettings


def parser(description: str | None) -> ArgumentParser:
    """All flags, with the defaults of the settings."""
    usual = FolderSettings()
    made = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--test_data_dir", type=Path, required=True, help="folder of photographs")
    made.add_argument("--output_dir", type=Path, default=Path("output"), help="results go to <output_dir>/<data_id>/")
    made.add_argument("--data_id", default="bokehdiff", help="name of this set of results")
    made.add_argument(
        "--K", dest="k", type=float, default=usual.k, help="px of radius from the nearest point to infinity"
    )
    made.add_argument(
        "--organization",
        default=usual.organization,
        help="folder: depth beside a photograph, or estimated; pngdepth: NAME.png is NAME.jpg's disparity, near = large",
    )
    made.add_argument("--depth", default=usual.depth, help="of folder: given, vda, or auto: given, else vda")
    made.add_argument("--variant", default=usual.variant, help="which published weights: base or small")
    made.add_argument("--upsample", action="store_true", help="work at 512 px of the shorter side at least")
    made.add_argument(
        "--focus_px", metavar="X,Y", help="focus on this pixel; else on NAME.mask.png, else on the middle"
    )
    made.add_argument(
        "--mask_network", default=usual.mask_network, metavar="FILE",
        help="IS-Net as ONNX, which finds the subject where there is no NAME.mask.png",
    )  # fmt: skip
    made.add_argument(
        "--shifts", action="store_true", help="three pictures, the focus moved nearer and further, as published"
    )
    made.add_argument(
        "--engine_opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the engine bokehdiff; may be repeated",
    )
    made.add_argument("--device", default=usual.device, help="auto, cpu, cuda or cuda:N")
    made.add_argument("--overwrite", action="store_true", help="replace existing results")
    return made


def settings_of(args: argparse.Namespace) -> FolderSettings:
    """The flags as settings.

    Raises:
        UsageError: one is malformed or out of range.
    """
    pairs = named_values(args.engine_opt, "--engine_opt")
    return FolderSettings(
        k=args.k,
        organization=args.organization,
        depth=args.depth,
        variant=args.variant,
        upsample=args.upsample,
        focus_px=None if args.focus_px is None else pixel_of(args.focus_px),
        mask_network=args.mask_network,
        shifts=args.shifts,
        engine_opts=pairs,
        device=args.device,
        overwrite=args.overwrite,
    )


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal."""
    args = parser(description).parse_args(argv)

    def body() -> ExitCode:
        settings = settings_of(args)
        if not args.data_id or Path(args.data_id).name != args.data_id:
            raise UsageError(f"--data_id must be a plain name, got {args.data_id!r}")
        from pipeline.refocus.folder import blur_folder

        blur_folder(args.test_data_dir, args.output_dir / args.data_id, settings)
        return ExitCode.DONE

    return cli.main(body, computes=True)
