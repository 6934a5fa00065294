"""Evaluation protocols by name: which frames of which data set are made from which, read from the published split files.

No file name of a data set is assumed but what its release fixes; where a list is given (`listed`), it decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.lift.config import LiftConfig
from model.lift.layouts import Layout, dense, nearest, uniform
from model.lift.sequences import FrameSequence, find_clips, find_motion, read_text
from model.lift.targets import Target, targets_of
from pipeline.errors import UsageError
from pipeline.media.images import read_picture

_XTEST_GAP = 32  # frames of a thousand a second between the two given ones


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One protocol.

    Args:
        name: as papers call it.
        says: one line for --help.
        find: (root, list or None, network) -> its targets.
    """

    name: str
    says: str
    find: Callable[[Path, Path | None, LiftConfig], list[Target]]


def _listed(root: Path, listed: Path | None, name: str, default: str) -> list[str]:
    """Lines of a split file: the given one, or the release's own beside the data."""
    path = listed or root / default
    if not path.is_file():
        raise UsageError(f"{name} needs its split file: there is no {path}; give one with --list")
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"the split file {path} is empty")
    return lines


def _of_files(name: str, files: list[Path]) -> FrameSequence:
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{name}: there is no {missing[0]}")
    return FrameSequence(name=name, num_frames=len(files), read=lambda n: read_picture(files[n])[0])


def _vimeo(root: Path, listed: Path | None, default: str, count: int) -> list[FrameSequence]:
    lines = _listed(root, listed, "Vimeo-90K", default)
    return [_of_files(line, [root / "sequences" / line / f"im{n + 1}.png" for n in range(count)]) for line in lines]


