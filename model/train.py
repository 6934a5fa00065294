"""Train the network that a config names, and go on where a run in the same folder stopped.

python -m model.train --config model/configs/demo.toml                       # a few minutes on two cores, after make demo
python -m model.train --config model/configs/nano.toml --set optim.lr=3e-4 --set run.out_dir=runs/nano_low
torchrun --nproc_per_node 4 -m model.train --config model/configs/small.toml
"""

import argparse
import sys
from pathlib import Path

from model.training.settings import load_settings
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.errors import ExitCode, StoppedError
from pipeline.signals import StopSignals

CONFIGS = Path(__file__).parent / "configs"


def config_path(text: str) -> Path:
    """A file as it was given, or by its bare name one of those in model/configs, which travel with the package."""
    shipped = CONFIGS / f"{text}.toml"
    return shipped if shipped.is_file() and not Path(text).exists() else Path(text)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.toml")))
    parser.add_argument("--config", type=config_path, required=True, help=f"a TOML file, or one of: {shipped}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting; may be repeated"
    )
    parser.add_argument(
        "--perceptual_weights",
        metavar="FILE",
        help="VGG-16 weights (.pth or .safetensors)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, 75 stopped by a signal with steps left (the same command goes on)."""
    args = parse(argv)

    def body() -> ExitCode:
        overrides = list(args.set)
        if args.perceptual_weights:
            overrides.append(f"loss.perceptual_weights='{args.perceptual_weights}'")
        settings = load_settings(args.config, overrides)
        from model.training.trainer import Trainer  # Accelerate takes seconds to import; a wrong config should not

        with StopSignals() as signals:
            trainer = Trainer(settings, signals)
            try:
                trainer.run()
            except StoppedError:
                trainer.close()  # not after a failure: the other processes may be waiting in a collective
                raise
            trainer.close()
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
