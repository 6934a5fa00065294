"""Phase 4: one max_coc for the dataset, from the depth statistics and the very lens draws that phase 5 will render.

The recommendation is the 95th percentile of the circle of confusion. An operator looks at it and confirms (`calibration`).
"""

import argparse
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.device import fix_threads
from pipeline.errors import ExitCode, InputError, PipelineError, StaleError, UsageError
from pipeline.hints import next_step, phase_command
from pipeline.media.images import multiple_of_16
from pipeline.optics.lens import OpticsError, coc_to_radius_px, px_per_mm
from pipeline.phases.calibration import (
    SCHEMA,
    CalibrateSettings,
    confirm,
    finished_depth,
    read_calibration,
)
from pipeline.phases.lenses import sample_depth, sampled_frames, scene_lenses
from pipeline.phases.registry import Phase, Presenter
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.completion import Fields, as_stored, fingerprint, first_difference
from pipeline.storage.files import dump_json, write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex, calibration_path, histogram_path

VERSION = 1
SCENE_SHARE, MIN_SCENES = 0.2, 20
DRAWS = 8
RADII_PX = (1, 3, 10)  # the shares of pixels blurred more are counted
NEARLY_SHARP = 0.25  # of the pixels beyond 1 px: with less there is nearly nothing to see or to learn
PERCENTILES = (50, 90, 95, 99)
HISTOGRAM_BINS = 60


def run_calibrate(settings: CalibrateSettings, run: RunSettings, presenter: Presenter) -> ExitCode:
    """Measure and write coc_stats.json and the histogram; leave a confirmed calibration alone unless told otherwise.

    Raises:
        PipelineError: no scene has finished depth, or coc_stats.json is damaged or stale.
    """
    entries = run.chosen(SceneIndex.load(run.index_path))
    path = calibration_path(run.out_root)
    refuse_links(run.out_root, [path, histogram_path(run.out_root)])
    with StopSignals() as signals, Reporter("calibrate", None if run.dry_run else run.logs) as reporter:
        ready, depths = finished_depth(entries, run, reporter.warning)
        fields = as_stored(
            {"phase": "calibrate", "version": VERSION, "settings": settings.recorded(), "upstream": {"depth": depths}}
        )
        old = read_calibration(path) if path.exists() and run.on_stale != "redo" and not run.redo else None
        if old is not None and _settled(old, fields, run, reporter, path):
            return ExitCode.DONE
        sampled = _sample_scenes(ready, settings.seed)
        if run.dry_run:
            reporter.info(f"calibrate: would sample {len(sampled)} of {len(ready)} scenes. Nothing was written")
            return ExitCode.DONE
        fix_threads()
        reporter.begin_progress("calibrate", len(sampled))
        values: list[npt.NDArray[np.float64]] = []
        summaries = {}
        for entry in sampled:
            if signals.received:
                reporter.info("calibrate: stopped; nothing was written. Run the same command to begin again.")
                return ExitCode.STOPPED
            scene = Scene(run.out_root, entry.scene_id)
            coc, summaries[entry.scene_id] = _measure(scene, entry, settings)
            values.append(coc)
            reporter.advance()
        reporter.end_progress()
        stats = _summarise(np.concatenate(values), summaries, settings, fields, len(ready))
        presenter.draw_histogram(run, stats)
        write_shared(path, dump_json(stats).encode())
        reporter.info(
            f"calibrate: {len(sampled)} of {len(ready)} scenes sampled, CoC p50 {stats['p50'] * 1e6:.0f} um, "
            f"p95 {stats['p95'] * 1e6:.0f} um, max {stats['max'] * 1e6:.0f} um"
        )
        _tell_blur(stats["blur"], settings, reporter)
        reporter.info(f"Look at {histogram_path(run.out_root)}.{next_step('calibrate', '--confirm')}")
        return ExitCode.DONE


