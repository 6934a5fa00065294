"""The flags that every script shares, as settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import UsageError
from pipeline.storage.scene import SceneEntry, SceneIndex, index_path

OnStale = Literal["stop", "redo", "keep"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The flags that every script shares. None of them changes an output."""

    raw_root: Path = Path("data")
    out_root: Path = Path("output")
    logs: Path = Path("logs")
    scenes: tuple[str, ...] = ()
    dry_run: bool = False
    on_stale: OnStale = "stop"
    redo: bool = False  # make the named scenes again although they count as done

    def __post_init__(self) -> None:
        if self.redo and not self.scenes:
            raise UsageError("--redo makes finished scenes again and needs --scene NAME; got no --scene")

    @property
    def index_path(self) -> Path:
        return index_path(self.out_root)

    def chosen(self, index: SceneIndex) -> list[SceneEntry]:
        """The accepted scenes asked for, sorted; all of them when none was named.

        Raises:
            UsageError: a named scene is unknown or was rejected; the message says which and why.
        """
        for name in self.scenes:
            if name not in index.entries:
                known = ", ".join(sorted(index.accepted)) or "none"
                raise UsageError(f"there is no scene {name!r} in {self.index_path}; accepted scenes: {known}")
            if not index.entries[name].accepted:
                raise UsageError(f"scene {name!r} was rejected in phase 1: {'; '.join(index.entries[name].reasons)}")
        names = set(self.scenes) or set(index.accepted)
        return [entry for name, entry in sorted(index.accepted.items()) if name in names]
