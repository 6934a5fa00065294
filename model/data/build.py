"""The training samples and the validation takes that a run's settings ask for."""

from dataclasses import dataclass
from pathlib import Path

from model.data.loaders import ClipSource
from model.data.realbokeh import RealBokehDataset, find_pairs
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from model.evaluation.eval_clips import EvalClip, pair_clips, scene_clips
from model.training.settings import TrainSettings
from pipeline.storage.completion import fingerprint


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What was found.

    Args:
        source: training samples by number.
        takes: what validations look at.
        lines: for the log, how much there is and what was skipped.
        digest: changes when the training data do.
    """

    source: ClipSource
    takes: list[EvalClip]
    lines: tuple[str, ...]
    digest: str


def build_data(settings: TrainSettings) -> RunData:
    """Look at both splits.

    Raises:
        UsageError: a split is empty, or holds nothing that fits the settings; the message has the reasons.
    """
    clip = settings.data.clip(settings.run.seed)
    root = Path(settings.data.root)
    if settings.data.kind == "realbokeh":
        pairs, val_pairs = (find_pairs(root, split) for split in (settings.data.train_split, settings.data.val_split))
        return RunData(
            source=RealBokehDataset(pairs, clip),
            takes=pair_clips(val_pairs),
            lines=(f"train: {pairs.describe()}", f"val: {val_pairs.describe()}"),
            digest=fingerprint({"pairs": [pair.name for pair in pairs.pairs]}),
        )
    model = settings.model.coc_model
    train = find_scenes(
        root, settings.data.train_split, min_frames=clip.clip_frames, min_size=clip.min_size, coc_model=model
    )
    val = find_scenes(root, settings.data.val_split, coc_model=model)
    return RunData(
        source=ClipDataset(train, clip),
        takes=scene_clips(val),
        lines=(train.describe(), val.describe()),
        digest=fingerprint({scene.scene_id: scene.fingerprint for scene in train.scenes}),
    )
