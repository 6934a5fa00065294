"""How long scenes take, as measured so far, and how many of them an array task should get."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.phases.dependencies import record_folder
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene, SceneEntry

_SAMPLED = 400  # records that are read: enough for a median


def seconds_per_frame(out_root: Path, entries: Sequence[SceneEntry], phase: str) -> float | None:
    """The median over finished scenes of a phase's wall time, all runs at a scene together, by frames; None without any.

    The median, since a scene that a slow node had says nothing of the next.
    """
    rates: list[float] = []
    for entry in entries:
        if len(rates) == _SAMPLED:
            break
        try:
            record = DoneRecord.read(record_folder(Scene(out_root, entry.scene_id), phase))
        except InputError:
            continue
        if record is not None and entry.num_frames and record.wall_s:
            rates.append(record.wall_s / entry.num_frames)
    return statistics.median(rates) if rates else None


def pack(
    entries: Sequence[SceneEntry], rate_s: float | None, target_minutes: float, scenes_per_task: int
) -> list[tuple[str, ...]]:
    """Scenes by array element, in order.

    Args:
        entries: the scenes.
        rate_s: seconds per frame; None when nothing was measured.
        target_minutes: how long a task should take.
        scenes_per_task: a fixed number instead; 0 to pack by time. Without a measurement that is one scene a task.
    """
    if scenes_per_task or rate_s is None:
        size = scenes_per_task or 1
        ids = [entry.scene_id for entry in entries]
        return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
    packed: list[list[str]] = []
    filled_s = 0.0
    for entry in entries:
        seconds = entry.num_frames * rate_s
        if not packed or filled_s + seconds > target_minutes * 60:
            packed.append([])
            filled_s = 0.0
        packed[-1].append(entry.scene_id)
        filled_s += seconds
    return [tuple(scenes) for scenes in packed]


def spread(entries: Sequence[SceneEntry], workers: int) -> list[tuple[str, ...]]:
    """Scenes over a fixed number of workers, by frames, for one machine: longest scene first to the least loaded worker."""
    loads = [(0, number) for number in range(min(workers, len(entries)))]
    shares: list[list[str]] = [[] for _ in loads]
    for entry in sorted(entries, key=lambda entry: (-entry.num_frames, entry.scene_id)):
        frames, number = min(loads)
        shares[number].append(entry.scene_id)
        loads[number] = (frames + entry.num_frames, number)
    return [tuple(sorted(share)) for share in shares]