def _settled(old: dict[str, Any], fields: Fields, run: RunSettings, reporter: Reporter, path: Path) -> bool:
    confirmed = old.get("confirmed_max_coc")
    added = _added(old["fields"], fields)
    if confirmed and added:
        reporter.info(
            f"calibrate: confirmed at {confirmed * 1e6:.0f} um, which also holds for {len(added)} added since "
            f"({shorten(', '.join(added), 60, placeholder=' ...')}). "
            f"To measure again with them, and render all again: {phase_command('calibrate', '--on_stale', 'redo')}"
            + next_step("render").replace(" ", "\n", 1)
        )
        return True
    difference = first_difference(old["fields"], fields)
    if difference is None:
        state = f"confirmed at {confirmed * 1e6:.0f} um" if confirmed else "not confirmed yet"
        step = next_step("render") if confirmed else next_step("calibrate", "--confirm")
        reporter.info(f"calibrate: already done, {state}.{step}")
        return True
    if not confirmed:
        return False  # nobody relied on it yet
    name, before, after = difference
    if run.on_stale == "keep":
        reporter.warning(f"calibrate: kept although {name} changed: {before!r} -> {after!r}")
        return True
    raise StaleError(
        f"{path} was confirmed for other data or settings: {name} changed: {before!r} -> {after!r}; nothing was touched. "
        f"Choose with --on_stale: redo to measure again (the confirmation is dropped), keep to leave it"
    )


def _added(old: Fields, new: Fields) -> list[str]:
    """Scenes that came after a measurement, where nothing else changed: those it was taken of are as they were."""
    before, now = old["upstream"]["depth"], new["upstream"]["depth"]
    same = {name for name in before.keys() & now.keys() if before[name] == now[name]}
    rest = [{key: value for key, value in fields.items() if key != "upstream"} for fields in (old, new)]
    return (
        sorted(now.keys() - before.keys()) if same and same == before.keys() & now.keys() and rest[0] == rest[1] else []
    )


def _tell_blur(blur: dict[str, Any], settings: CalibrateSettings, reporter: Reporter) -> None:
    shares = ", ".join(
        f"{share:.0%} beyond {radius} px" for radius, share in zip(RADII_PX, blur["overall"], strict=True)
    )
    reporter.info(f"calibrate: blur radius over all pixels and lenses: {shares}")
    if blur["nearly_sharp"] and settings.lens_prior == "published":
        command = phase_command("calibrate", "--lens_prior", "visible")
        reporter.warning(f"this dataset is nearly sharp; lenses that show depth of field: {command}")
    elif blur["nearly_sharp"]:
        reporter.warning(
            "this dataset is nearly sharp although its lenses were drawn to blur: its depth is nearly flat"
        )


def _sample_scenes(entries: list[SceneEntry], seed: int) -> list[SceneEntry]:
    rng = np.random.default_rng(stable_seed("calibration scenes", seed))
    count = max(MIN_SCENES, round(SCENE_SHARE * len(entries)))
    chosen = rng.permutation(len(entries))[:count]
    return [entries[number] for number in sorted(chosen)]


