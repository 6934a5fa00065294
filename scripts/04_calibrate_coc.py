"""Phase 4: measure the circle of confusion over the dataset; an operator looks and confirms max_coc.

python scripts/04_calibrate_coc.py
python scripts/04_calibrate_coc.py --confirm
python scripts/04_calibrate_coc.py --confirm 350um
"""

import argparse
import sys

from pipeline import cli
from pipeline.errors import ExitCode
from pipeline.optics import SENSOR_WIDTH_MM
from pipeline.phases.calibrate import run_calibrate
from pipeline.phases.calibration import CalibrateSettings, confirm

RECOMMENDATION = "the recommendation"


def metres(text: str) -> float | None:
    """A length such as 0.00035, 0.35mm or 350um in metres; None for the recommendation."""
    if text == RECOMMENDATION:
        return None
    for suffix, scale in (("um", 1e-6), ("mm", 1e-3), ("m", 1.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                return float(text.removesuffix(suffix)) * scale
            except ValueError:
                break
    raise argparse.ArgumentTypeError(f"{text!r} is no length; give metres, or a unit as in 350um or 0.35mm")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--confirm", nargs="?", const=RECOMMENDATION, metavar="VALUE", help="confirm p95, or this value"
    )
    parser.add_argument("--keep_confirmed", action="store_true", help="with --confirm: leave a value confirmed before")
    parser.add_argument("--seed", type=int, default=0, help="project seed of the lens draws")
    parser.add_argument("--focus_range", choices=("robust", "full"), default="robust", help="where focus is drawn from")
    parser.add_argument("--coc_model", choices=("contract", "thin_lens"), default="contract", help="lens model")
    parser.add_argument("--sensor_width_mm", type=float, default=SENSOR_WIDTH_MM, help="sensor width, mm")
    args = parser.parse_args(argv)
    try:
        args.value_m = metres(args.confirm) if args.confirm is not None else None
    except argparse.ArgumentTypeError as error:
        parser.error(f"--confirm: {error}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        run = cli.run_settings(args)
        if args.confirm is not None:
            return confirm(args.value_m, run, args.keep_confirmed)
        settings = CalibrateSettings(
            seed=args.seed,
            focus_range=args.focus_range,
            coc_model=args.coc_model,
            sensor_width_mm=args.sensor_width_mm,
        )
        return run_calibrate(settings, run)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
