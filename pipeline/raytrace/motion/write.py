"""Moving clips as folders: pictures, exact flow with occlusion, and a description; docs/motion_scenes.md is the contract.

A folder appears under its name only when it is complete. The same request gives the same bytes.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from pipeline.raytrace.flow import Flow, exact_flow
from pipeline.raytrace.generated import FAMILIES, generate
from pipeline.raytrace.motion.overlay import KINDS, Overlay, overlay
from pipeline.raytrace.motion.phenomena import evaluation_clips, stage_scene
from pipeline.raytrace.render import render_frame
from pipeline.raytrace.textures import generator
from pipeline.raytrace.world import RayScene, RaytraceError
from pipeline.raytrace.write import write_arrays

Split = Literal["train", "test"]
VERSION = 1
OVERLAY_SHARE = 0.1  # of the training clips carry one: overlays are common in real video, and easy to get wrong
PACES = (0.6, 4.0)  # evenly over the logarithm: from about half a pixel to some twenty pixels a frame
WORDS = ("THE RIVER", "ON AIR", "SPORT", "NEAR THE COAST", "LATE SHIFT", "HALF PAST TEN", "CUP FINAL", "SOON")


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """One clip to write.

    Args:
        clip_id: folder name.
        split: "test" for a clip of the hypothesis' own test set, "train" for one drawn from a seed.
        phenomenon, family: of the test set's clip: phenomenon and stage; in training "mixed" and a generator's family.
        seed: of a training clip; of the test set, 0 for the one built by hand.
        width, height, num_frames: pixels, > 0; frames, >= 2.
        fps: frames a second of scene time, > 0; more of them are denser instants of the same scene.
        supersample: samples along each side of a pixel, >= 1.
        flow_spans: distances in frames between which flow is written, each >= 1.
    """

    clip_id: str
    split: Split
    phenomenon: str
    family: str
    seed: int = 0
    width: int = 256
    height: int = 160
    num_frames: int = 31
    fps: float = 24.0
    supersample: int = 3
    flow_spans: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise RaytraceError(f"split must be one of {', '.join(get_args(Split))}, got {self.split!r}")
        for field, least in (("width", 1), ("height", 1), ("num_frames", 2), ("supersample", 1), ("seed", 0)):
            if getattr(self, field) < least:
                raise RaytraceError(f"{field} must be at least {least}, got {getattr(self, field)}")
        if not 0 < self.fps < 1e5:
            raise RaytraceError(f"fps must be > 0, got {self.fps}")
        if not self.flow_spans or min(self.flow_spans) < 1 or max(self.flow_spans) >= self.num_frames:
            raise RaytraceError(
                f"flow_spans must be 1 to num_frames - 1 ({self.num_frames - 1}), got {self.flow_spans}"
            )

    def scene(self) -> tuple[RayScene, Overlay | None]:
        """The scene, and the overlay that lies on its pictures."""
        if self.split == "test":
            scene, layer = stage_scene(self.phenomenon, self.family, self.seed)
        else:
            rng = generator("clip", self.family, self.seed)
            pace = float(np.exp(rng.uniform(*np.log(PACES))))
            scene, layer = generate(self.family, self.seed, pace=pace), None
            if rng.random() < OVERLAY_SHARE:
                layer = (KINDS[int(rng.integers(len(KINDS)))], WORDS[int(rng.integers(len(WORDS)))])
        return scene, layer and overlay(*layer, self.width, self.height)


def clip_requests(
    split: Split,
    num_clips: int | None = None,
    seed: int = 0,
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    **size: object,
) -> list[ClipRequest]:
    """The clips of a split.

    Args:
        split: "test": the whole test set; "train": `num_clips` of them, the families in turn.
        num_clips: of the training split, >= 1; the first of the test set, all if None.
        seed: >= 0; of the training split, others share no scene below 10,000 clips; of the test split, 0 is the set built
            by hand and others play the same phenomena in other looks.
        families: which ones training draws from.
        size: further arguments of `ClipRequest`.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise RaytraceError(f"families must be some of {', '.join(FAMILIES)}, got {', '.join(unknown) or 'none'}")
    if num_clips is not None and num_clips < 1:
        raise RaytraceError(f"num_clips must be at least 1, got {num_clips}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    if split == "test":
        known = evaluation_clips(seed)[:num_clips]
        return [ClipRequest(clip_id=i, split=split, phenomenon=p, family=s, seed=seed, **size) for i, p, s in known]  # type: ignore[arg-type]
    requests = []
    for number in range(120 if num_clips is None else num_clips):
        family, own = families[number % len(families)], 10_000 * seed + number
        names = {"clip_id": f"{family}_{own:05d}", "phenomenon": "mixed", "family": family, "seed": own}
        requests.append(ClipRequest(split=split, **names, **size))  # type: ignore[arg-type]
    return requests


def write_clip(out_dir: Path | str, request: ClipRequest) -> bool:
    """Render a clip into `out_dir/<clip_id>`, or leave a complete one alone.

    Returns:
        True if it was written, False if the same clip was already there.

    Raises:
        RaytraceError: a folder of that name exists that was made with other settings or by something else.
    """
    target = Path(out_dir) / request.clip_id
    if target.exists():
        _check_existing(target, request)
        return False
    partial = target.with_name(f".{request.clip_id}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "flow").mkdir(parents=True)
    try:
        scene, layer = request.scene()
        per_frame = scene.fps / request.fps
        for i in range(request.num_frames):
            picture = render_frame(
                scene, i * per_frame, width=request.width, height=request.height, supersample=request.supersample
            ).srgb
            Image.fromarray(layer.over(picture) if layer else picture).save(partial / f"frame_{i:04d}.png")
        if layer is not None:
            Image.fromarray(np.round(layer.opacity * 255).astype(np.uint8)).save(partial / "overlay.png")
        pairs, figures = _write_flow(partial / "flow", scene, layer, request)
        (partial / "clip.json").write_text(json.dumps(_description(request, pairs, figures), indent=1) + "\n")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _write_flow(
    folder: Path, scene: RayScene, layer: Overlay | None, request: ClipRequest
) -> tuple[list[tuple[int, int]], dict[str, float]]:
    """All pairs, and the figures of those from a frame to the next."""
    per_frame, pairs = scene.fps / request.fps, []
    means: list[float] = []
    largest, hidden = 0.0, []
    for first in range(request.num_frames):
        near = [first + sign * span for span in request.flow_spans for sign in (1, -1)]
        seconds = [second for second in near if 0 <= second < request.num_frames]
        instants = [second * per_frame for second in seconds]
        flows = exact_flow(scene, first * per_frame, instants, width=request.width, height=request.height)
        for second, flow in zip(seconds, flows, strict=True):
            kept: Flow = layer.over_flow(flow) if layer else flow
            vectors = np.clip(kept.flow_px, -60_000, 60_000).astype(np.float16)
            write_arrays(folder / f"{first:04d}_{second:04d}.npz", flow=vectors, occluded=kept.occluded)
            pairs.append((first, second))
            if second == first + 1:
                length = np.hypot(kept.flow_px[..., 0], kept.flow_px[..., 1])[~kept.occluded]
                means.append(float(length.mean()) if length.size else 0.0)
                largest = max(largest, float(length.max(initial=0.0)))
                hidden.append(float(kept.occluded.mean()))
    if not means:
        return pairs, {}
    figures = {
        "mean_flow_px": sum(means) / len(means),
        "max_flow_px": largest,
        "occluded_share": sum(hidden) / len(hidden),
    }
    return pairs, {name: round(value, 4) for name, value in figures.items()}


def _settings(request: ClipRequest) -> dict[str, object]:
    wanted = {key: value for key, value in asdict(request).items() if key != "clip_id"}
    return wanted | {"flow_spans": list(request.flow_spans)}


def _description(request: ClipRequest, pairs: list[tuple[int, int]], figures: dict[str, float]) -> dict[str, object]:
    named = ("clip_id", "split", "phenomenon", "family", "seed", "width", "height", "num_frames", "fps")
    return {
        "format": "motion-clip",
        "version": VERSION,
        **{name: getattr(request, name) for name in named},
        "times_s": [round(i / request.fps, 6) for i in range(request.num_frames)],
        "flow_pairs": [list(pair) for pair in pairs],
        **figures,
        "settings": _settings(request),
    }


def _check_existing(target: Path, request: ClipRequest) -> None:
    try:
        found = dict(json.loads((target / "clip.json").read_bytes())["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RaytraceError(
            f"{target} exists but is no clip of the ray tracer; move it away or choose another folder"
        ) from error
    wanted = _settings(request)
    other = [f"{key} {found.get(key)!r} -> {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise RaytraceError(f"{target} was made with other settings ({', '.join(other)}); delete it or keep it as is")


def make_clip(out_dir: Path, request: ClipRequest) -> tuple[bool, bool, str]:
    """`write_clip` for a worker process: a failure is a result, so that the other clips go on.

    Returns:
        Whether it succeeded, whether anything was written, and a line that says so.
    """
    started = time.monotonic()
    try:
        made = write_clip(out_dir, request)
    except (RaytraceError, OSError) as error:
        return False, False, f"{request.clip_id}: FAILED: {error}"
    if not made:
        return True, False, f"{request.clip_id}: already there, skipped"
    seconds = time.monotonic() - started
    return True, True, f"{request.clip_id}: {request.num_frames} frames in {seconds:.0f} s"
