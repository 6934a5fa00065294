"""What a phase may read: finished work of earlier phases whose own inputs are still what they were."""

from pathlib import Path

from pipeline.errors import InputError, SceneError, TooEarlyError
from pipeline.hints import phase_command
from pipeline.media.sources import RawSource, open_source
from pipeline.phases.registry import phase_named, scene_phases
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene, SceneEntry


def record_folder(scene: Scene, phase: str) -> Path:
    """The folder whose `.done`, the last one written, says that a phase is finished."""
    made = phase_named(phase).outputs
    assert made is not None, f"{phase} works on all scenes at once and leaves no record in them"
    return scene.folder(made.modalities[-1])


def redo_command(scene: Scene, phase: str) -> str:
    """What a person types to have a phase of a scene made again although it counts as done."""
    return phase_command(phase, "--scene", scene.scene_id, "--redo")


def stale_upstream(scene: Scene, entry: SceneEntry, record: DoneRecord) -> str | None:
    """The first of a record's upstream links that no longer holds, in words; None when all do."""
    actual = {"source": entry.content_hash, "delivered_depth": entry.depth_hash}
    recorded_phases = {phase.name for phase in scene_phases()}
    for name, recorded in record.upstream.items():
        if name in recorded_phases:
            try:
                upstream = DoneRecord.read(record_folder(scene, name))
            except InputError as error:
                return str(error)
            if upstream is None:
                return f"{name} is not finished"
            inner = stale_upstream(scene, entry, upstream)
            if inner:
                return f"{name} is stale ({inner})"
            actual[name] = upstream.fingerprint
        if name in actual and actual[name] != recorded:
            return f"it was made from another {name.replace('_', ' ')}: {recorded} -> {actual[name]}"
    return None


def require(scene: Scene, entry: SceneEntry, phase: str) -> DoneRecord:
    """The record of a finished and current earlier phase.

    Raises:
        TooEarlyError: it is not finished.
        SceneError: it is stale. Both messages name the command to run.
    """
    command = phase_command(phase, "--scene", scene.scene_id)
    record = DoneRecord.read(record_folder(scene, phase))
    if record is None:
        raise TooEarlyError(f"phase {phase!r} is not finished; run: {command}", phase)
    stale = stale_upstream(scene, entry, record)
    if stale:
        raise SceneError(f"phase {phase!r} is stale: {stale}; run: {command} --on_stale redo")
    return record


def check_raw(raw_root: Path, entry: SceneEntry, *, may_be_gone: bool = False) -> None:
    """A cheap look (size and time) that the raw files are still the indexed ones.

    Args:
        raw_root: where raw scenes are.
        entry: the scene.
        may_be_gone: missing files are fine: the phase that reads them is done, and they may have been archived.

    Raises:
        InputError: a file is gone or changed.
    """
    for name, size, mtime_ns in entry.files:
        path = raw_root / name
        try:
            found = path.stat()
        except OSError:
            if may_be_gone:
                continue
            raise InputError(f"{path} is gone since it was indexed; run: {phase_command('index')}") from None
        if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
            raise InputError(f"{path} changed since it was indexed; run: {phase_command('index')}")


def open_raw(raw_root: Path, entry: SceneEntry) -> RawSource:
    """The scene's raw frames, after `check_raw`."""
    check_raw(raw_root, entry)
    # Phase 1 has decided how much of a cut-off video counts: entry.num_frames.
    return open_source(raw_root / entry.source, accept_truncated=True)
