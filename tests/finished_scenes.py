"""A small output tree of finished scenes, made by the real phases, for everything that trains on it."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from conftest import Project, write_scene

NUM_FRAMES, WIDTH, HEIGHT = 6, 80, 48  # raw frames are 72x48; phase 2 resizes to multiples of 16


def finish_scenes(root: Path, count: int = 3, sets: int = 2) -> Project:
    """`count` scenes through phases 1 to 5; from three on, every split has one."""
    project = Project(root)
    project.raw.mkdir(parents=True)
    for number in range(count):
        write_scene(project.raw, f"scene{number}", NUM_FRAMES, seed=10 * number)
    for phase, more in (
        (1, ["--min_frames", str(NUM_FRAMES)]),
        (2, ["--engine", "none"]),
        (3, []),
        (4, []),
        (4, ["--confirm", "0.0008"]),
        (5, ["--num_sets", str(sets)]),
    ):
        assert project.run(phase, *more) == 0, f"phase {phase}"
    return project


@cache
def shared_scenes() -> Path:
    """The output root of three finished scenes, made once per process; tests read it and copy what they damage."""
    root = Path(tempfile.mkdtemp(prefix="bokehflow_scenes_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return finish_scenes(root).out
