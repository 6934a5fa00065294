"""The training flags that users of the original know, as a config of this project.

python -m model.bokehdiff.published --config run.toml --train_data_dir data --resolution 512 \
    --max_train_steps 120000 --lpips --edge --opt_vae --learning_rate 5e-5 --output_dir runs/bokehdiff
python -m model.train --config run.toml

The original's own trainer does not start: it imports a class that does not exist. A flag that is not known here is refused by
name.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from model.bokehdiff.losses import DEFAULT_LPIPS
from model.training.settings import settings_from
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.errors import ExitCode, UsageError
from pipeline.hints import command
from pipeline.storage.files import write_bytes

# What only one value of is known here: (flag, value, why another is refused)
_FIXED = {
    "gan_loss_type": ("multilevel_sigmoid_s", "cross-entropy with 0.8 for real is what there is"),
    "lr_scheduler": ("cosine", "half a cosine to 0 is what there is"),
}
_PRECISIONS = {"no": "float32", "bf16": "bf16"}


def parser() -> ArgumentParser:
    """The flags, with the published defaults."""
    made = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", type=Path, required=True, help="the TOML file that is written")
    made.add_argument("--train_data_dir", required=True, help="folder with fg/ (RGBA) and bg/")
    made.add_argument("--output_dir", default="", help="of the run; runs/bokehdiff without")
    made.add_argument(
        "--pretrained_model_name_or_path", default="", help="folder of an SDXL; the weights table's without"
    )
    made.add_argument("--resolution", type=int, default=512)
    made.add_argument("--max_train_steps", type=int, default=120_000)
    made.add_argument("--checkpointing_steps", type=int, default=500)
    made.add_argument("--lpips", action="store_true", help="with ST-LPIPS's weights")
    made.add_argument("--edge", action="store_true")
    made.add_argument("--lambda_lpips", type=float, default=DEFAULT_LPIPS)
    made.add_argument("--lambda_gan", type=float, default=0.1)
    made.add_argument("--gan_step", type=int, default=30_000)
    made.add_argument("--gan_loss_type", default=_FIXED["gan_loss_type"][0])
    made.add_argument("--cv_type", default="convnext", help="convnext, from --cv_folder; or st_lpips, random")
    made.add_argument("--cv_folder", default="", help="a ConvNeXt in transformers' layout (not a flag of the original)")
    made.add_argument("--opt_vae", action="store_true")
    made.add_argument("--mixed_precision", default="no", help="no or bf16")
    made.add_argument("--learning_rate", type=float, default=5e-5)
    made.add_argument("--lr_scheduler", default=_FIXED["lr_scheduler"][0])
    made.add_argument("--lr_warmup_steps", type=int, default=20)
    made.add_argument(
        "--conventions", default="ours", choices=("ours", "published"),
        help="published: PISA's geometry, labels, gamma and dropout of the original (not a flag of the original)",
    )  # fmt: skip
    return made


def translate(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Sections and keys of the config; checked as `model.train` checks them.

    Raises:
        UsageError: a value that has no counterpart here.
    """
    for name, (known, why) in _FIXED.items():
        if getattr(args, name) != known:
            raise UsageError(f"--{name} must be {known}, got {getattr(args, name)!r}: {why}")
    if args.mixed_precision not in _PRECISIONS:
        raise UsageError(f"--mixed_precision must be {' or '.join(_PRECISIONS)}, got {args.mixed_precision!r}")
    if args.lambda_gan and args.cv_type == "convnext" and not args.cv_folder:
        raise UsageError("--cv_type convnext needs --cv_folder; or give --cv_type st_lpips, or --lambda_gan 0")
    model: dict[str, Any] = {"base": args.pretrained_model_name_or_path, "opt_vae": args.opt_vae}
    data: dict[str, Any] = {"pairs": args.train_data_dir, "crop": args.resolution}
    if args.conventions == "published":
        model |= dict.fromkeys(("distance", "resampling", "occlusion", "index"), "published") | {"dropout": 0.1}
        data |= {"gain": "published", "curve": "gamma"}
    values: dict[str, dict[str, Any]] = {
        "task": {"name": "bokehdiff"},
        "model": model,
        "data": data,
        "loss": {
            "edge": float(args.edge),
            "lpips": args.lambda_lpips if args.lpips else 0.0,
            "gan": args.lambda_gan,
            "gan_step": args.gan_step,
            "trunk": args.cv_type,
            "trunk_folder": args.cv_folder if args.cv_type == "convnext" and args.lambda_gan else "",
        },
        "optim": {"lr": args.learning_rate, "warmup_steps": args.lr_warmup_steps},
        "run": {
            "out_dir": args.output_dir,
            "steps": args.max_train_steps,
            "save_every": args.checkpointing_steps,
            "precision": _PRECISIONS[args.mixed_precision],
        },
    }
    if not args.lambda_gan and args.cv_type == "convnext":
        values["loss"]["trunk"] = "random"  # nothing looks at it
    settings_from(values)
    return values


def toml_of(values: dict[str, dict[str, Any]]) -> str:
    """TOML whose strings, numbers and truth values are JSON's."""
    sections = [
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())])
        for name, section in values.items()
    ]
    return "\n\n".join(sections) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 2 bad usage."""
    args = parser().parse_args(argv)

    def body() -> ExitCode:
        write_bytes(args.config, toml_of(translate(args)).encode())
        print(f"wrote {args.config}. Next: {command('model.train', '--config', str(args.config))}")
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
