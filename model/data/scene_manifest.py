"""Which generated scenes can be learned from, and why the others cannot.

A scene counts when its four `.done` records are there, its files are all there and its metadata makes sense. Everything
else is skipped with a reason, so that a run that trained on 3 of 90 scenes says so in its first line. A scene whose images,
depth and photographs were not made from one another is no matter of skipping: something is wrong with the data set, and the
command that mends it is named.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError, StaleError, UsageError
from pipeline.hints import phase_command
from pipeline.storage.bounded import one_line
from pipeline.storage.completion import DoneRecord
from pipeline.storage.files import names_in
from pipeline.storage.scene import CONTRACT, MAX_FRAMES, SPLITS, LensSet, Scene, scene_folders

_MAX_LISTED = 5  # reasons in a message; the count is always given


@dataclass(frozen=True, kw_only=True)
class TrainingScene:
    """A complete scene: what metadata.json says of it.

    Args:
        scene: its paths.
        num_frames, width, height: of every modality; pixels.
        px_per_mm: of the full frame; crops keep it.
        max_radius_px: where its images saturate.
        sets: the lenses its images were rendered with.
        fingerprint: of its renders, as their done record has it.
        made_frames: numbers of the frames whose photographs were interpolated and not rendered.
    """

    scene: Scene
    num_frames: int
    width: int
    height: int
    px_per_mm: float
    max_radius_px: float
    sets: tuple[LensSet, ...]
    fingerprint: str
    made_frames: tuple[int, ...] = ()

    @property
    def rendered_frames(self) -> tuple[int, ...]:
        """Numbers of the frames that an engine rendered."""
        made = set(self.made_frames)
        return tuple(number for number in range(self.num_frames) if number not in made)

    @property
    def scene_id(self) -> str:
        return self.scene.scene_id


@dataclass(frozen=True, kw_only=True)
class SceneManifest:
    """The scenes of one split that can be used, sorted by id, and the reasons why others cannot."""

    split: str
    scenes: tuple[TrainingScene, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for a log: how many scenes, sets and frames, and what was skipped and why."""
        images = sum(scene.num_frames * len(scene.sets) for scene in self.scenes)
        made = sum(len(scene.made_frames) * len(scene.sets) for scene in self.scenes)
        line = f"{self.split}: {len(self.scenes)} scenes, {images} images" + (f", {made} of them made" if made else "")
        if not self.skipped:
            return line
        return f"{line}; {len(self.skipped)} skipped ({_listed(self.skipped)})"


def _listed(reasons: dict[str, str]) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:_MAX_LISTED]]
    return "; ".join(shown) + (f"; and {len(reasons) - len(shown)} more" if len(reasons) > len(shown) else "")


