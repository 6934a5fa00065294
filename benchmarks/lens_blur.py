"""Lens renderer against ray-traced photographs, side by side with plain scatter, and its speed.

    python benchmarks/lens_blur.py --quick              # a minute: small pictures, one lens per scene
    python benchmarks/lens_blur.py --json lens.json     # the numbers of docs/benchmarks.md; about half an hour on two cores
    python benchmarks/lens_blur.py --only bars          # thin bars before texture; some minutes

Both renderers get the all-in-focus picture in linear light and the unclamped signed defocus, and return linear light. PSNR
is taken after clipping to [0, 1] and sRGB encoding, as a viewer sees it; for the night scene too, whose bulbs lie far
above 1 on input. The band is everything within R px of a depth discontinuity, where R is the larger of the two radii
that meet there: the pixels that the occlusion can change. The truth is the mean of two photographs with independent
samples; its own error is their difference, halved for the mean (6 dB).
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.evaluation.regions import occlusion_band
from pipeline.optics import defocus_px, linear_to_srgb, px_per_mm, render_lens_blur
from pipeline.raytrace import SCENES, build_scene, render_frame, render_photograph
from pipeline.raytrace.scenes.bars import BarsCase, Wall

# Frame, f-number, focus in metres. Wider openings than any real lens: at 35 mm and 512 px, f/1.4 blurs by only 2 to 8 px.
CASES: dict[str, list[tuple[int, float, float]]] = {
    "bear": [(6, 0.4, 4.2), (6, 0.5, 1.0), (18, 0.7, 8.5)],
    "fence": [(6, 0.3, 8.0), (6, 0.4, 1.04), (18, 0.7, 3.0)],
    "night": [(6, 0.3, 3.2), (6, 0.3, 8.0), (18, 0.5, 30.0)],
}
WALLS: tuple[Wall, ...] = ("letters", "noise", "bricks")
THIN, CROSSED = (1.0, 2.0, 3.0, 4.0, 5.0), (1.5, 2.0, 2.5, 4.0)


def plain_scatter(light: Tensor, defocus: Tensor) -> Tensor:
    """The baseline: every pixel spreads its colour over a soft disc, whatever lies in front.

    weight = (0.5 + 0.5 * tanh(4 * (r - distance))) / (r^2 + 0.2), normalised by the summed weights.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px.

    Returns:
        (3, H, W) linear light.
    """
    radius = defocus.abs()
    height, width = radius.shape[-2:]
    reach = math.ceil(float(radius.max())) + 2
    offsets: dict[int, list[tuple[int, int]]] = {}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down * down + right * right <= reach * reach:
                offsets.setdefault(down * down + right * right, []).append((down, right))
    planes = torch.cat([torch.ones_like(radius), light])
    total = planes.new_zeros((4, height + 2 * reach, width + 2 * reach))
    for squared, places in offsets.items():  # one weight map serves all offsets of the same length
        weighted = planes * ((0.5 + 0.5 * torch.tanh(4 * (radius - math.sqrt(squared)))) / (radius**2 + 0.2))
        for down, right in places:
            top, left = reach + down, reach + right
            total[:, top : top + height, left : left + width] += weighted
    total = total[:, reach : reach + height, reach : reach + width]
    return total[1:] / total[:1]


def psnr_db(first: Tensor, second: Tensor, band: Tensor | None = None) -> float:
    """PSNR of two pictures in linear light after clipping and sRGB encoding, over a band (1, H, W) or everything."""
    error = (linear_to_srgb(first.clamp(0, 1)) - linear_to_srgb(second.clamp(0, 1))) ** 2
    if band is not None:
        error = error[:, band[0]]
    return float("inf") if not error.numel() else -10 * math.log10(max(float(error.mean()), 1e-12))


def bar_cases() -> dict[str, list[BarsCase]]:
    """Thin bars at angles and through lenses that the renderer was not tuned on, by kind."""
    cases: dict[str, list[BarsCase]] = {}

    def add(kind: str, angle: float, near: float, far: float, i: int, seed: int, **more: Any) -> None:
        case = BarsCase(angle_deg=angle, near_px=near, far_px=far, wall=WALLS[i % 3], seed=seed, **more)
        cases.setdefault(kind, []).append(case)

    for i, angle in enumerate((0, 5, 14, 27, 52, 64, 83, 90, 101, 135, 166)):
        add("sharp", angle, 0, (5, 9, 15)[i % 3], i, 100 + i, widths_px=THIN)
        add("blurred", angle, (-4.5, -8, -12)[i % 3], 0, i, 100 + i, widths_px=THIN)
    for i, angle in enumerate((7, 30, 58)):
        add("crossing, sharp", angle, 0, 11, i, 120 + i, widths_px=CROSSED, cross_deg=90)
        add("crossing, blurred", angle, -5.5, 0, i, 120 + i, widths_px=CROSSED, cross_deg=(90, 60)[i % 2])
    for i, angle in enumerate((3, 25, 97)):
        add("near stem", angle, -11, 0, i, 130 + i, widths_px=(6.0, 9.0), spacing_px=70)
        add("near and far blurred", angle, -11, 4, i, 130 + i, widths_px=(3.0, 6.0, 9.0), spacing_px=45)
        add("both in front of focus", angle, -15, -6, i, 140 + i, widths_px=(3.0, 6.0, 9.0), spacing_px=45)
    return cases


def measure_bars(samples: int, per_kind: int | None) -> list[dict[str, Any]]:
    """One row per case: PSNR in the band, of ours, plain scatter and the truth itself."""
    rows = []
    for kind, cases in bar_cases().items():
        for case in cases[:per_kind]:
            scene, lens, width, height = case.scene(), case.lens(), case.width, case.height
            frame = render_frame(scene, 0, supersample=6, width=width, height=height)
            first, second = (
                torch.from_numpy(
                    render_photograph(scene, 0, lens, width=width, height=height, samples=samples, sample_set=k)
                )
                .permute(2, 0, 1)
                .contiguous()
                for k in (0, 1)
            )
            light = torch.from_numpy(frame.linear).permute(2, 0, 1).contiguous()
            defocus = defocus_px(torch.from_numpy(frame.depth_m)[None], lens, px_per_mm(case.width))
            ours = render_lens_blur(light[None], defocus[None], encoding="linear")[0]
            truth, band = (first + second) / 2, occlusion_band(defocus)
            row: dict[str, Any] = {"kind": kind, "angle_deg": case.angle_deg, "px": [case.near_px, case.far_px]}
            row |= {"ours_db": psnr_db(ours, truth, band), "truth_db": psnr_db(first, second, band) + 6.02}
            rows.append(row | {"scatter_db": psnr_db(plain_scatter(light, defocus), truth, band)})
    return rows


def bars_table(rows: list[dict[str, Any]]) -> Table:
    """Means over the angles of each kind."""
    table = Table(title="Thin bars: PSNR in the band, dB, mean over angles")
    for title in ("kind", "cases", "ours", "plain scatter", "truth"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        means = (sum(row[f"{who}_db"] for row in mine) / len(mine) for who in ("ours", "scatter", "truth"))
        table.add_row(kind, str(len(mine)), *(f"{mean:.2f}" for mean in means))
    return table


def measure_quality(width: int, height: int, samples: int, cases_per_scene: int) -> list[dict[str, Any]]:
    """One row per scene, frame and lens."""
    rows = []
    for name in SCENES:
        scene = build_scene(name)
        for frame_index, f_number, focus_m in CASES[name][:cases_per_scene]:
            frame = render_frame(scene, frame_index, width=width, height=height, supersample=4)
            lens = scene.lens(f_number, focus_m)
            photographs = [
                render_photograph(
                    scene, frame_index, lens, width=width, height=height, samples=samples, sample_set=number
                )
                for number in (0, 1)
            ]
            first, second = (torch.from_numpy(photo).permute(2, 0, 1).contiguous() for photo in photographs)
            truth = (first + second) / 2
            light = torch.from_numpy(frame.linear).permute(2, 0, 1).contiguous()
            defocus = defocus_px(torch.from_numpy(frame.depth_m)[None], lens, px_per_mm(width))
            ours = render_lens_blur(light[None], defocus[None], encoding="linear")[0]
            scatter = plain_scatter(light, defocus)
            band = occlusion_band(defocus)
            row: dict[str, Any] = {
                "scene": name,
                "lens": f"frame {frame_index}, f/{f_number}, {focus_m} m",
                "defocus_px": [round(float(defocus.min()), 1), round(float(defocus.max()), 1)],
                "band_share": float(band.float().mean()),
            }
            for area, mask in (("frame", None), ("band", band)):
                row[f"ours_{area}_db"] = psnr_db(ours, truth, mask)
                row[f"scatter_{area}_db"] = psnr_db(scatter, truth, mask)
                row[f"truth_{area}_db"] = psnr_db(first, second, mask) + 6.02
            rows.append(row)
    return rows


def speed_input(kind: str, radius_px: float, width: int = 854, height: int = 480) -> tuple[Tensor, Tensor]:
    """A picture and its defocus up to a radius: "bear", or "random", a smooth map in which every radius occurs."""
    if kind == "bear":
        scene = build_scene("bear")
        frame = render_frame(scene, 6, width=width, height=height, supersample=1)
        defocus = defocus_px(torch.from_numpy(frame.depth_m)[None], scene.lens(1.0, 4.2), px_per_mm(width))
        light = torch.from_numpy(frame.linear).permute(2, 0, 1).contiguous()
        return light[None], (defocus * (radius_px / defocus.abs().max()))[None]
    generator = torch.Generator().manual_seed(0)
    light = torch.rand(1, 3, height, width, generator=generator)
    coarse = torch.rand(1, 1, 4, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    unit = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return light, (2 * unit - 1) * radius_px


def measure_speed(repeats: int, with_scatter: bool) -> list[dict[str, Any]]:
    """Best of `repeats`, two threads, float32, no gradients."""
    torch.set_num_threads(2)
    rows = []
    for kind in ("bear", "random"):
        times: dict[float, float] = {}
        for radius in (31.0, 62.0):
            light, defocus = speed_input(kind, radius)
            with torch.no_grad():
                render_lens_blur(light, defocus, encoding="linear")  # kernels are cached, threads are up
                runs = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    render_lens_blur(light, defocus, encoding="linear")
                    runs.append(time.perf_counter() - start)
            times[radius] = min(runs)
            row: dict[str, Any] = {"input": kind, "radius_px": radius, "ours_s": times[radius]}
            row["ratio_to_31_px"] = times[radius] / times[31.0]
            # ru_maxrss never falls, so it is read in the order of growing radius
            row["process_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            if with_scatter and radius == 31.0:
                start = time.perf_counter()
                plain_scatter(light[0], defocus[0])
                row["scatter_s"] = time.perf_counter() - start
            rows.append(row)
    return rows


def quality_table(rows: list[dict[str, Any]]) -> Table:
    """PSNR of every row, and the mean gain over plain scatter, first averaged per scene."""
    table = Table(title="PSNR against the ray-traced photograph, dB (sRGB encoded, clipped)")
    for title in ("scene", "lens", "defocus px", "frame: ours", "scatter", "truth", "band: ours", "scatter", "truth"):
        table.add_column(title, justify="left" if title in ("scene", "lens") else "right")
    for row in rows:
        numbers = [
            f"{row[f'{who}_{area}_db']:.2f}" for area in ("frame", "band") for who in ("ours", "scatter", "truth")
        ]
        table.add_row(row["scene"], row["lens"], "{} .. {}".format(*row["defocus_px"]), *numbers)
    return table


def gains(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours minus plain scatter in dB, per scene and in the mean over scenes."""
    result: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["scene"] for row in rows):
        mine = [row for row in rows if row["scene"] == name]
        result[name] = {
            area: sum(row[f"ours_{area}_db"] - row[f"scatter_{area}_db"] for row in mine) / len(mine)
            for area in ("frame", "band")
        }
    means = {area: sum(gain[area] for gain in result.values()) / len(result) for area in ("frame", "band")}
    return {**result, "mean over scenes": means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small pictures, few rays, one lens per scene")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--only", choices=("quality", "bars", "speed"), help="run one part")
    parser.add_argument("--samples", type=int, help="rays per pixel and photograph (256; 48 with --quick)")
    args = parser.parse_args()
    console = Console(width=140)
    result: dict[str, Any] = {"quick": args.quick}
    if args.only in (None, "quality"):
        size = (256, 144) if args.quick else (512, 288)
        samples = args.samples or (48 if args.quick else 256)
        rows = measure_quality(*size, samples, cases_per_scene=1 if args.quick else 3)
        result |= {"size": size, "samples": samples, "quality": rows, "gain_db": gains(rows)}
        console.print(quality_table(rows))
        for name, gain in result["gain_db"].items():
            console.print(
                f"{name}: {gain['frame']:+.2f} dB in the frame, {gain['band']:+.2f} dB in the band over plain scatter"
            )
    if args.only in (None, "bars"):
        result["bars"] = measure_bars(args.samples or (48 if args.quick else 128), 1 if args.quick else None)
        console.print(bars_table(result["bars"]))
    if args.only in (None, "speed"):
        result["speed"] = measure_speed(3 if args.quick else 10, with_scatter=not args.quick)
        table = Table(title="854x480, float32, two threads")
        for title in ("input", "largest radius px", "ours s", "time to 31 px", "plain scatter s", "process peak MB"):
            table.add_column(title, justify="right")
        for row in result["speed"]:
            scatter = f"{row['scatter_s']:.1f}" if "scatter_s" in row else "-"
            values = (f"{row['ours_s']:.3f}", f"{row['ratio_to_31_px']:.2f}", scatter, f"{row['process_peak_mb']:.0f}")
            table.add_row(row["input"], f"{row['radius_px']:.0f}", *values)
        console.print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
