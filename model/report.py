"""Put a trained run on the dataset's report page: loss curves, the table beside the baselines, pictures.

python -m model.report runs/demo --applied output/applied    # then: python -m pipeline report

It writes `report/network.json` and pictures into the output folder; the page itself is the pipeline's (pipeline/report).
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.evaluation.measure import BASELINES, NETWORK, STATELESS
from model.training.checkpoint import find_model, load_model
from pipeline import cli
from pipeline.errors import ExitCode, UsageError
from pipeline.media.images import PICTURE_SUFFIXES, natural_key
from pipeline.storage.files import read_json, write_bytes, write_json

CURVES = {"loss": "total loss", "depth": "depth term", "l1": "L1 term"}
APPLIED_FRAMES = 3
SHEET_WIDTH = 1600
COLUMNS = {
    "psnr_db": ("PSNR (dB)", 2),
    "ssim": ("SSIM", 4),
    "temporal": ("temporal error", 5),
    "abs_rel": ("depth AbsRel", 3),
    "delta1": ("depth δ<1.25", 3),
}
NOTE = (
    "A network of this size that saw a handful of scenes for minutes shows that everything works and beats leaving the frame "
    "as it is. Its depth is a guess beyond the scenes it saw, and so is its bokeh there; it is no measure of the architecture. "
    "The lens renderer with true depth made the truth: it is the ceiling, not a rival."
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder, evaluated before with python -m model.evaluate")
    parser.add_argument("--out_root", type=Path, default=Path("output"), help="the dataset whose page it is")
    parser.add_argument("--split", default="test", help="which evaluation to show")
    parser.add_argument("--applied", type=Path, help="folder of pictures that scripts/apply_bokeh.py wrote")
    parser.add_argument(
        "--applied_caption", default="The network applied to a whole scene: first, middle and last frame"
    )
    return parser.parse_args(argv)


def curves(run: Path) -> list[tuple[str, list[tuple[int, float]]]]:
    """Training losses by step from train.jsonl; a step that was done again after a resume counts as it was last.

    Raises:
        UsageError: there is no such file.
    """
    path = run / "train.jsonl"
    if not path.is_file():
        raise UsageError(f"there is no {path}; {run} must be the folder of a training run")
    found: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    for line in path.read_text().splitlines():
        try:
            logged = json.loads(line)
        except ValueError:
            continue  # a torn last line
        for name in CURVES:
            if logged.get("kind") == "train" and name in logged and math.isfinite(logged[name]):
                found[name][logged["step"]] = logged[name]
    return [(CURVES[name], sorted(points.items())) for name, points in found.items() if points]


def table(scores: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The evaluation as the page's table; figures that a method does not have are dashes."""
    shown = {key: value for key, value in COLUMNS.items() if any(row.get(key) is not None for row in scores.values())}
    rows = []
    names = [name for name in (*BASELINES, STATELESS, NETWORK) if name in scores]
    for name in names:
        cells = [scores[name].get(key) for key in shown]
        digits = [places for _, places in shown.values()]
        texts = ["–" if value is None else f"{value:.{places}f}" for value, places in zip(cells, digits, strict=True)]
        rows.append([name, *texts])
    return {
        "columns": ["method", *(label for label, _ in shown.values())],
        "rows": rows,
        "strong": names.index(NETWORK),
    }


def applied_strip(folder: Path) -> np.ndarray:
    """First, middle and last picture of a folder side by side, (H, W, 3) uint8 BGR.

    Raises:
        UsageError: it holds no pictures.
    """
    names = sorted((path.name for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES), key=natural_key)
    if not names:
        raise UsageError(f"{folder} holds no pictures; scripts/apply_bokeh.py FRAMES ... -o {folder} writes them")
    places = np.linspace(0, len(names) - 1, min(APPLIED_FRAMES, len(names))).round().astype(int)
    pictures = [cv2.imread(str(folder / names[place])) for place in places]
    return np.concatenate([picture for picture in pictures if picture is not None], axis=1)


def write(run: Path, out_root: Path, split: str, applied: Path | None, applied_caption: str) -> Path:
    """Write report/network.json and its pictures; returns the file's path.

    Raises:
        UsageError: the run was not trained or not evaluated.
    """
    model = find_model(run)
    evaluation = model.with_name(f"evaluation_{split}.json")
    try:
        found = read_json(evaluation, "the evaluation")
    except FileNotFoundError:
        raise UsageError(f"there is no {evaluation}; run: python -m model.evaluate {run} --split {split}") from None
    losses = curves(run)
    loaded = load_model(model)
    parameters = sum(parameter.numel() for parameter in loaded.net.parameters())
    folder = out_root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    sheet = cv2.imread(str(evaluation.with_suffix(".png")))
    shown = [("network_sheet.jpg", sheet, f"Scenes of the {split} split, which the network never saw")]
    if applied is not None:
        shown.append(("network_applied.jpg", applied_strip(applied), applied_caption))
    for name, picture, caption in shown:
        if picture is not None:
            write_bytes(folder / name, _jpeg(picture))
            pictures.append({"file": name, "caption": caption})
    steps = max((step for _, points in losses for step, _ in points), default=-1) + 1
    summary = {
        "schema": 1,
        "title": "BokehFlow, trained on the scenes of this page.",
        "note": NOTE,
        "facts": [
            ("Run", str(run)),
            ("Parameters", f"{parameters:,}"),
            ("Steps", f"{steps:,}"),
            ("Measured on", f"{len(found['takes'])} takes of the {split} split, {found['frames']} frames"),
        ],
        "curves": losses,
        "table": table(found["scores"]),
        "pictures": pictures,
    }
    path = folder / "network.json"
    write_json(path, summary)
    return path


def _jpeg(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    if width > SHEET_WIDTH:
        size = (SHEET_WIDTH, round(height * SHEET_WIDTH / width))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    good, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert good, "OpenCV encodes JPEG"
    return bytes(data)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def body() -> ExitCode:
        path = write(args.run, args.out_root, args.split, args.applied, args.applied_caption)
        print(f"wrote {path}; python -m pipeline report puts it on the page")
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
