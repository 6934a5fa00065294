"""Phase 5: per frame, atomically, the focus map and the render driven by that same map.

python scripts/05_render_and_labels.py
python scripts/05_render_and_labels.py --scene bear --num_sets 2 --engine_opt blades=6
python scripts/05_render_and_labels.py --engine bokehnet --guidance physical --device cuda
"""

import argparse
import sys

from pipeline import cli
from pipeline.engines import DEFAULTS, load_engine
from pipeline.engines.base import BokehRenderer
from pipeline.errors import ExitCode
from pipeline.phases.calibration import confirmed_calibration
from pipeline.phases.render import RenderPhase, RenderSettings
from pipeline.phases.runner import run_scenes
from pipeline.storage.scene import SceneIndex


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_engine_flags(parser, DEFAULTS["bokeh"], "lens, bokehnet")
    parser.add_argument("--num_sets", type=int, default=4, help="lens sets per scene")
    parser.add_argument("--steps", default=argparse.SUPPRESS, help="denoising steps of bokehnet; 30 unless given")
    parser.add_argument(
        "--guidance",
        default=argparse.SUPPRESS,
        help="of bokehnet: physical (default), radius in px / guidance_px; or normalised, 1 - focus_map",
    )
    parser.add_argument(
        "--guidance_px", default=argparse.SUPPRESS, help="radius that bokehnet takes for 1, px; 100 unless given"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        run = cli.run_settings(args)
        options = {flag: vars(args)[flag] for flag in ("steps", "guidance", "guidance_px") if flag in args}
        engine = load_engine("bokeh", args.engine, cli.engine_options(args) | options, args.device, BokehRenderer)
        calibration = confirmed_calibration(run, SceneIndex.load(run.index_path))
        return run_scenes(RenderPhase(RenderSettings(num_sets=args.num_sets), engine, calibration), run)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
