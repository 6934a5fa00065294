"""Where a film's depth comes from: delivered with it, estimated by Video Depth Anything, or seen by a trained network.

Special: the best of what is there is taken, and said with the reason. Estimated depth is kept in the work folder until the
output is complete, so that nothing is estimated twice.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from model.video.film import Film, Look, to_8_bit
from pipeline.engines.base import Clip
from pipeline.engines.vda import VideoDepthAnything
from pipeline.engines.vda.choose import BRING, best_here
from pipeline.errors import InputError, UsageError
from pipeline.media.delivered_depth import DeliveredDepth, depth_at, find_delivered_depth, has_delivered_depth
from pipeline.media.depth_cleaning import filled, rounding_step, unrounded
from pipeline.media.depth_files import Depth, encode_npz, read_npz, resize_depth
from pipeline.media.depth_statement import DepthStatement
from pipeline.media.images import Picture
from pipeline.storage.completion import as_stored
from pipeline.storage.files import read_json, write_bytes, write_json

_COMPLETE = "complete.json"
SafePoint = Callable[[], None]  # raises StoppedError when a signal asked for it


class DepthSource(Protocol):
    """Depth for every frame of a film, once `prepare` has run."""

    said: str  # which it is and why, for the terminal
    fields: dict[str, object]  # what changes the depth, for the fingerprint

    def prepare(self, film: Film, look: Look, folder: Path, on_frame: SafePoint) -> None:
        """Estimate what is not there yet, into the folder; `on_frame` is called once a frame, and may stop it."""
        ...

    def read(self, index: int) -> Depth:
        """(H, W) metres at the film's working size, all finite and > 0."""
        ...


class Delivered:
    """Depth that came with the film, read when it is needed."""

    def __init__(self, depth: DeliveredDepth, said: str, origin: str, *, any_size: bool = False) -> None:
        self._depth, self.said = depth, said
        files = depth.files()
        stamp = sum(file.stat().st_mtime_ns for file in files)
        self.fields: dict[str, object] = {"kind": "given", "path": origin, "files": len(files), "stamp": stamp}
        self._size = self._source_size = (0, 0)
        self._step, self._any_size = rounding_step(depth), any_size

    def prepare(self, film: Film, look: Look, folder: Path, on_frame: SafePoint) -> None:
        self._size, self._source_size = look.size, look.source_size

    def read(self, index: int) -> Depth:
        try:
            if self._any_size:
                depth_m = filled(self._depth.read(index))
            else:
                depth_m = filled(self._depth.read_fitting(index, self._source_size))
            if self._step:
                depth_m = unrounded(depth_m, self._step)
            return resize_depth(depth_m, self._size)
        except InputError as error:
            raise InputError(f"delivered depth of frame {index}: {error}") from None


class Kept:
    """Depth that takes long to make: all of it is made once, into a folder that outlives a stop and other lenses."""

    def __init__(self, said: str, fields: dict[str, object]) -> None:
        self.said, self.fields = said, fields
        self._folder = Path()

    def prepare(self, film: Film, look: Look, folder: Path, on_frame: SafePoint) -> None:
        self._folder = folder
        complete, fields = folder / _COMPLETE, as_stored({**self.fields, "size": look.size, "frames": look.count})
        if complete.exists() and read_json(complete, "the record of kept depth") == fields:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index, depth in enumerate(self._estimate(film, look)):
            write_bytes(self._path(index), encode_npz("depth", filled(depth).astype(np.float16)))
            on_frame()
        write_json(complete, fields)

    def _estimate(self, film: Film, look: Look) -> Iterator[Depth]:
        raise NotImplementedError

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}.npz"

    def read(self, index: int) -> Depth:
        return filled(read_npz(self._path(index), "depth").astype(np.float32))


class Estimated(Kept):
    """Video Depth Anything, shot by shot: across a cut there is nothing to be consistent with."""

    def __init__(self, engine: VideoDepthAnything, said: str) -> None:
        fields: dict[str, object] = {
            "kind": "vda",
            "encoder": engine.options.encoder,
            "weights": dict(engine.info.weights),
        }
        super().__init__(said, fields)
        self._engine = engine

    def _estimate(self, film: Film, look: Look) -> Iterator[Depth]:
        frames = _InOrder(film)
        for shot in look.shots:
            yield from self._engine.stream(Clip(shot, frames.read, None), lambda: None)


class _InOrder:
    """A film that streams by, for readers that ask by number, in order but for a few threads' haste."""

    _KEPT = 24  # the engine reads at most 8 ahead, and each shot's first frame twice

    def __init__(self, film: Film) -> None:
        self._frames, self._next = film.frames(), 0
        self._recent: dict[int, Picture] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> Picture:
        with self._lock:
            while index >= self._next:
                self._recent[self._next] = to_8_bit(next(self._frames).picture)
                self._recent.pop(self._next - self._KEPT, None)
                self._next += 1
            return self._recent[index]


