"""How much the two lens priors blur: datasets whose depth is finished, 8 lenses a scene, before anything is rendered.

python benchmarks/lens_priors.py output demo/output
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.optics import coc_diameter, coc_to_radius_px, focus_map, px_per_mm  # noqa: E402
from pipeline.phases.calibrate import DRAWS  # noqa: E402
from pipeline.phases.calibration import CalibrateSettings, LensPrior  # noqa: E402
from pipeline.phases.lenses import sample_depth, scene_lenses  # noqa: E402
from pipeline.phases.render import MEAN_FOCUS_RANGE  # noqa: E402
from pipeline.run_settings import RunSettings  # noqa: E402
from pipeline.storage.scene import Scene, SceneIndex  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_roots", type=Path, nargs="+", help="folders of generated scenes with depth")
    args = parser.parse_args(argv)
    print(
        "| scenes | prior | median set beyond 1 px | largest radius, median set | sets outside mean focus 0.2 to 0.8 |"
    )
    print("|---|---|---|---|---|")
    for out_root in args.out_roots:
        for prior in ("published", "visible"):
            print(f"| {out_root} | {prior} | {measure(out_root, prior)} |", flush=True)
    return 0


def measure(out_root: Path, prior: LensPrior) -> str:
    """One row of the table; max_coc is the 95th percentile over the same pixels, as calibration recommends it."""
    settings = CalibrateSettings(lens_prior=prior)
    drawn = []
    for name, entry in SceneIndex.load(RunSettings(out_root=out_root).index_path).accepted.items():
        scene = Scene(out_root, name)
        depth = torch.from_numpy(sample_depth(scene, entry, settings))
        lenses = [one.lens for one in scene_lenses(scene, entry, DRAWS, settings)]
        drawn += [(depth, lens, px_per_mm(entry.width, settings.sensor_width_mm)) for lens in lenses]
    cocs = [coc_diameter(depth, lens) for depth, lens, _ in drawn]
    max_coc_m = float(np.percentile(torch.cat(cocs).numpy(), 95))
    radii = [np.asarray(coc_to_radius_px(1.0, per_mm) * coc) for coc, (_, _, per_mm) in zip(cocs, drawn, strict=True)]
    means = np.array([float(focus_map(depth, lens, max_coc_m).mean()) for depth, lens, _ in drawn])
    low, high = MEAN_FOCUS_RANGE
    beyond = np.median([(radius > 1).mean() for radius in radii])
    largest_px = np.median([radius.max() for radius in radii])
    return f"{beyond:.0%} | {largest_px:.1f} px | {int(((means < low) | (means > high)).sum())} of {len(means)}"


if __name__ == "__main__":
    sys.exit(main())
