"""What a per-scene phase is, and what it gets to do its work with. The loop around it is `pipeline/phases/runner.py`."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pipeline.engines.base import Engine
from pipeline.engines.info import EngineInfo, recorded_options
from pipeline.phases.registry import phase_named
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.completion import Fields, Journal
from pipeline.storage.files import names_in, write_bytes, write_if_changed
from pipeline.storage.lease import Lease
from pipeline.storage.ownership import OwnFiles
from pipeline.storage.scene import Outputs, Scene, SceneEntry

T = TypeVar("T")


@dataclass(kw_only=True)
class Work:
    """What a phase gets to do one scene: what is missing, where to note facts, and how to stop and report."""

    journal: Journal
    lease: Lease
    signals: StopSignals
    reporter: Reporter

    def safe_point(self) -> None:
        """Between frames, and inside engines between steps: stop here when asked to, or when the lease is lost."""
        self.lease.check()
        self.signals.safe_point()

    def write(self, path: Path, data: bytes) -> None:
        """Put a finished output in place, atomically, unless the lease was lost.

        Raises:
            LeaseLostError: another worker has the scene now; nothing was written.
        """
        write_bytes(path, data, self.lease.check)

    def write_if_changed(self, path: Path, data: bytes) -> None:
        """`write`, unless the file holds these bytes already."""
        write_if_changed(path, data, self.lease.check)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a phase says of a finished scene; goes into `.done`."""

    summary: dict[str, Any] = field(default_factory=dict)
    fallbacks: int = 0
    repairs: int = 0
    warnings: tuple[str, ...] = ()


class ScenePhase(ABC):
    """A phase that works scene by scene. It opens other phases' files through Scene only."""

    name: ClassVar[str]  # in the registry, which knows the folders and the script

    num_sets = 0  # lens sets per scene, where a phase makes any

    @property
    @abstractmethod
    def info(self) -> EngineInfo:
        """The engine at work, for records."""

    @abstractmethod
    def fields(self, scene: Scene, entry: SceneEntry) -> Fields:
        """Everything that changes this scene's output, "upstream" fingerprints included.

        Raises:
            SceneError: what this phase reads is not there or is stale.
        """

    def ready(self, scene: Scene, entry: SceneEntry) -> None:
        """Raise SceneError when `run` could not begin. Called before anything old is removed."""
        return

    @property
    def _made(self) -> Outputs:
        made = phase_named(self.name).outputs
        assert made is not None, f"{self.name} works scene by scene"
        return made

    def folders(self, scene: Scene) -> list[Path]:
        """The modality folders that get a `.done`, in the order in which it is written."""
        return [scene.folder(modality) for modality in self._made.modalities]

    def outputs(self, scene: Scene, entry: SceneEntry) -> list[Path]:
        """Every file that must exist when the scene is done."""
        return scene.outputs(self._made, entry.num_frames, self.num_sets)

    def own_files(self, scene: Scene, entry: SceneEntry) -> OwnFiles:
        """What of a scene's files this phase may remove: whatever has a name that it writes."""
        examples = self.outputs(scene, replace(entry, num_frames=1))
        return OwnFiles(scene.dir, self.folders(scene), examples)

    @abstractmethod
    def run(self, scene: Scene, entry: SceneEntry, work: Work) -> Result:
        """Make the outputs that are missing. Finished ones are never written again."""

    def after(self) -> None:
        """Once per command, after the last scene: merge logs and the like. Not called for a dry run."""
        return

    def journal(self, scene: Scene) -> Journal:
        return Journal(scene.journal_path(self.name))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether main or GPU memory ran out; PyTorch's own error is one only where PyTorch is in use."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def engine_fields(engine: Engine) -> Fields:
    """An engine's part of a fingerprint: who, with which options, and what is in its weights, but not where they lie."""
    fields: Fields = {"name": engine.info.name, "version": engine.info.version}
    fields["options"] = recorded_options(engine.options)
    if engine.info.weights:
        fields["weights"] = dict(engine.info.weights)
    return fields


def retry_on_oom(engine: Engine, call: Callable[[], T], warn: Callable[[str], None]) -> T:
    """Call an engine, and again with less each time it runs out of memory, until it says that nothing more can be saved.

    Raises:
        torch.OutOfMemoryError, MemoryError: even the least was too much.
    """
    while True:
        try:
            return call()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not engine.shrink():
                raise
            warn(f"out of memory ({error}); trying again with less")


def ordered_missing(outputs: Sequence[Path]) -> list[int]:
    """Positions of the outputs that do not exist yet."""
    present = {folder: names_in(folder) for folder in {path.parent for path in outputs}}
    return [number for number, path in enumerate(outputs) if path.name not in present[path.parent]]
