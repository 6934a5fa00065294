"""Put a trained run on the dataset's report page: loss curves, the table beside the baselines, images.

python -m model.report runs/demo --applied output/applied    # then: python -m pipeline report
"""

import argparse
import sys
from pathlib import Path

from model.evaluation.report import write
from model.training.families import task_class
from model.training.network_file import find_model, load_model
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.errors import ExitCode
from pipeline.hints import command


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder, evaluated before with python -m model.evaluate")
    parser.add_argument("--out_root", type=Path, default=Path("output"), help="the dataset whose page it is")
    parser.add_argument("--split", default="test", help="which evaluation to show")
    parser.add_argument("--applied", type=Path, help="folder of images that scripts/apply_bokeh.py wrote")
    parser.add_argument(
        "--applied_caption", default="The network applied to a whole scene: first, middle and last frame"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        loaded = load_model(find_model(args.run))
        path = write(
            args.run,
            loaded.path,
            sum(parameter.numel() for parameter in loaded.net.parameters()),
            task_class(loaded.family).page(),
            out_root=args.out_root,
            split=args.split,
            applied=(args.applied, args.applied_caption) if args.applied else None,
        )
        print(
            f"wrote {path}; put it on the page with: {command('pipeline', 'report', '--out_root', str(args.out_root))}"
        )
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
