"""Phase 1: look at every raw source, reject the bad ones with reasons, give the good ones a split, write scene_index.json.

A scene keeps its split for ever: it is read back from the old index or from the scene's own split.txt, and new scenes fill
the split that is furthest below its share. A test scene never becomes a training scene because others were added.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ExitCode, UsageError
from pipeline.hints import command_with, next_step
from pipeline.media.prefetch import map_processes
from pipeline.phases.registry import Phase, Presenter
from pipeline.phases.source_check import IndexSettings, check_source, is_unchanged, look_under
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.seeds import stable_seed
from pipeline.signals import StopSignals
from pipeline.storage.files import write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import SPLITS, Scene, SceneEntry, SceneIndex, Split

SHARES: dict[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
VERSION = 1
_SHOWN, _LISTED = 3, 12


def run_index(settings: IndexSettings, run: RunSettings) -> ExitCode:
    """Index the raw root.

    Raises:
        UsageError: the raw root is missing or empty.
        PipelineError: the existing index is damaged.
    """
    old = SceneIndex.load(run.index_path) if run.index_path.exists() else None
    root = look_under(run.raw_root)
    sources = _chosen(root.sources, run, old)
    stored: dict[str, Any] = {"min_frames": settings.min_frames, "seed": settings.seed, "version": VERSION}
    if settings.accept_truncated:
        stored["accept_truncated"] = True
    if settings.check_blur:
        stored["check_blur"] = True
    known = old.entries if old and old.settings == stored else {}
    if run.redo:
        known = {name: entry for name, entry in known.items() if name not in run.scenes}
    with StopSignals() as signals, Reporter("index", None if run.dry_run else run.logs) as reporter:
        found: dict[str, SceneEntry] = {}
        fresh: list[tuple[str, list[str]]] = []
        for scene_id, names in sources.items():
            if scene_id in known and len(names) == 1 and is_unchanged(run.raw_root, known[scene_id], names[0]):
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
        if root.skipped:
            reporter.warning(f"not read under {run.raw_root}: {_counted(root.skipped)}")
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


def _counted(names: Sequence[str]) -> str:
    """ "3 files or folders, .txt (2), .srt (1): a.txt, b.txt, c.srt"."""
    kinds = Counter(Path(name).suffix.lower() or "no ending" for name in names)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} names, {', '.join(f'{kind} ({count})' for kind, count in sorted(kinds.items()))}: {shown}"


def _report_depth(index: SceneIndex, reporter: Reporter) -> None:
    """Which scenes have depth with them, and what phase 3 needs for the others."""
    without = [entry.source for entry in index.accepted.values() if entry.depth_kind is None]
    if without:
        from pipeline.engines.vda.choose import BRING  # with the engine, which most commands need not import

        reporter.info(
            f"index: {len(index.accepted) - len(without)} of {len(index.accepted)} scenes have depth with them, "
            f"and not {', '.join(without[:_LISTED])}{', ...' if len(without) > _LISTED else ''}\n"
            f"  add depth beside them and run phase 1 again, or have phase 3 estimate it with a network\n"
            f"  its weights, once: {BRING}\n"
            f"  phase 3, then:     {command_with('depth', '--engine', 'vda', '--engine_opt', 'encoder=vits')}"
        )


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
    _report_depth(index, reporter)
    gone = sorted(set(old.entries) - set(index.entries)) if old else []
    if gone:
        reporter.warning(f"no longer under {run.raw_root}, so no longer in the index: {', '.join(gone)}")
    splits = ", ".join(f"{sum(entry.split == split for entry in index.accepted.values())} {split}" for split in SPLITS)
    rejected = len(index.entries) - len(index.accepted)
    reporter.info(
        f"index: {len(index.accepted)} scenes accepted ({splits}), {rejected} rejected; "
        f"{len(fresh)} checked, {len(index.entries) - len(fresh)} unchanged."
        + (next_step("deblur") if index.accepted else " Nothing to go on with: see the reasons above")
    )
    return ExitCode.DONE if index.accepted else ExitCode.FAILED


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
    parser.add_argument(
        "--accept_truncated", action="store_true", help="take cut-off videos up to their last whole frame"
    )
    parser.add_argument(
        "--check_blur", action="store_true", help="note sources that already show optical blur; none is rejected for it"
    )


def _settings(args: argparse.Namespace) -> IndexSettings:
    return IndexSettings(
        min_frames=args.min_frames,
        seed=args.seed,
        workers=args.workers,
        accept_truncated=args.accept_truncated,
        check_blur=args.check_blur,
    )


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
