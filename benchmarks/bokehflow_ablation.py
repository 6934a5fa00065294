"""What each part of BokehFlow is worth: switched off in a trained network, and left out of training.

    python benchmarks/bokehflow_ablation.py inference --checkpoint model/weights/bokehflow_nano.safetensors --data photographs
    python benchmarks/bokehflow_ablation.py train --data photographs --steps 600 --seeds 0 1 2
    python benchmarks/bokehflow_ablation.py train --data photographs --parts base no_highlights two_scans

`train` is resumable: runs that are finished are not made again, a stopped one goes on, and what was measured is kept beside it.
Cells are PSNR in dB on the test split, the mean over seeds and the smallest and largest; seeds say how large chance is.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ablation import kept, print_table, train_once
from torch import Tensor

from model import train
from model.bokehflow import BokehFlow
from model.bokehflow.checkpoint import load_bokehflow
from model.bokehflow.measure import NETWORK, TRUE_DEPTH, measure_clip
from model.data.scene_manifest import find_scenes
from model.evaluation.eval_clips import EvalClip, scene_clips, spread
from model.evaluation.scores import pool

CONFIG = Path(train.__file__).parent / "configs" / "photographs.toml"
FIGURES = ("psnr_db", "psnr_band_db", "psnr_highlights_db", "temporal")
COLUMNS = [f"{kind} {figure}" for kind in ("own depth", "true depth") for figure in FIGURES]
CLIPS = {"data.clip_frames": 3, "data.crop_width": 160, "data.crop_height": 128}
# From depth that is handed in, only highlights in front of a renderer learn anything.
PREDICT = {"run.given_depth": 0.0}
# Part -> what its training changes. What carries a state is trained on clips, and so is what it is held against.
TRAINED: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "no_fusion": {"model.fusion_every": 0},
    "no_lens_modulation": {"model.enable_film": False},
    "no_gating": {"model.enable_dahg": False},
    "published_gating": {"model.dahg_blur": "pixels"},
    "two_scans": {"model.scans": 2},
    "no_highlights": PREDICT | {"model.enable_highlights": False},
    "no_correction": {"model.enable_correction": False},
    "no_physics": PREDICT | {"model.enable_physics": False},
    "clips": CLIPS,
    "clips_state": CLIPS | {"model.enable_tsp": True},
    "clips_slow_state": CLIPS | {"model.enable_tsp": True, "model.memory_tokens": 1024},
    "clips_motion": CLIPS | {"model.enable_motion": True},
}


def without_state(net: BokehFlow) -> None:
    for block in _blocks(net):
        block.start.enabled = False


def without_fusion(net: BokehFlow) -> None:
    net.config = replace(net.config, fusion_every=0)


def without_lens_modulation(net: BokehFlow) -> None:
    for block in net.bokeh_blocks:
        block.film = None  # type: ignore[assignment]


def without_gating(net: BokehFlow) -> None:
    """The floor under the decay stays, as it was learned; the mean blur no longer moves it."""
    for block in net.bokeh_blocks:
        gate = block.scans.decay  # type: ignore[union-attr]
        if isinstance(gate.weight, Tensor):  # type: ignore[union-attr]
            torch.nn.init.zeros_(gate.weight)  # type: ignore[union-attr]
        else:
            gate.weight = 0.0  # type: ignore[union-attr]


def with_two_scans(net: BokehFlow) -> None:
    for block in _blocks(net):
        block.scans.used = 2


def without_highlights(net: BokehFlow) -> None:
    net.highlight_head = None


def without_correction(net: BokehFlow) -> None:
    net.correction = None


def without_physics(net: BokehFlow) -> None:
    net.physics.config = replace(net.config, enable_physics=False)


def without_motion(net: BokehFlow) -> None:
    if net.motion is not None:
        torch.nn.init.zeros_(net.motion.last.weight)


SWITCHES: Mapping[str, Callable[[BokehFlow], None]] = {
    "as trained": lambda net: None,
    "no state": without_state,
    "no motion": without_motion,
    "no fusion": without_fusion,
    "no lens modulation": without_lens_modulation,
    "no mean blur in the gates": without_gating,
    "two scans": with_two_scans,
    "no highlights": without_highlights,
    "no correction": without_correction,
    "no physics": without_physics,
}


def _blocks(net: BokehFlow) -> list[Any]:
    return [*net.depth_blocks, *net.bokeh_blocks]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("inference", "train"))
    parser.add_argument("--data", type=Path, required=True, help="ray-traced photographs, as finished scenes")
    parser.add_argument("--checkpoint", type=Path, help="for inference: what is switched")
    parser.add_argument("--parts", nargs="+", default=list(TRAINED), choices=list(TRAINED), metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: 600, ten minutes of a core)")
    parser.add_argument("--crop", nargs=2, type=int, metavar=("W", "H"), help="of training (default: the config's)")
    parser.add_argument("--clips", type=int, default=24, help="lens sets of the test split, spread evenly, 0 for all")
    parser.add_argument("--frames", type=int, default=1, help="of each clip; 2 or more for the temporal error")
    parser.add_argument("--out", type=Path, default=Path("runs/bokehflow_ablation"))
    args = parser.parse_args()
    if args.kind == "inference" and args.checkpoint is None:
        parser.error("inference needs --checkpoint")
    return args


def measure(net: BokehFlow, clips: list[EvalClip], frames: int) -> dict[str, float | None]:
    """Figures of COLUMNS."""
    results = [measure_clip(net.eval(), clip, device="cpu", baselines=(), max_frames=frames) for clip in clips]
    scores = pool(results)
    named = {"own depth": scores[NETWORK], "true depth": scores[TRUE_DEPTH]}
    return {f"{kind} {figure}": found.get(figure) for kind, found in named.items() for figure in FIGURES}


def trained_part(args: argparse.Namespace, part: str, seed: int, clips: list[EvalClip]) -> dict[str, float | None]:
    """Train one part's network with one seed, and measure it."""
    out = args.out / f"{part}_{seed}"
    settings = {
        "data.root": args.data, "run.out_dir": out, "run.seed": seed, "run.steps": args.steps,
        "run.validate_every": args.steps, **TRAINED[part],
    }  # fmt: skip
    if args.crop:
        settings |= {"data.crop_width": args.crop[0], "data.crop_height": args.crop[1]}
    train_once(CONFIG, settings)
    frames = max(args.frames, 3) if part.startswith("clips") else args.frames
    found: dict[str, float | None] = kept(
        out / f"test_{args.clips}_{frames}.json", lambda: measure(load_bokehflow(out).net, clips, frames)
    )
    return found


def main() -> int:
    args = parse()
    torch.set_num_threads(1)
    clips = spread(scene_clips(find_scenes(args.data, "test")), args.clips)
    if args.kind == "train":
        rows = {part: [trained_part(args, part, seed, clips) for seed in args.seeds] for part in args.parts}
    else:
        net, rows = load_bokehflow(args.checkpoint).net, {}
        for name, switch in SWITCHES.items():
            switched = copy.deepcopy(net)
            switch(switched)
            rows[name] = [measure(switched, clips, args.frames)]
            print_table(name, {name: rows[name]}, COLUMNS)
    print_table(args.kind, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