def find_scenes(
    out_root: Path,
    split: str,
    *,
    min_frames: int = 1,
    min_size: tuple[int, int] = (1, 1),
    coc_model: str | None = None,
    only: Collection[str] = (),
) -> SceneManifest:
    """The usable scenes of a split.

    Args:
        out_root: the folder of generated scenes.
        split: train, val or test, as each scene's split.txt says.
        min_frames: scenes with fewer are skipped.
        min_size: (width, height) in pixels; smaller scenes are skipped.
        coc_model: skip scenes rendered with another lens model; None takes any.
        only: scene ids to look at; empty means all.

    Raises:
        UsageError: there is no such folder or split, not one usable scene, or a scene with modalities that were not made
            from one another; the message has the reasons.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not out_root.is_dir():
        raise UsageError(f"there is no folder of generated scenes {out_root}; run the pipeline first (make demo)")
    scenes: list[TrainingScene] = []
    skipped: dict[str, str] = {}
    stale: dict[str, str] = {}
    unknown_split = [scene.scene_id for scene in scene_folders(out_root) if scene.read_split() is None]
    skipped |= dict.fromkeys(unknown_split, "split.txt holds no split")
    for scene in scene_folders(out_root):
        if scene.read_split() != split or (only and scene.scene_id not in only):
            continue
        try:
            found = read_scene(scene)
            _check_use(found, min_frames, min_size, coc_model)
            scenes.append(found)
        except StaleError as error:
            stale[scene.scene_id] = str(error)
        except InputError as error:
            skipped[scene.scene_id] = str(error)
    if stale:
        raise UsageError(f"{len(stale)} scenes of {out_root} mix what was not made from one another. {_listed(stale)}")
    if not scenes:
        why = f": {_listed(skipped)}" if skipped else f"; no scene folder there has split {split!r}"
        raise UsageError(f"the {split} split of {out_root} has no scene that can be used{why}")
    return SceneManifest(split=split, scenes=tuple(scenes), skipped=skipped)


def read_scene(scene: Scene) -> TrainingScene:
    """What metadata.json and the done records say of a finished scene.

    Raises:
        InputError: a phase is unfinished, files are missing, or the metadata cannot be right.
        StaleError: depth, labels or photographs were made from other images or other depth than are there now.
    """
    records: dict[str, DoneRecord] = {}
    fingerprint = ""
    for folder in (scene.folder(modality) for made in CONTRACT for modality in made.modalities):
        record = DoneRecord.read(folder)
        if record is None:
            raise InputError(f"{folder.name} is not finished (no .done)")
        fingerprint = record.fingerprint
        records[record.phase] = _same_phase(folder, records.get(record.phase), record)
    _check_upstream(scene, records)
    metadata = scene.read_metadata()
    sets = tuple(scene.lens_sets())
    try:
        num_frames, width, height = (int(metadata[key]) for key in ("num_frames", "width", "height"))
        px_per_mm, max_radius_px = (float(metadata[key]) for key in ("px_per_mm", "max_radius_px"))
    except Exception as error:
        raise InputError(f"{scene.metadata_path}: {one_line(error)}; run phase 5 again") from None
    if max(num_frames, width, height) > MAX_FRAMES:
        raise InputError(f"{scene.metadata_path} says {num_frames} frames of {width}x{height}; run phase 5 again")
    positive = (num_frames, width, height, px_per_mm, max_radius_px)
    if not sets or not all(math.isfinite(value) and value > 0 for value in positive):
        raise InputError(
            f"{scene.metadata_path} must have sets and positive sizes, got {len(sets)} sets and {positive}"
        )
    present: dict[Path, set[str]] = {}
    for made in CONTRACT:
        for path in scene.outputs(made, num_frames, len(sets)):
            if path.name not in present.setdefault(path.parent, names_in(path.parent)):
                raise InputError(f"{path} is missing behind .done")
    return TrainingScene(
        scene=scene,
        num_frames=num_frames,
        width=width,
        height=height,
        px_per_mm=px_per_mm,
        max_radius_px=max_radius_px,
        sets=sets,
        fingerprint=fingerprint,
        made_frames=scene.made_frames(),
    )


def _check_upstream(scene: Scene, records: dict[str, DoneRecord]) -> None:
    """StaleError when a record names another upstream fingerprint than the one that is there."""
    for name, record in records.items():
        for upstream, recorded in record.upstream.items():
            if upstream in records and records[upstream].fingerprint != recorded:
                raise StaleError(
                    f"{name} was made with another {upstream} than is there ({recorded} -> "
                    f"{records[upstream].fingerprint}); run: {_redo(scene, name)}"
                )


def _same_phase(folder: Path, before: DoneRecord | None, record: DoneRecord) -> DoneRecord:
    """Folders that one phase writes together, as labels and photographs, have one fingerprint."""
    if before is not None and before.fingerprint != record.fingerprint:
        scene = Scene(folder.parents[1], folder.parent.name)
        raise StaleError(
            f"{record.phase} was made with another {record.phase} than is there ({before.fingerprint} -> "
            f"{record.fingerprint}); run: {_redo(scene, record.phase)}"
        )
    return record


def _redo(scene: Scene, phase: str) -> str:
    return phase_command(phase, "--out_root", str(scene.dir.parent), "--scene", scene.scene_id, "--on_stale", "redo")


def _check_use(found: TrainingScene, min_frames: int, min_size: tuple[int, int], coc_model: str | None) -> None:
    if found.num_frames < min_frames:
        raise InputError(f"{found.num_frames} frames, clips need {min_frames}")
    if found.width < min_size[0] or found.height < min_size[1]:
        raise InputError(f"frames are {found.width}x{found.height}, smaller than the {min_size[0]}x{min_size[1]} crop")
    models = {item.lens.coc_model for item in found.sets}
    if coc_model is not None and models != {coc_model}:
        raise InputError(f"rendered with coc_model {sorted(models)}, the network uses {coc_model!r}; never mix the two")
