"""The training samples and the validation targets that a run's settings ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.data.loaders import SampleSource
from model.lift.layouts import uniform
from model.lift.photographs import find_photographs
from model.lift.samples import LiftSample, LiftSamples
from model.lift.sequences import FrameSequence, digest_names, find_clips, find_motion, find_scene_frames
from model.lift.settings import LiftSettings
from model.lift.targets import Target, spread, targets_of
from pipeline.errors import UsageError
from pipeline.storage.completion import fingerprint


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What was found.

    Args:
        source: training samples by number.
        validation: what validations look at.
        lines: for the log.
        digest: changes when the training data do.
        seen: kind and number of what the weights learn from.
    """

    source: SampleSource[LiftSample]
    validation: list[Target]
    lines: tuple[str, ...]
    digest: str
    seen: dict[str, str | int]


def build_data(settings: LiftSettings) -> RunData:
    """Look at all sources; UsageError when one that is named has nothing to use."""
    data = settings.data
    clips: list[FrameSequence] = []
    lines = []
    for kind, path, found in (
        ("ray-traced clips", data.motion, lambda p: find_motion(p)),
        ("clips", data.videos, lambda p: find_clips(p, Path(data.videos_list) if data.videos_list else None)),
        ("scenes", data.scenes, find_scene_frames),
    ):
        if path:
            some = found(Path(path))
            clips += some
            lines.append(f"train: {len(some)} {kind}, {sum(clip.num_frames for clip in some)} frames")
    photographs = find_photographs(Path(data.photographs)) if data.photographs else []
    if photographs:
        lines.append(f"train: moving layers of {len(photographs)} photographs")
    samples = data.samples(settings.model, settings.run.seed)
    validation = _validation(settings)
    lines.append(f"val: {len(validation)} targets")
    _apart(clips, validation)
    return RunData(
        source=LiftSamples(samples, clips, photographs),
        validation=validation,
        lines=tuple(lines),
        digest=fingerprint({"clips": digest_names(clips), "photographs": [p.name for p in photographs]}),
        seen={"kind": "clips", "scenes": len(clips) + len(photographs)},
    )


def _validation(settings: LiftSettings) -> list[Target]:
    data, network = settings.data, settings.model
    clips = find_motion(Path(data.val_motion)) if data.val_motion else []
    clips += find_clips(Path(data.val_videos)) if data.val_videos else []
    if clips:
        layout = uniform(network.frames_before, network.frames_after)
        found = [target for clip in clips for target in targets_of(clip, layout, every=2, first=1)]
        if not found:
            raise UsageError("the validation clips are shorter than three frames")
        return spread(found, settings.run.val_targets)
    files = find_photographs(Path(data.photographs))
    plain = replace(data.samples(network, settings.run.seed), jitter=False)
    source = LiftSamples(plain, [], files)
    return [_held_out(source, -1 - number) for number in range(settings.run.val_targets)]


def _held_out(source: LiftSamples, number: int) -> Target:
    """Samples of negative numbers: training counts up from 0."""
    return Target(clip="photographs", number=number, phenomenon="", full=True, load=lambda: source[number])


def _apart(clips: Sequence[FrameSequence], validation: Sequence[Target]) -> None:
    both = {clip.name for clip in clips} & {target.clip for target in validation}
    if both:
        raise UsageError(
            f"clips of both training and validation: {', '.join(sorted(both)[:3])}; give validation others"
        )
