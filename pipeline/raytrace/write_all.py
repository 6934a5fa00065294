"""Several scenes at once, in processes of their own, with a bar that counts frames."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from pipeline.orphans import die_with_parent
from pipeline.raytrace.world import RaytraceError
from pipeline.raytrace.write import SceneRequest, write_scene
from pipeline.reporter import Reporter

_LOOK_EVERY_S = 0.5
_frames: "Synchronized[int] | None" = None  # of a worker: finished by all of them


def write_scenes(raw_root: Path, requests: Sequence[SceneRequest], workers: int, reporter: Reporter) -> tuple[int, int]:
    """Render every scene that is not there yet; one that fails does not keep the others from going on.

    Args:
        raw_root: made if missing.
        requests: what to render.
        workers: processes, >= 1; each computes with one thread.
        reporter: hears of every scene when it is done, and shows the bar.

    Returns:
        How many were written, and how many failed.
    """
    context = get_context("spawn")
    frames = context.Value("q", 0)
    told = written = failed = 0
    reporter.begin_progress("demo scenes, frames", sum(request.num_frames for request in requests))
    with ProcessPoolExecutor(min(workers, len(requests)), context, initializer=_begin, initargs=(frames,)) as pool:
        pending = {pool.submit(_make, raw_root, request) for request in requests}
        while pending:
            done, pending = wait(pending, timeout=_LOOK_EVERY_S)
            for future in done:
                ok, made, message = future.result()
                written, failed = written + made, failed + (not ok)
                reporter.info(message)
            for _ in range(frames.value - told):
                reporter.advance()
            told = frames.value
    reporter.end_progress()
    return written, failed


def _begin(frames: "Synchronized[int]") -> None:
    import torch

    global _frames
    _frames = frames
    die_with_parent()
    torch.set_num_threads(1)


def _count(number: int = 1) -> None:
    assert _frames is not None, "begun by _begin"
    with _frames.get_lock():
        _frames.value += number


def _make(out_dir: Path, request: SceneRequest) -> tuple[bool, bool, str]:
    """A failure is a result. Returns whether it succeeded, whether anything was written, and a line that says so."""
    started = time.monotonic()
    try:
        made = write_scene(out_dir, request, advance=_count)
    except (RaytraceError, OSError) as error:
        return False, False, f"{request.scene_id}: FAILED: {error}"
    if not made:
        _count(request.num_frames)
        return True, False, f"{request.scene_id}: already there, skipped"
    return True, True, f"{request.scene_id}: {request.num_frames} frames in {time.monotonic() - started:.0f} s"