def _measure(
    scene: Scene, entry: SceneEntry, settings: CalibrateSettings
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """CoC diameters in metres of DRAWS lenses over sampled pixels of sampled frames, and a summary of the scene."""
    import torch

    from pipeline.optics import coc_diameter

    depth = torch.from_numpy(sample_depth(scene, entry, settings))
    drawn = scene_lenses(scene, entry, DRAWS, settings)
    try:
        coc = torch.stack([coc_diameter(depth, one.lens) for one in drawn]).numpy()
    except OpticsError as error:
        raise InputError(f"{scene.scene_id}: {error}") from None
    width, _ = multiple_of_16((entry.width, entry.height))
    radius_px = coc_to_radius_px(1.0, px_per_mm(width, settings.sensor_width_mm)) * coc
    blurred = [[round(float((one > radius).mean()), 4) for radius in RADII_PX] for one in radius_px]
    summary = {
        "p50": float(np.percentile(coc, 50)),
        "p95": float(np.percentile(coc, 95)),
        "max": float(coc.max()),
        "pixels": int(depth.numel()),
        "frames": len(sampled_frames(entry)),
        "lenses": [
            {"f": one.lens.f_m, "N": one.lens.f_number, "S_focus": one.lens.focus_m, "blurred": shares}
            for one, shares in zip(drawn, blurred, strict=True)
        ],
    }
    return coc.ravel(), summary


def _summarise(
    coc: npt.NDArray[np.float64],
    summaries: dict[str, Any],
    settings: CalibrateSettings,
    fields: Fields,
    num_ready: int,
) -> dict[str, Any]:
    percentiles = {f"p{percent}": float(np.percentile(coc, percent)) for percent in PERCENTILES}
    if percentiles["p95"] <= 0:
        raise PipelineError("every sampled circle of confusion is 0: the depth is one constant plane; check phase 3")
    counts, edges = np.histogram(coc, bins=HISTOGRAM_BINS, range=(0.0, float(np.percentile(coc, 99.5))))
    return {
        "schema": SCHEMA,
        **percentiles,
        "max": float(coc.max()),
        "recommended_max_coc": percentiles["p95"],
        "confirmed_max_coc": None,
        "unit": "metres on the sensor, diameter",
        "counts": {
            "scenes_with_depth": num_ready,
            "scenes_sampled": len(summaries),
            "lens_draws_per_scene": DRAWS,
            "samples": int(coc.size),
        },
        "blur": _blur(summaries),
        "seed": settings.seed,
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
        "scenes": summaries,
        "fields": fields,
        "fingerprint": fingerprint(fields),
    }


def _blur(summaries: dict[str, Any]) -> dict[str, Any]:
    """How much of the dataset is blurred by more than RADII_PX: over all pixels, and in the median lens set."""
    sets = [(lens["blurred"], scene["pixels"]) for scene in summaries.values() for lens in scene["lenses"]]
    shares, pixels = np.array([share for share, _ in sets]), np.array([count for _, count in sets])
    overall = np.average(shares, axis=0, weights=pixels)
    return {
        "radius_px": list(RADII_PX),
        "overall": [round(float(share), 4) for share in overall],
        "median_set": [round(float(share), 4) for share in np.median(shares, axis=0)],
        "nearly_sharp": bool(overall[0] < NEARLY_SHARP),
    }


RECOMMENDATION = "the recommendation"


def length_m(text: str) -> float | None:
    """A length such as 0.00035, 0.35mm or 350um in metres; None for the recommendation.

    Raises:
        UsageError: it is no length.
    """
    if text == RECOMMENDATION:
        return None
    for suffix, scale in (("um", 1e-6), ("mm", 1e-3), ("m", 1.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                return float(text.removesuffix(suffix)) * scale
            except ValueError:
                break
    raise UsageError(f"--confirm: {text!r} is no length; give metres, or a unit as in 350um or 0.35mm")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    default = CalibrateSettings()
    parser.add_argument(
        "--confirm", nargs="?", const=RECOMMENDATION, metavar="VALUE", help="confirm p95, or this value"
    )
    parser.add_argument("--keep_confirmed", action="store_true", help="with --confirm: leave a value confirmed before")
    parser.add_argument("--seed", type=int, default=default.seed, help="project seed of the lens draws")
    parser.add_argument(
        "--focus_range", choices=("robust", "full"), default=default.focus_range, help="where focus is drawn from"
    )
    parser.add_argument(
        "--lens_prior",
        choices=("published", "visible"),
        default=default.lens_prior,
        help="published: lenses as in the paper, most of which blur little; visible: lenses that show depth of field",
    )
    parser.add_argument("--coc_model", choices=("contract", "thin_lens"), default=default.coc_model, help="lens model")
    parser.add_argument("--sensor_width_mm", type=float, default=default.sensor_width_mm, help="sensor width, mm")


def _settings(args: argparse.Namespace) -> CalibrateSettings:
    if args.confirm is not None:
        length_m(args.confirm)
    return CalibrateSettings(
        seed=args.seed,
        focus_range=args.focus_range,
        coc_model=args.coc_model,
        sensor_width_mm=args.sensor_width_mm,
        lens_prior=args.lens_prior,
    )


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    settings = _settings(args)
    if args.confirm is not None:
        return confirm(length_m(args.confirm), run, args.keep_confirmed)
    return run_calibrate(settings, run, presenter)


_SHARED: dict[str, Any] = {
    "number": 4,
    "script": "scripts/04_calibrate_coc.py",
    "add_flags": _add_flags,
    "settings": _settings,
    "run": _run,
}
PHASES = (
    Phase(
        name="calibrate",
        help="measure the circle of confusion over the dataset; an operator looks and confirms max_coc",
        groups=("1-4", "test"),
        resumed=lambda run: not calibration_path(run.out_root).exists(),
        **_SHARED,
    ),
    Phase(
        name="confirm",
        help="confirm max_coc without a look, for tests",
        groups=("test",),
        confirms=True,
        **_SHARED,
    ),
)
