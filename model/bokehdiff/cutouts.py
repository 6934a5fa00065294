"""Cut-outs and backgrounds out of plain pictures, where nobody has cut anything out: enough to try a training.

python -m model.bokehdiff.cutouts PICTURES --out cutouts --count 64      # then: data.pairs = "cutouts"

A cut-out is a piece of a picture within a wavy outline, some with holes. Real ones, people and plants with hair and leaves,
are better material.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline import cli
from pipeline.arguments import ArgumentParser
from pipeline.errors import ExitCode, UsageError
from pipeline.media.images import PICTURE_SUFFIXES, Picture, encode_png, natural_key, read_picture
from pipeline.seeds import stable_seed
from pipeline.storage.files import write_bytes

_FINER = 4  # the outline is drawn so much larger, and averaged


def outline(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(H, W) alpha of a wavy shape that fills most of the rectangle."""
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 16):
        radius += rng.uniform(0, 0.5 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    radius /= radius.max()
    size = np.array([width, height]) * _FINER
    points = size / 2 + 0.48 * size * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    canvas = np.zeros((height * _FINER, width * _FINER), np.uint8)
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 255)
    for _ in range(int(rng.integers(0, 4))):
        middle = tuple(int(v) for v in size * rng.uniform(0.3, 0.7, 2))
        cv2.circle(canvas, middle, int(size.min() * rng.uniform(0.02, 0.12)), 0, -1)
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def cut(picture: Picture, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(H, W, 4) of a random piece of the picture."""
    height, width = (max(16, int(side * rng.uniform(0.4, 0.9))) for side in picture.shape[:2])
    top, left = (int(rng.integers(max(1, a - b))) for a, b in zip(picture.shape[:2], (height, width), strict=True))
    piece = picture[top : top + height, left : left + width]
    return np.dstack([piece, outline(piece.shape[0], piece.shape[1], rng)])


def make(pictures: Path, out: Path, count: int, seed: int) -> int:
    """Write fg/ and bg/; returns how many pictures there were.

    Raises:
        UsageError: there is none.
    """
    found = [p for p in pictures.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES] if pictures.is_dir() else []
    files = sorted(found, key=lambda p: natural_key(str(p.relative_to(pictures))))
    if not files or count < 2:
        raise UsageError(f"{pictures} must hold pictures and --count be at least 2, found {len(files)} and {count}")
    for name in ("fg", "bg"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64(stable_seed("cutout", seed, number)))
        piece = cut(read_picture(files[int(rng.integers(len(files)))])[0], rng)
        ok, data = cv2.imencode(".png", cv2.cvtColor(piece, cv2.COLOR_RGBA2BGRA))
        assert ok, "an RGBA array of 8 bits always encodes"
        write_bytes(out / "fg" / f"cutout_{number:04d}.png", data.tobytes())
    chosen = [files[number * len(files) // count] for number in range(min(count, len(files)))]
    for number, path in enumerate(chosen):
        write_bytes(out / "bg" / f"picture_{number:04d}.png", encode_png(read_picture(path)[0]))
    return len(files)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 done, 2 bad usage."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of pictures, searched below too")
    parser.add_argument("--out", type=Path, required=True, help="gets fg/ and bg/")
    parser.add_argument("--count", type=int, default=64, help="cut-outs, and at most as many backgrounds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    def body() -> ExitCode:
        pictures = make(args.pictures, args.out, args.count, args.seed)
        print(f"{args.count} cut-outs of {pictures} pictures in {args.out}")
        return ExitCode.DONE

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
