r"""The pictures in README.md and docs/, from the ray-traced scenes and the project's own lens. Some minutes on 2 cores.

python docs/make_pictures.py
python docs/make_pictures.py --run runs/photographs --data_root photographs --photographs demo_photographs \
    --clips "street_00022 set 0" "night_201 photographs 0"           # only the network's, from its checkpoint
python docs/make_pictures.py --bars --before ../older                # thin bars, beside an older state
python docs/make_pictures.py --film ../shared/data/scenes/breakdance # only that film's, with the disparity beside it
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from model.bokehflow.checkpoint import load_bokehflow
from model.bokehflow.lens import LensBatch
from model.data.scene_manifest import find_scenes
from model.evaluation.baselines import lens_render
from model.evaluation.eval_clips import EvalClip, scene_clips
from model.evaluation.photographs import find_photographs
from model.video.depth_source import choose_depth, colour_depth, inverse_ends
from model.video.engines import LensEngine
from model.video.film import Film, to_8_bit
from model.video.focus import Anchor
from model.video.plan import follow
from model.video.settings import ApplySettings
from pipeline.measures import psnr_of_mse
from pipeline.media.convert import tensor_to_image
from pipeline.media.video_io import TimedFolder
from pipeline.optics import Aperture, Lens, coc_diameter, defocus_px, focus_map, px_per_mm, render_lens_blur
from pipeline.optics.visible import draw_visible_lens
from pipeline.raytrace import (
    Frame,
    Plane,
    build_scene,
    render_frame,
    render_layers,
    render_photograph,
    to_srgb8,
)
from pipeline.raytrace.scenes.bars import BarsCase

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT, GAP = 640, 384, 8
_SMALL = (480, 288)
Panel = tuple[str, npt.NDArray[np.uint8]]


def photograph(linear: npt.NDArray[np.float32], depth_m: npt.NDArray[np.float32], lens: Lens) -> npt.NDArray[np.uint8]:
    """The lens renderer on linear light, encoded for display."""
    depth = torch.from_numpy(depth_m)[None, None]
    image = torch.from_numpy(linear).permute(2, 0, 1)[None]
    radius = defocus_px(depth, lens, px_per_mm(WIDTH))
    with torch.inference_mode():
        rendered = render_lens_blur(image, radius, order=depth, encoding="linear")
    return to_srgb8(rendered[0].permute(1, 2, 0).numpy())


def coloured(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.uint8]:
    """Values in [0, 1] through a matplotlib colour map."""
    return (matplotlib.colormaps[name](values)[..., :3] * 255).astype(np.uint8)


def sheet(panels: list[Panel], columns: int, path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Panels with their titles in a grid."""
    rows = -(-len(panels) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    font = ImageFont.load_default(size=19)
    draw = ImageDraw.Draw(canvas)
    for number, (title, panel) in enumerate(panels):
        x, y = number % columns * (width + GAP), number // columns * (height + GAP)
        canvas.paste(Image.fromarray(cv2.resize(panel, (width, height))), (x, y))
        box = draw.textbbox((x + 14, y + 10), title, font=font)
        draw.rounded_rectangle((box[0] - 8, box[1] - 6, box[2] + 8, box[3] + 7), 6, fill=(20, 24, 30))
        draw.text((x + 14, y + 10), title, font=font, fill="white")
    canvas.save(path, quality=88, optimize=True)
    print(path)


def network(run: Path, clips: list[EvalClip]) -> None:
    """network.jpg: photographs, a row each: truth, lens renderer and network with the true depth, and where they err."""
    net = load_bokehflow(run).net
    panels: list[Panel] = []
    for clip in clips:
        sample = clip.read(0)
        assert sample.depth_m is not None, "ray-traced photographs have depth"
        frame, depth = sample.frame[None], sample.depth_m[None]
        lens = LensBatch.of(clip.lens, clip.px_per_mm, clip.max_radius_px)
        limit = math.inf if clip.max_radius_px is None else clip.max_radius_px
        with torch.inference_mode():
            ours = net(frame, lens, depth_m=depth)[0].bokeh[0]
            rendered = lens_render(frame, depth, clip.lens, clip.px_per_mm, limit)[0]
        panels += [
            (f"{clip.name}, all in focus", tensor_to_image(frame[0])),
            ("ray-traced photograph", tensor_to_image(sample.bokeh)),
            (f"lens renderer, {_psnr(rendered, sample.bokeh):.1f} dB", tensor_to_image(rendered)),
            (f"network, {_psnr(ours, sample.bokeh):.1f} dB", tensor_to_image(ours)),
            ("error of the renderer, x4", _error(rendered, sample.bokeh)),
            ("error of the network, x4", _error(ours, sample.bokeh)),
        ]
    sheet(panels, 6, IMAGES / "network.jpg", width=400, height=224)


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return psnr_of_mse(float((image.double() - truth.double()).square().mean()))


def _error(image: torch.Tensor, truth: torch.Tensor) -> npt.NDArray[np.uint8]:
    return coloured((4 * (image - truth).abs().mean(0)).clamp(0, 1).numpy(), "inferno")


ZOOM = 6
BARS = (  # rows, columns of the crop; the bars of the first stay sharp, those of the second cross out of focus
    (BarsCase(angle_deg=14, near_px=0, far_px=9, wall="bricks", seed=111), (38, 30)),
    (
        BarsCase(widths_px=(2, 2, 3), angle_deg=7, near_px=-5.5, far_px=0, cross_deg=90, wall="letters", seed=122),
        (38, 52),
    ),
)
_RENDER = """
import sys, numpy as np, torch
from pipeline.optics import render_lens_blur
light, defocus = (torch.from_numpy(np.load(path)) for path in sys.argv[1:3])
np.save(sys.argv[3], render_lens_blur(light, defocus, encoding="linear").numpy())
"""


def bars(before: Path | None = None) -> None:
    """bars.png: thin bars, enlarged. With `before`, a checkout of an older state, its renderer stands beside ours."""
    panels: list[Panel] = []
    for case, (top, left) in BARS:
        scene, lens, size = case.scene(), case.lens(), {"width": case.width, "height": case.height}
        frame = render_frame(scene, 0, supersample=6, **size)
        light = torch.from_numpy(frame.linear).permute(2, 0, 1)[None]
        defocus = defocus_px(torch.from_numpy(frame.depth_m)[None, None], lens, px_per_mm(case.width))
        pictures = [("all in focus", frame.linear)]
        if before:
            pictures.append(("before", _rendered_by(before, light, defocus)))
        pictures += [
            ("lens renderer", render_lens_blur(light, defocus, encoding="linear")[0].permute(1, 2, 0).numpy()),
            ("ray-traced photograph", render_photograph(scene, 0, lens, samples=400, **size)),
        ]
        for title, linear in pictures:
            crop = to_srgb8(linear)[top : top + 44, left : left + 60]
            panels.append((title, np.kron(crop, np.ones((ZOOM, ZOOM, 1), np.uint8))))
    sheet(panels, len(panels) // len(BARS), IMAGES / "bars.png", width=60 * ZOOM, height=44 * ZOOM)


def _rendered_by(checkout: Path, light: torch.Tensor, defocus: torch.Tensor) -> npt.NDArray[np.float32]:
    """(H, W, 3) linear light by the renderer of another checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.npy") for name in ("light", "defocus", "out")]
        np.save(paths[0], light.numpy())
        np.save(paths[1], defocus.numpy())
        command = [sys.executable, "-c", _RENDER, *paths]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(checkout.resolve())}, cwd=checkout)
        rendered: npt.NDArray[np.float32] = np.load(paths[2])
    return rendered[0].transpose(1, 2, 0)


def film(folder: Path, number: int = 40) -> None:
    """breakdance.jpg: a frame as apply_bokeh writes it, the dancer followed from the first frame on and the crowd in focus."""
    source = Film(TimedFolder(folder, 24), number + 1, None, deep=False)
    look = source.look(find_cuts=True, on_frame=lambda: None)
    depth = choose_depth("given", folder, lambda: len(source.source.files()), "cpu", None)
    depth.prepare(source, look, folder, lambda: None)
    anchor = Anchor(time_s=0, pixel=(363, 330))
    followed = follow(source, look, depth, (anchor,), ApplySettings().temporal_s, lambda: None).focus_m
    frame = list(source.frames())[number]
    panels: list[Panel] = [("all in focus", to_8_bit(frame.picture))]
    for words, focus_m, f_number in (("the dancer followed", followed, 2.0), ("focus 10 m", [10.0] * look.count, 1.4)):
        lens = Lens(f_m=0.135, f_number=f_number, focus_m=focus_m[number])
        engine = LensEngine(ApplySettings(), lens, depth, "cpu")
        [shot] = engine.photographs([(number, frame)], look, focus_m)
        panels.append((f"{words}, 135 mm, f/{f_number:g}", to_8_bit(shot.picture)))
    depth_m = depth.read(number)
    panels.append(("depth (near is bright)", colour_depth(depth_m, inverse_ends(iter([depth_m])))))
    sheet(panels, 2, IMAGES / "breakdance.jpg", *look.size)


def layered() -> None:
    """A lattice before a street at night, as two planes through the lens: the truth for pairs made on the fly."""
    margin, width, height = 40, 480, 288
    full = (width + 2 * margin, height + 2 * margin)
    street = render_frame(build_scene("night"), 0, width=full[0], height=full[1]).linear
    street = street * (1 + 14 * np.clip(street.max(axis=2, keepdims=True) - 0.75, 0, 1))  # lamps brighter than white
    y, x = np.mgrid[: full[1], : full[0]].astype(np.float32)
    bars = np.minimum(np.abs((x + y) % 110 - 55), np.abs((x - y) % 110 - 55)) < 7
    wire = np.float32((0.5, 0.16, 0.05)) * (0.6 + 0.4 * np.sin((x - 2 * y) / 9))[..., None].astype(np.float32)
    near, far = 1.0, 0.12
    planes = (
        Plane(linear=wire, alpha=bars.astype(np.float32), disparity=near),
        Plane(linear=street.astype(np.float32), disparity=far),
    )
    panels: list[Panel] = []
    for title, focus, opening in (
        ("focus on the lattice, a disc", near, Aperture()),
        ("focus on the street, a disc", far, Aperture()),
        ("focus on the lattice, six blades", near, Aperture(blades=6)),
    ):
        lens = Lens(f_m=0.05, f_number=1.8, focus_m=1 / focus)
        found = render_layers(planes, lens, opening, px_per_mm=px_per_mm(width), margin_px=margin, samples=196)
        panels.append((title, to_srgb8(found)))
    sheet(panels, 3, IMAGES / "layered.jpg", width, height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a training run: draw the network's picture from it, and nothing else")
    parser.add_argument("--data_root", type=Path, help="with --run: generated scenes with ray-traced photographs")
    parser.add_argument(
        "--photographs", type=Path, help="with --run: of make_photograph_scenes.py --families bear fence night"
    )
    parser.add_argument(
        "--clips", nargs="+", default=[], help="with --run: rows, as SCENE set N or SCENE photographs N"
    )
    parser.add_argument("--bars", action="store_true", help="only bars.png")
    parser.add_argument("--before", type=Path, help="a checkout whose renderer is shown beside ours in bars.png")
    parser.add_argument("--film", type=Path, help="a folder of frames with depth: draw its picture, and nothing else")
    args = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    if args.bars:
        bars(args.before)
    elif args.film:
        film(args.film)
    elif args.run:
        known = list(find_photographs(args.photographs).clips) if args.photographs else []
        known += scene_clips(find_scenes(args.data_root, "test")) if args.data_root else []
        by_name = {clip.name: clip for clip in known}
        network(args.run, [by_name[name] for name in args.clips])
    else:
        physics()
        bars(args.before)
        layered()


def visible_lens(scene_id: str, set_index: int, depth_m: npt.NDArray[np.float32]) -> Lens:
    """A lens as phase 5 draws it with --lens_prior visible, from one frame's depth."""
    return draw_visible_lens(scene_id, set_index, depth_m, px_per_mm=px_per_mm(WIDTH), width_px=WIDTH).lens


def words_of(lens: Lens) -> str:
    return f"{lens.f_m * 1000:.0f} mm, f/{lens.f_number:.1f}, focus {lens.focus_m:.1f} m"


def gallery(bear: Frame) -> None:
    """gallery_*.jpg: two scenes before and after a visible lens, and a focus pull."""
    for name, set_index in (("fence", 1), ("night", 0)):
        frame = render_frame(build_scene(name), 10, width=WIDTH, height=HEIGHT, f_m=0.05)
        lens = visible_lens(name, set_index, frame.depth_m)
        panels = [("all in focus", frame.srgb), (words_of(lens), photograph(frame.linear, frame.depth_m, lens))]
        sheet(panels, 2, IMAGES / f"gallery_{name}.jpg", *_SMALL)
    lenses = [Lens(f_m=0.1, f_number=2.0, focus_m=focus_m) for focus_m in (1.0, 3.7, 12.0)]
    panels = [(words_of(lens), photograph(bear.linear, bear.depth_m, lens)) for lens in lenses]
    sheet(panels, 3, IMAGES / "gallery_pull.jpg", *_SMALL)


def physics() -> None:
    """overview.jpg, gallery_*.jpg and renderer.jpg."""
    f_m = 0.05
    frame = render_frame(build_scene("bear"), 11, width=WIDTH, height=HEIGHT, f_m=f_m)
    lens = visible_lens("bear", 2, frame.depth_m)
    saturation_m = float(np.percentile(coc_diameter(torch.from_numpy(frame.depth_m), lens).numpy(), 95))
    label = focus_map(torch.from_numpy(frame.depth_m), lens, saturation_m).numpy()
    nearness = np.clip(np.log(60 / frame.depth_m) / np.log(60 / 1.2), 0, 1)
    panels = [
        ("all in focus", frame.srgb),
        ("depth (near is bright)", coloured(nearness, "magma")),
        ("focus map", coloured(label, "gray")),
        (words_of(lens), photograph(frame.linear, frame.depth_m, lens)),
    ]
    sheet(panels, 2, IMAGES / "overview.jpg")
    gallery(frame)

    panels = []
    for name, focus_m, f_number in (("fence", 6.0, 1.8), ("night", 2.6, 1.8)):
        scene = build_scene(name)
        frame = render_frame(scene, 10, width=WIDTH, height=HEIGHT, f_m=f_m)
        lens = scene.lens(f_number, focus_m, f_m)
        words = f"f/{f_number}, focus {focus_m} m"
        truth = render_photograph(scene, 10, lens, width=WIDTH, height=HEIGHT, samples=196, f_m=f_m)
        panels += [
            (f"lens renderer, {words}", photograph(frame.linear, frame.depth_m, lens)),
            ("ray-traced photograph", to_srgb8(truth)),
        ]
    sheet(panels, 2, IMAGES / "renderer.jpg")


if __name__ == "__main__":
    main()
