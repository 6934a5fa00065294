"""Phase 1: look at every raw source, reject the bad ones with reasons, give the good ones a split, write scene_index.json.

A scene keeps its split for ever: it is read back from the old index or from the scene's own split.txt, and new scenes fill
the split that is furthest below its share. A test scene never becomes a training scene because others were added.
"""

import argparse
import hashlib
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.checkout import checkout
from pipeline.errors import ExitCode, InputError, UsageError
from pipeline.hints import phase_command
from pipeline.media.depth_files import find_delivered_depth
from pipeline.media.frame_folder import VIDEO_SUFFIXES
from pipeline.media.prefetch import map_processes
from pipeline.media.sources import open_source
from pipeline.phases.registry import Phase, Presenter
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.files import write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import SPLITS, Scene, SceneEntry, SceneIndex, Split, unsafe_id_reason

SHARES: dict[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What phase 1 checks.

    Args:
        min_frames: a scene with fewer is rejected.
        seed: shuffles the scenes into splits.
        workers: scenes checked at once; changes nothing else.
    """

    min_frames: int = 16
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise UsageError(f"min_frames must be at least 1, got {self.min_frames}")
        if self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}")


def run_index(settings: IndexSettings, run: RunSettings) -> ExitCode:
    """Index the raw root.

    Raises:
        UsageError: the raw root is missing or empty.
        PipelineError: the existing index is damaged.
    """
    old = SceneIndex.load(run.index_path) if run.index_path.exists() else None
    sources = _chosen(find_sources(run.raw_root), run, old)
    stored = {"min_frames": settings.min_frames, "seed": settings.seed, "version": VERSION}
    known = old.entries if old and old.settings == stored else {}
    if run.redo:
        known = {name: entry for name, entry in known.items() if name not in run.scenes}
    with StopSignals() as signals, Reporter("index", None if run.dry_run else run.logs) as reporter:
        found: dict[str, SceneEntry] = {}
        fresh: list[tuple[str, list[str]]] = []
        for scene_id, names in sources.items():
            if scene_id in known and len(names) == 1 and _unchanged(run.raw_root, known[scene_id], names[0]):
                found[scene_id] = known[scene_id]
            else:
                fresh.append((scene_id, names))
        if run.dry_run:
            ids = ", ".join(scene_id for scene_id, _ in fresh) or "none"
            reporter.info(
                f"index: would check {len(fresh)} sources ({ids}); {len(found)} are unchanged. Nothing was written"
            )
            return ExitCode.DONE
        reporter.begin_progress("index", len(sources), len(found))
        calls = [(run.raw_root, scene_id, names, settings) for scene_id, names in fresh]
        for entry in map_processes(check_source, calls, settings.workers):
            found[entry.scene_id] = entry
            reporter.advance()
            if signals.received:
                reporter.info("index: stopped; nothing was written. Run the same command to begin again.")
                return ExitCode.STOPPED
        reporter.end_progress()
        with_splits = _assign(found, old, run.out_root, settings.seed)
        index = SceneIndex(raw_root=str(run.raw_root), settings=stored, entries=with_splits)
        _write(index, old, run)
        return _report(index, old, fresh, run, reporter)


def _chosen(sources: dict[str, list[str]], run: RunSettings, old: SceneIndex | None) -> dict[str, list[str]]:
    """All sources, or with --scene those named and those that were indexed before.

    Raises:
        UsageError: a named scene has no source.
    """
    unknown = [name for name in run.scenes if name not in sources]
    if unknown:
        raise UsageError(f"{run.raw_root} holds no scene {unknown[0]!r}; it holds: {', '.join(sorted(sources)[:20])}")
    wanted = {*run.scenes, *(old.entries if old else ())} if run.scenes else set(sources)
    return {name: paths for name, paths in sources.items() if name in wanted}


def _write(index: SceneIndex, old: SceneIndex | None, run: RunSettings) -> None:
    scenes = {entry.scene_id: Scene(run.out_root, entry.scene_id) for entry in index.accepted.values()}
    refuse_links(run.out_root, [run.index_path, *(scene.split_path for scene in scenes.values())])
    for entry in index.accepted.values():
        scene = scenes[entry.scene_id]
        scene.dir.mkdir(parents=True, exist_ok=True)
        if scene.read_split() != entry.split:
            write_shared(scene.split_path, f"{entry.split}\n".encode())
    if old != index:
        run.out_root.mkdir(parents=True, exist_ok=True)
        index.save(run.index_path)


def _report(
    index: SceneIndex, old: SceneIndex | None, fresh: list[tuple[str, list[str]]], run: RunSettings, reporter: Reporter
) -> ExitCode:
    checked = {scene_id for scene_id, _ in fresh}
    for entry in index.entries.values():
        for reason in entry.reasons:
            reporter.warning(f"{entry.scene_id}: rejected, {reason}")
        if entry.scene_id in checked:
            for note in entry.notes:
                reporter.info(f"{entry.scene_id}: {note}")
    gone = sorted(set(old.entries) - set(index.entries)) if old else []
    if gone:
        reporter.warning(f"no longer under {run.raw_root}, so no longer in the index: {', '.join(gone)}")
    splits = ", ".join(f"{sum(entry.split == split for entry in index.accepted.values())} {split}" for split in SPLITS)
    rejected = len(index.entries) - len(index.accepted)
    reporter.info(
        f"index: {len(index.accepted)} scenes accepted ({splits}), {rejected} rejected; "
        f"{len(fresh)} checked, {len(index.entries) - len(fresh)} unchanged. "
        + (f"Next: {phase_command('deblur')}" if index.accepted else "Nothing to go on with: see the reasons above")
    )
    return ExitCode.DONE if index.accepted else ExitCode.FAILED


def find_sources(raw_root: Path) -> dict[str, list[str]]:
    """Scene id -> the names under the raw root that claim it, sorted. Hidden names and loose files are passed over.

    Raises:
        UsageError: there is no such folder, it cannot be read, or holds neither folders nor videos.
    """
    try:
        names = sorted(entry.name for entry in raw_root.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        demo = ", or make demo scenes with: python scripts/make_demo_scenes.py" if checkout() else ""
        raise UsageError(f"there is no folder {raw_root}; give one with --raw_root{demo}") from None
    except OSError as error:
        raise UsageError(f"--raw_root {raw_root} cannot be read: {error.strerror}") from None
    sources: dict[str, list[str]] = {}
    for name in names:
        path = raw_root / name
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            sources.setdefault(path.stem, []).append(name)
        elif path.is_dir() or path.is_symlink():
            sources.setdefault(name, []).append(name)
    if not sources:
        raise UsageError(
            f"{raw_root} holds no scenes: neither folders of frames nor videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    return sources


def check_source(raw_root: Path, scene_id: str, names: list[str], settings: IndexSettings) -> SceneEntry:
    """Decode everything one source has. Never raises for bad data: the reasons are in the entry."""
    base = SceneEntry(scene_id=scene_id, source=names[0], accepted=False)
    reason = unsafe_id_reason(scene_id)
    if reason:
        return replace(base, reasons=(reason,))
    if len(names) > 1:
        return replace(base, reasons=(f"several sources have this id: {', '.join(names)}; keep one",))
    try:
        return _check(raw_root, base, settings)
    except InputError as error:
        return replace(base, reasons=(str(error),))
    except OSError as error:
        return replace(base, reasons=(f"{error.filename or raw_root / names[0]} cannot be read: {error.strerror}",))


def _check(raw_root: Path, base: SceneEntry, settings: IndexSettings) -> SceneEntry:
    source = open_source(raw_root / base.source)
    digest = hashlib.blake2b(digest_size=16)
    sizes: dict[tuple[int, int], int] = {}
    notes: dict[str, int] = {}
    count = 0
    for index, picture, converted in source.decode():
        count += 1
        sizes.setdefault((picture.shape[1], picture.shape[0]), index)
        for note in converted:
            notes[note] = notes.get(note, 0) + 1
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height} from frame {first}" for (width, height), first in sizes.items())
        raise InputError(f"frames have different sizes: {listed} ({base.source})")
    if count < settings.min_frames:
        raise InputError(f"{base.source} has {count} frames, needs at least {settings.min_frames} (--min_frames)")
    files = list(source.files())
    _hash_files(digest, files)
    depth = find_delivered_depth(source.path, count) if source.path.is_dir() else None
    depth_hash = ""
    if depth:
        depth_digest = hashlib.blake2b(digest_size=16)
        described = source.path / "depth.json"
        extra = [described] if depth.kind == "disparity" else []
        _hash_files(depth_digest, [*depth.files(), *extra])
        depth_hash = depth_digest.hexdigest()
        files += [*depth.files(), *extra]
    ((width, height),) = sizes
    return replace(
        base,
        accepted=True,
        notes=tuple(f"{text} ({number} of {count} frames)" for text, number in sorted(notes.items())),
        num_frames=count,
        width=width,
        height=height,
        content_hash=digest.hexdigest(),
        depth_kind=depth.kind if depth else None,
        depth_hash=depth_hash,
        files=tuple(_stamp(raw_root, path) for path in files),
    )


def _hash_files(digest: "hashlib.blake2b", files: list[Path]) -> None:
    for path in files:  # contents in order; names may change without changing a pixel
        data = path.read_bytes()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)


def _stamp(raw_root: Path, path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return os.path.relpath(path, raw_root), found.st_size, found.st_mtime_ns


def _unchanged(raw_root: Path, entry: SceneEntry, name: str) -> bool:
    """Whether an accepted source still has the files, sizes and times it was indexed with. Rejected ones are looked at
    again, since mending them is what people do next."""
    if not entry.accepted or entry.source != name:
        return False
    try:
        source = open_source(raw_root / name)
        depth = find_delivered_depth(source.path, entry.num_frames) if source.path.is_dir() else None
        paths = source.files() + (depth.files() if depth else [])
        if depth and depth.kind == "disparity":
            paths.append(source.path / "depth.json")
        return tuple(_stamp(raw_root, path) for path in paths) == entry.files
    except (InputError, OSError):
        return False


def _assign(found: dict[str, SceneEntry], old: SceneIndex | None, out_root: Path, seed: int) -> dict[str, SceneEntry]:
    accepted = sorted(scene_id for scene_id, entry in found.items() if entry.accepted)
    before: dict[str, Split] = {}
    for scene_id in accepted:
        remembered = old.entries[scene_id].split if old and scene_id in old.entries else None
        remembered = remembered or Scene(out_root, scene_id).read_split()
        if remembered:
            before[scene_id] = remembered
    splits = assign_splits(accepted, before, seed)
    return {
        scene_id: replace(entry, split=splits[scene_id]) if entry.accepted else entry
        for scene_id, entry in sorted(found.items())
    }


def assign_splits(scene_ids: list[str], before: dict[str, Split], seed: int) -> dict[str, Split]:
    """80/10/10 by a seeded shuffle; earlier assignments stay.

    New ids, shuffled, each go to the split that is furthest below its share of the whole. From 3 scenes on no split is
    empty, unless earlier assignments leave too few new scenes for that. 90 scenes give 72/9/9.
    """
    splits = {scene_id: before[scene_id] for scene_id in scene_ids if scene_id in before}
    new = sorted(scene_id for scene_id in scene_ids if scene_id not in before)
    random.Random(stable_seed("splits", seed)).shuffle(new)
    total = len(scene_ids)
    wanted = {split: share * total for split, share in SHARES.items()}
    if total >= len(SPLITS):
        wanted = {split: max(1.0, count) for split, count in wanted.items()}
    for scene_id in new:
        count = {split: sum(value == split for value in splits.values()) for split in SPLITS}
        # An empty split first, then the largest shortfall relative to its share; ties go to train, val, test in turn.
        splits[scene_id] = max(
            SPLITS, key=lambda split: (total >= len(SPLITS) and not count[split], 1 - count[split] / wanted[split])
        )
    return splits


def _add_flags(parser: argparse.ArgumentParser) -> None:
    default = IndexSettings()
    parser.add_argument(
        "--min_frames", type=int, default=default.min_frames, help="scenes with fewer frames are rejected"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="project seed of the split")
    parser.add_argument("--workers", type=int, default=default.workers, help="scenes checked at once")


def _settings(args: argparse.Namespace) -> IndexSettings:
    return IndexSettings(min_frames=args.min_frames, seed=args.seed, workers=args.workers)


def _run(args: argparse.Namespace, run: RunSettings, presenter: Presenter) -> ExitCode:
    return run_index(_settings(args), run)


PHASES = (
    Phase(
        name="index",
        number=1,
        script="scripts/01_validate_dataset.py",
        help="check raw scenes, reject bad ones with reasons, split the rest",
        groups=("1-4", "test"),
        lists_scenes=True,
        add_flags=_add_flags,
        settings=_settings,
        run=_run,
    ),
)
