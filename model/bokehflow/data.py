"""The training samples and the validation clips that a run through lenses asks for: generated scenes, or RealBokeh."""

from dataclasses import dataclass
from pathlib import Path

from model.data.loaders import SampleSource
from model.data.realbokeh import RealBokehDataset, find_pairs
from model.data.samples import Clip
from model.data.sampling import ClipSettings
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from model.evaluation.eval_clips import EvalClip, pair_clips, scene_clips
from pipeline.optics import CocModel
from pipeline.storage.completion import fingerprint


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What was found.

    Args:
        source: training samples by number.
        clips: what validations look at.
        lines: for the log, how much there is and what was skipped.
        digest: changes when the training data do.
        seen: "kind" and number of "scenes" that the weights learn from, for whoever uses them.
    """

    source: SampleSource[Clip]
    clips: list[EvalClip]
    lines: tuple[str, ...]
    digest: str
    seen: dict[str, str | int]


def build_data(
    kind: str, root: Path, train_split: str, val_split: str, clip: ClipSettings, coc_model: CocModel
) -> RunData:
    """Look at both splits.

    Args:
        kind: "scenes" or "realbokeh".
        root: of the data.
        train_split, val_split: names of splits.
        clip: what a training sample is.
        coc_model: of the network; generated scenes of another are skipped.

    Raises:
        UsageError: a split is empty, or holds nothing that fits the settings; the message has the reasons.
    """
    if kind == "realbokeh":
        pairs, val_pairs = (find_pairs(root, split) for split in (train_split, val_split))
        return RunData(
            source=RealBokehDataset(pairs, clip),
            clips=pair_clips(val_pairs),
            lines=(f"train: {pairs.describe()}", f"val: {val_pairs.describe()}"),
            digest=fingerprint({"pairs": [pair.name for pair in pairs.pairs]}),
            seen={"kind": "photographs", "scenes": len(pairs.pairs)},
        )
    train = find_scenes(root, train_split, min_frames=clip.clip_frames, min_size=clip.min_size, coc_model=coc_model)
    val = find_scenes(root, val_split, coc_model=coc_model)
    return RunData(
        source=ClipDataset(train, clip),
        clips=scene_clips(val),
        lines=(train.describe(), val.describe()),
        digest=fingerprint({scene.scene_id: scene.fingerprint for scene in train.scenes}),
        seen={"kind": "scenes", "scenes": len(train.scenes)},
    )