def _triplet(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    clips = _vimeo(root, listed, "tri_testlist.txt", 3)
    return [target for clip in clips for target in targets_of(clip, dense(1, 1), first=1, every=3)]


def _uniform4(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """im1, im3, im5, im7 -> im4."""
    layout = nearest(uniform(2, 2), config.frames_before, config.frames_after)
    clips = _vimeo(root, listed, "sep_testlist.txt", 7)
    return [target for clip in clips for target in targets_of(clip, layout, first=3, every=7)]


def _dense6(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """im1 to im3 and im5 to im7 -> im4."""
    layout = nearest(dense(3, 3), config.frames_before, config.frames_after)
    clips = _vimeo(root, listed, "sep_testlist.txt", 7)
    return [target for clip in clips for target in targets_of(clip, layout, first=3, every=7)]


def _quint(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """Five consecutive frames, the middle one from the other four, starting at every second frame."""
    layout = nearest(dense(2, 2), config.frames_before, config.frames_after)
    return [
        target
        for clip in find_clips(root, listed)
        for target in targets_of(clip, layout, first=2, every=2)
        if target.full
    ]


def _folders_of(root: Path, listed: Path | None, names: tuple[str, ...]) -> list[FrameSequence]:
    """Every folder that holds these files, as UCF101's releases for interpolation have them."""
    folders = sorted(p.parent for p in root.rglob(names[0])) if listed is None else [
        root / line for line in _listed(root, listed, "UCF101", "")
    ]  # fmt: skip
    if not folders:
        raise UsageError(f"{root} holds no folder with {', '.join(names)}")
    return [_of_files(str(f.relative_to(root)), [f / name for name in names]) for f in folders]


def _ucf_dvf(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    clips = _folders_of(root, listed, ("frame_00.png", "frame_01_gt.png", "frame_02.png"))
    return [target for clip in clips for target in targets_of(clip, dense(1, 1), first=1, every=3)]


def _ucf_qvi(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """Four frames at equal distances and the one in the middle of the gap between the second and the third."""
    clips = _folders_of(root, listed, ("frame0.png", "frame1.png", "framet.png", "frame2.png", "frame3.png"))
    layout = Layout(places=(-2, -1, 1, 2), offsets=(-1.5, -0.5, 0.5, 1.5), t=0.5)
    layout = nearest(layout, config.frames_before, config.frames_after)
    return [target for clip in clips for target in targets_of(clip, layout, first=2, every=5)]


def _snu(level: str) -> Callable[[Path, Path | None, LiftConfig], list[Target]]:
    def find(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
        clips = []
        for line in _listed(root, listed, f"SNU-FILM {level}", f"test-{level}.txt"):
            parts = line.split()
            if len(parts) != 3:
                raise UsageError(f"a line of SNU-FILM's test-{level}.txt names three pictures, got {line!r}")
            clips.append(_of_files(parts[1], [_below(root, part) for part in parts]))
        return [target for clip in clips for target in targets_of(clip, dense(1, 1), first=1, every=3)]

    return find


def _below(root: Path, text: str) -> Path:
    """A listed path below the root: lists begin with folders of whoever made them."""
    parts = Path(text).parts
    for start in range(len(parts)):
        if (path := root.joinpath(*parts[start:])).is_file():
            return path
    raise UsageError(f"SNU-FILM: none of the endings of {text} is below {root}")


def _xtest(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """Frames 0 and 32 of 33, eight times: what the network was trained for of t = 1/8 ... 7/8."""
    found = []
    for clip in find_clips(root, listed):
        for step in range(1, 8):
            if config.t_min <= step / 8 <= config.t_max:
                phase = step * _XTEST_GAP // 8
                found += targets_of(clip, uniform(1, 1, _XTEST_GAP, phase), first=phase, every=_XTEST_GAP)
    return found


def _whole(layout_of: Callable[[int, int], Layout], every: int, kind: str) -> Callable[..., list[Target]]:
    def find(root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
        layout = layout_of(config.frames_before, config.frames_after)
        found = find_motion(root) if kind == "motion" else find_clips(root, listed)
        return [target for clip in found for target in targets_of(clip, layout, first=1, every=every)]

    return find


_EVERY_SECOND = "every second frame is removed and made again, the rest is context"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="folder", says=f"any folder of clips: {_EVERY_SECOND}", find=_whole(uniform, 2, "clips")),
        Protocol(
            name="motion", says=f"ray-traced clips with exact flow: {_EVERY_SECOND}", find=_whole(uniform, 2, "motion")
        ),
        Protocol(
            name="clip15-dense",
            says="one frame of a clip is removed, the rest is context",
            find=_whole(dense, 1, "clips"),
        ),
        Protocol(name="triplet", says="Vimeo-90K triplets, tri_testlist.txt", find=_triplet),
        Protocol(name="septuplet-uniform4", says="Vimeo-90K septuplets, frames 1 3 5 7 -> 4", find=_uniform4),
        Protocol(name="septuplet-dense6", says="Vimeo-90K septuplets, frames 1 2 3 5 6 7 -> 4", find=_dense6),
        Protocol(name="davis-quint", says="DAVIS, five consecutive frames, the middle one removed", find=_quint),
        Protocol(name="ucf-dvf", says="UCF101 triplets as Deep Voxel Flow released them", find=_ucf_dvf),
        Protocol(name="ucf-qvi", says="UCF101 quintuplets as Quadratic Interpolation released them", find=_ucf_qvi),
        *(
            Protocol(name=f"snu-{level}", says=f"SNU-FILM, test-{level}.txt", find=_snu(level))
            for level in ("easy", "medium", "hard", "extreme")
        ),
        Protocol(name="xtest", says="X4K1000FPS test clips, frames 0 and 32 given, eight times", find=_xtest),
    )
}


def targets(name: str, root: Path, listed: Path | None, config: LiftConfig) -> list[Target]:
    """What a protocol measures.

    Raises:
        UsageError: no such protocol, or its data are not there.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}")
    found = PROTOCOLS[name].find(root, listed, config)
    if not found:
        raise UsageError(f"{root} holds no target for {name}: clips of three frames and more are needed")
    return found
