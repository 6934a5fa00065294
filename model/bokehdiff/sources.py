"""Where pairs come from: made on the fly, the pipeline's scenes, ray-traced photographs; and what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from model.bokehdiff.pairs import Pairs, PairSettings
from model.bokehdiff.samples import PairSample
from model.data.loaders import SampleSource
from model.data.sampling import ClipSettings, sample_rng
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from model.evaluation.eval_clips import EvalClip, scene_clips, spread
from pipeline.errors import UsageError
from pipeline.optics import Lens, disparity_gain_px
from pipeline.storage.completion import fingerprint


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What was found.

    Args:
        source: training samples by number.
        validation: pairs that no step sees, by where they come from.
        lines: for the log.
        digest: changes when the training data do.
        seen: kind and number of what the weights learn from.
    """

    source: SampleSource[PairSample]
    validation: dict[str, list[PairSample]]
    lines: tuple[str, ...]
    digest: str
    seen: dict[str, str | int]


def pair_of(
    name: str, sharp: Tensor, bokeh: Tensor, depth_m: Tensor, lens: Lens, px_per_mm: float, max_radius_px: float
) -> PairSample:
    """A frame, its photograph and (1, H, W) depth as the engine sees them: disparity over that of the nearest point."""
    nearness = 1 / depth_m[0]
    nearest = float(nearness.max())
    return PairSample(
        name=name,
        sharp=sharp,
        bokeh=bokeh,
        disparity=(nearness / nearest).clamp(max=1),
        focus=1 / lens.focus_m / nearest,
        gain_px=disparity_gain_px(lens, px_per_mm) * nearest,
        max_radius_px=max_radius_px,
    )


class ScenePairs:
    """Single frames of scenes as the phases leave them, and of photograph scenes, which lie in the same way."""

    def __init__(self, clips: ClipDataset) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int, /) -> PairSample:
        clip = self._clips[number]
        assert clip.depth_m is not None, "scenes have depth"
        return pair_of(
            clip.name, clip.frames[0], clip.bokeh[0], clip.depth_m[0], clip.lens, clip.px_per_mm, clip.max_radius_px
        )


class Mixed:
    """Sample n comes from one of several sources, in the given shares."""

    def __init__(self, sources: Sequence[SampleSource[PairSample]], shares: Sequence[float], seed: int) -> None:
        self._sources, self._seed = sources, seed
        self._bounds = [sum(shares[: n + 1]) / sum(shares) for n in range(len(shares))]

    def __len__(self) -> int:
        return sum(len(source) for source in self._sources)

    def __getitem__(self, number: int, /) -> PairSample:
        drawn = float(sample_rng(self._seed, number).random())
        chosen = next((n for n, bound in enumerate(self._bounds) if drawn < bound), len(self._bounds) - 1)
        return self._sources[chosen][number]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What `build_data` looks for; folders left empty are not used.

    Args:
        pairs: a folder with fg/ and bg/.
        scenes, photographs: output trees.
        shares: of the three, in this order.
        settings: of pairs; its crop and seed are those of all.
        val_pairs, val_frames: how many pairs, and frames of each tree, a validation looks at.
    """

    pairs: str
    scenes: str
    photographs: str
    shares: tuple[float, float, float]
    settings: PairSettings
    val_pairs: int
    val_frames: int


def build_data(wanted: Wanted) -> RunData:
    """Look at all sources.

    Raises:
        UsageError: one that is named has nothing to use, or none is named.
        InputError: a cut-out cannot be used.
    """
    settings = wanted.settings
    clip = ClipSettings(
        clip_frames=1, crop_width=settings.crop, crop_height=settings.crop, flip=settings.flip, rendered_only=True,
        seed=settings.seed,
    )  # fmt: skip
    found: list[tuple[SampleSource[PairSample], float]] = []
    validation: dict[str, list[PairSample]] = {}
    lines: list[str] = []
    content: dict[str, object] = {}
    if wanted.pairs:
        pairs = Pairs(Path(wanted.pairs), settings)
        found.append((pairs, wanted.shares[0]))
        lines.append(f"train: pairs of {len(pairs.cutouts)} cut-outs and {len(pairs.backgrounds)} backgrounds")
        content["pairs"] = [path.name for path in (*pairs.cutouts, *pairs.backgrounds)]
        validation["pairs"] = held_out_pairs(Path(wanted.pairs), settings, wanted.val_pairs)
    for name, root, share in zip(
        ("scenes", "photographs"), (wanted.scenes, wanted.photographs), wanted.shares[1:], strict=True
    ):
        if not root:
            continue
        train = find_scenes(Path(root), "train", min_size=clip.min_size)
        found.append((ScenePairs(ClipDataset(train, clip)), share))
        held = find_scenes(Path(root), "val")
        lines += [f"{name}: {train.describe()}", f"{name}: {held.describe()}"]
        content[name] = {scene.scene_id: scene.fingerprint for scene in train.scenes}
        validation[name] = frames_of(spread(scene_clips(held), wanted.val_frames))
    found = [(source, share) for source, share in found if share > 0]
    if not found:
        raise UsageError("[data] must name one of pairs, scenes and photographs, with a share above 0")
    lines.append("val: " + ", ".join(f"{len(some)} {name}" for name, some in validation.items()))
    source = Mixed([one for one, _ in found], [share for _, share in found], settings.seed)
    return RunData(
        source=found[0][0] if len(found) == 1 else source,
        validation=validation,
        lines=tuple(lines),
        digest=fingerprint(content),
        seen={"kind": "pairs", "scenes": sum(len(one) for one, _ in found)},
    )


def held_out_pairs(root: Path, settings: PairSettings, count: int) -> list[PairSample]:
    """The first pairs of the files that training never draws."""
    held = Pairs(root, replace(settings, held_out=True, light_share=0.0, pool=0, gain="exact"))
    return [held[number] for number in range(count)]


def frames_of(clips: Sequence[EvalClip]) -> list[PairSample]:
    """The middle frame of each clip, whole."""
    return [frame_of(clip, clip.num_frames // 2) for clip in clips]


def frame_of(clip: EvalClip, number: int) -> PairSample:
    """A frame of a clip with depth.

    Raises:
        UsageError: it has none.
    """
    frame = clip.read(number)
    if frame.depth_m is None:
        raise UsageError(f"{clip.name} has no depth, and BokehDiff needs disparity")
    limit = float("inf") if clip.max_radius_px is None else clip.max_radius_px
    name = f"{clip.name} frame {number}"
    return pair_of(name, frame.frame, frame.bokeh, frame.depth_m, clip.lens, clip.px_per_mm, limit)
