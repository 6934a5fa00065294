"""What the report page shows of a trained network: loss curves, the table beside the baselines, images.

It writes `report/network.json` and images into the output folder; the page itself is the pipeline's (pipeline/report). What the
network is called, and which figures matter, its family says.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.evaluation.scores import NetworkPage
from pipeline.errors import UsageError
from pipeline.hints import command
from pipeline.media.images import PICTURE_SUFFIXES, natural_key
from pipeline.storage.appending import read_records
from pipeline.storage.files import dump_json, read_json, write_shared

APPLIED_FRAMES = 3
SHEET_WIDTH = 1600
# larger is better; of every other figure, smaller
_HIGHER = ("psnr_db", "psnr_frame_db", "ssim", "delta1", "auroc", "side_auroc", "close", "spearman", "f_beta", "iou")


def curves(run: Path, shown: Mapping[str, str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Training losses by step from train.jsonl; a step that was done again after a resume counts as it was last.

    Raises:
        UsageError: there is no such file.
    """
    path = run / "train.jsonl"
    if not path.is_file():
        raise UsageError(f"there is no {path}; {run} must be the folder of a training run")
    found: dict[str, dict[int, float]] = {name: {} for name in shown}
    for logged in read_records(path):
        step = logged.get("step")
        if logged.get("kind") != "train" or not isinstance(step, int):
            continue
        for name in shown:
            value = logged.get(name)
            if isinstance(value, float | int) and abs(value) < math.inf:  # an integer too long for a float compares too
                found[name][step] = value
    return [(shown[name], sorted(points.items())) for name, points in found.items() if points]


def table(scores: dict[str, dict[str, float | None]], page: NetworkPage) -> dict[str, Any]:
    """The evaluation as the page's table; figures that a method does not have are dashes."""
    figures = page.columns.items()
    shown = {key: value for key, value in figures if any(row.get(key) is not None for row in scores.values())}
    rows = []
    names = [name for name in page.methods if name in scores]
    for name in names:
        cells = [scores[name].get(key) for key in shown]
        digits = [places for _, places in shown.values()]
        texts = ["–" if value is None else f"{value:.{places}f}" for value, places in zip(cells, digits, strict=True)]
        rows.append([name, *texts])
    return {
        "columns": ["method", *(label for label, _ in shown.values())],
        "rows": rows,
        "strong": names.index(page.strong),
        "better": ["", *("higher" if key in _HIGHER else "lower" for key in shown)],
    }


def applied_strip(folder: Path) -> np.ndarray:
    """First, middle and last image of a folder side by side, (H, W, 3) uint8 BGR.

    Raises:
        UsageError: it holds no images.
    """
    names = sorted((path.name for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES), key=natural_key)
    if not names:
        raise UsageError(f"{folder} holds no images; scripts/apply_bokeh.py FRAMES ... -o {folder} writes them")
    places = np.linspace(0, len(names) - 1, min(APPLIED_FRAMES, len(names))).round().astype(int)
    images = [cv2.imread(str(folder / names[place])) for place in places]
    return np.concatenate([image for image in images if image is not None], axis=1)


def write(
    run: Path,
    model: Path,
    parameters: int,
    page: NetworkPage,
    *,
    out_root: Path,
    split: str,
    applied: tuple[Path, str] | None,
) -> Path:
    """Write report/network.json and its images; returns the file's path.

    Args:
        run: folder of the training run.
        model: its model.safetensors that was evaluated.
        parameters: how many the network has.
        page: the family's words.
        out_root: the dataset whose page it is.
        split: which evaluation to show.
        applied: a folder of images that the network made, and a caption.

    Raises:
        UsageError: the run was not trained or not evaluated.
    """
    evaluation = model.with_name(f"evaluation_{split}.json")
    try:
        found = read_json(evaluation, "the evaluation")
    except FileNotFoundError:
        raise UsageError(
            f"there is no {evaluation}; run: {command('model.evaluate', str(run), '--split', split)}"
        ) from None
    losses = curves(run, page.curves)
    folder = out_root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    sheet = cv2.imread(str(evaluation.with_suffix(".png")))
    shown = [("network_sheet.jpg", sheet, f"Scenes of the {split} split, which the network never saw")]
    if applied is not None:
        shown.append(("network_applied.jpg", applied_strip(applied[0]), applied[1]))
    for name, image, caption in shown:
        if image is not None:
            write_shared(folder / name, _jpeg(image))
            images.append({"file": name, "caption": caption})
    steps = max((step for _, points in losses for step, _ in points), default=-1) + 1
    summary = {
        "schema": 1,
        "title": page.title,
        "note": page.note,
        "facts": [
            ("Run", str(run)),
            ("Parameters", f"{parameters:,}"),
            ("Steps", f"{steps:,}"),
            ("Measured on", f"{len(found['takes'])} clips of the {split} split, {found['frames']} frames"),
        ],
        "curves": losses,
        "table": table(found["scores"], page),
        "pictures": images,
    }
    path = folder / "network.json"
    write_shared(path, dump_json(summary).encode())
    return path


def _jpeg(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    if width > SHEET_WIDTH:
        size = (SHEET_WIDTH, round(height * SHEET_WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert good, "OpenCV encodes JPEG"
    return bytes(data)