def check_kept(folder: Path) -> None:
    """UsageError if a folder for kept depth holds something else."""
    if folder.exists() and not (folder / _COMPLETE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"--save_depth {folder} exists and holds no depth that this command wrote; give another folder"
        )


def discard_kept(folder: Path, *, even_complete: bool) -> None:
    """Remove kept depth: always what is half done, and all of it when it has served."""
    if even_complete or not (folder / _COMPLETE).is_file():
        shutil.rmtree(folder, ignore_errors=True)


def choose_depth(
    asked: str,
    source: Path,
    num_frames: Callable[[], int],
    device: str,
    network: Callable[[str], DepthSource] | None,
) -> DepthSource:
    """The depth that was asked for, or the best there is: delivered, else Video Depth Anything if its weights are here.

    Args:
        asked: "auto", "given", "vda", "bokehflow", or a path to delivered depth.
        source: the film.
        num_frames: of the whole film, which is what delivered depth has maps for; asked only where there is some.
        device: where to estimate.
        network: makes the source that a network is; None without a network. Takes the line to say.

    Raises:
        UsageError: it is not there; the message says what was looked for and the command that would bring depth.
        InputError: delivered depth that cannot be used.
    """
    if asked == "bokehflow":
        assert network is not None, "the settings ask for a checkpoint"
        return network("depth: seen by the network")
    if asked == "vda":
        found = best_here(device)
        if found is None:
            raise UsageError(f"no weights of Video Depth Anything are here; get the small ones (Apache-2.0): {BRING}")
        return Estimated(found, f"depth: Video Depth Anything, {_named(found)}, as --depth vda asks")
    if asked not in ("auto", "given"):
        return _at(Path(asked), source, num_frames)
    beside = _beside(source, num_frames)
    if beside is not None:
        delivered, place = beside
        why = "as --depth given asks" if asked == "given" else "since measured or chosen depth beats an estimate"
        return Delivered(delivered, f"depth: {delivered.kind} delivered in {place}, {why}", str(place))
    looked = f"{source} has no depth with it (no {_places(source)})"
    if asked == "given":
        raise UsageError(f"{looked}; name a folder with --depth, or estimate it with --depth vda")
    found = best_here(device)
    if found is not None:
        return Estimated(
            found, f"depth: estimated by Video Depth Anything, {_named(found)}, since none came with the film"
        )
    raise UsageError(
        f"{looked}, and no weights to estimate it; get the small ones (Apache-2.0, 0.12 GB) and run this again: {BRING}"
    )


def depth_is_here(source: Path, device: str) -> bool:
    """Whether `choose_depth` would find any by itself: delivered with the film, or weights to estimate it."""
    return has_delivered_depth(source) or best_here(device) is not None


def _places(source: Path) -> str:
    folder = source if source.is_dir() else source.with_suffix("")
    return f"{folder}/depth, {folder}/disparity or {folder}.depth"


def _beside(source: Path, num_frames: Callable[[], int]) -> tuple[DeliveredDepth, Path] | None:
    """Delivered depth in the scene's folder, or under the film's name beside it."""
    if not has_delivered_depth(source):
        return None
    found = find_delivered_depth(source, num_frames())
    return None if found is None else (found, found.files()[0].parent)


def _at(path: Path, source: Path, num_frames: Callable[[], int]) -> DepthSource:
    """Delivered depth at a path: a folder of maps, the folder around it, one file, or what --save_depth kept.

    Raises:
        UsageError: there is none.
    """
    if (path / _COMPLETE).is_file():
        kept = DeliveredDepth(DepthStatement(kind="depth"), sorted(path.glob("*.npz")))
        if len(kept) < num_frames():
            raise UsageError(f"--depth {path} holds depth of {len(kept)} frames, the film has {num_frames()}")
        return Delivered(kept, f"depth: kept in {path} by an earlier run, as --depth asks", str(path), any_size=True)
    if not path.exists():
        raise UsageError(f"--depth must be given, vda, bokehflow or a folder or file with depth, got {path}")
    found = depth_at(path, source, num_frames())
    return Delivered(found, f"depth: {found.kind} delivered in {path}, as --depth asks", str(path))


def _named(engine: VideoDepthAnything) -> str:
    return f"{engine.options.encoder} ({engine.info.licence}) on {engine.device}"


def colour_depth(depth_m: Depth, ends: tuple[float, float] | None) -> Picture:
    """(H, W) metres -> colours of inverse depth, bright is near; between these ends, or 100 m and 0.5 m."""
    low, high = ends or (1 / 100, 1 / 0.5)
    share = np.clip((1 / depth_m - low) / (high - low), 0, 1)
    coloured = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)
    return np.ascontiguousarray(coloured[..., ::-1])


def inverse_ends(maps: Iterator[Depth]) -> tuple[float, float]:
    """2nd and 98th percentile of inverse depth over some maps, for pictures of it."""
    values: list[npt.NDArray[np.floating]] = [1 / depth[::4, ::4].ravel() for depth in maps]
    low, high = np.percentile(np.concatenate(values), (2, 98))
    return float(low), float(max(high, low + 1e-6))
