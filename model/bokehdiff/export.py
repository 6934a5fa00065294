"""A trained BokehDiff as the files that the engine reads.

python -m model.bokehdiff.export runs/bokehdiff --out weights       # weights/bokehdiff/ with the LoRA and vae.ckpt
python scripts/05_render_and_labels.py --engine bokehdiff --engine_opt weights=weights

The base goes to weights/RealVisXL_V5.0 by hand, or is found where it is. A network that was trained whole is written as a base
of its own, with an adapter that changes nothing.
"""

import argparse
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.bokehdiff.network import BokehDiffNet
from model.bokehdiff.task import FAMILY
from model.training.network_file import load_kind, tensor_bytes
from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.options import BASE, LORA, VAE
from pipeline.engines.bokehdiff.vae import trained_shapes
from pipeline.errors import ExitCode, UsageError
from pipeline.storage.files import write_bytes


def lora_tensors(net: BokehDiffNet) -> dict[str, Tensor]:
    """The adapter in diffusers' layout; of zeros where the network was trained whole."""
    if net.config.adapt == "lora":
        parameters = dict(net.named_parameters())
        return {there: parameters[here] for here, there in net.names.items() if there.startswith("unet.")}
    found = {}
    for name, shape in adapted_layers(net.unet).items():
        found[f"unet.{name}.lora_A.weight"] = torch.zeros(1, *shape[1:])
        found[f"unet.{name}.lora_B.weight"] = torch.zeros(shape[0], 1, *(1,) * (len(shape) - 2))
    return found


def vae_tensors(net: BokehDiffNet) -> dict[str, Tensor]:
    """The three parts of the encoder, by the names of vae.ckpt."""
    state = net.vae.state_dict()
    return {name: state[name].detach().cpu().clone() for name in trained_shapes(net.vae)}


def export(net: BokehDiffNet, out: Path) -> list[Path]:
    """Write the files below `out`; returns them.

    Raises:
        UsageError: a base that would be written is there already.
    """
    folder, written = out / "bokehdiff", []
    if net.config.adapt == "full":
        base = out / BASE
        if base.exists():
            raise UsageError(f"{base} exists already; give another --out")
        _write_base(net, base)
        written.append(base)
    folder.mkdir(parents=True, exist_ok=True)
    alpha = {"unet.lora_alpha": net.config.alpha, "unet.r": net.config.rank} if net.config.adapt == "lora" else {}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(alpha)}
    write_bytes(folder / LORA, tensor_bytes(lora_tensors(net), metadata))
    buffer = io.BytesIO()
    torch.save(vae_tensors(net), buffer)
    write_bytes(folder / VAE, buffer.getvalue())
    return [*written, folder / LORA, folder / VAE]


def _write_base(net: BokehDiffNet, folder: Path) -> None:
    """The old base with the new UNet and VAE in it."""
    shutil.copytree(net.base.folder, folder)
    models: dict[str, Any] = {"unet": net.unet, "vae": net.vae}
    for name, model in models.items():
        shutil.rmtree(folder / name)
        model.save_pretrained(folder / name)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, a checkpoint's, or model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="a weights folder")
    args = parser.parse_args(argv)

    def body() -> ExitCode:
        loaded = load_kind(args.run, FAMILY, BokehDiffNet)
        for path in export(loaded.net, args.out):
            print(f"wrote {path}")
        contrast = float(loaded.config["contrast"])
        print(f"to draw as its validations did: --engine_opt contrast={contrast:g}")
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
