"""Tiny raw scenes, scripts run in this process, and trees compared the way pipeline.md says."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import pipeline  # noqa: F401  before PyTorch, since it decides how PyTorch's threads wait

REPOSITORY = Path(__file__).resolve().parents[1]
VOLATILE = ("wall_s", "host", "job_id", "versions")  # of a .done: what two runs of the same work may differ in
SIZE = (72, 48)  # of raw frames; phase 2 makes 80x48 of them


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours with fine detail, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((6, 9, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.random((height, width, 3)).astype(np.float32), (0, 0), 1.0)
    return np.clip((0.75 * coarse + 0.9 * (fine - 0.5) + 0.1) * 255, 0, 255).astype(np.uint8)


def moving_frames(count: int, size: tuple[int, int] = SIZE, seed: int = 0, noise: float = 2.0) -> list[np.ndarray]:
    """A panning view of one texture with sensor noise."""
    width, height = size
    world = texture(height + 4, width + count + 4, seed)
    rng = np.random.default_rng(seed + 1)
    views = [world[2 : 2 + height, t : t + width].astype(np.float32) for t in range(count)]
    return [np.clip(view + rng.normal(0, noise, view.shape), 0, 255).astype(np.uint8) for view in views]


def slanted_depth(size: tuple[int, int] = SIZE, near: float = 1.0, far: float = 8.0) -> np.ndarray:
    """A floor from near (bottom) to far (top) with a box standing on it, (H, W) float32 metres."""
    width, height = size
    depth = np.repeat(np.linspace(far, near, height, dtype=np.float32)[:, None], width, axis=1)
    depth[height // 4 : height // 2, width // 3 : width // 2] = near * 1.5
    return depth


def write_scene(
    raw_root: Path,
    name: str,
    frames: list[np.ndarray] | int = 18,
    depth: bool = True,
    holes: bool = False,
    seed: int = 0,
) -> Path:
    """A raw scene folder of png frames, with delivered depth; with holes, some of it unknown."""
    folder = raw_root / name
    folder.mkdir(parents=True)
    pictures = moving_frames(frames, seed=seed) if isinstance(frames, int) else frames
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture[..., ::-1])
    if depth:
        (folder / "depth").mkdir()
        height, width = pictures[0].shape[:2]
        for number in range(len(pictures)):
            values = slanted_depth((width, height)) * (1 + 0.01 * number)
            if holes and number % 3 == 0:
                values[5:15, 20:30] = (np.nan, 0, -1, np.inf)[number % 4]
            np.savez(folder / "depth" / f"{number:03d}.npz", depth=values)
    return folder


def load_script(name: str) -> Callable[[list[str]], int]:
    """`main` of scripts/<name>.py."""
    path = REPOSITORY / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main


SCRIPTS = {
    1: "01_validate_dataset",
    2: "02_deblur",
    3: "03_depth",
    4: "04_calibrate_coc",
    5: "05_render_and_labels",
    6: "06_validate_outputs",
}


class Project:
    """A raw root, an output root and the scripts, as an operator would use them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.root = root
        self.raw, self.out, self.logs = root / "data", root / "output", root / "logs"
        self._capsys = capsys
        self.text = ""

    def args(self, *more: str) -> list[str]:
        return ["--raw_root", str(self.raw), "--out_root", str(self.out), "--logs", str(self.logs), *more]

    def run(self, phase: int, *more: str) -> int:
        """Exit code of a phase's script; what it printed is in `text`.

        Phases 1 and 6 start no processes unless --workers says so: an interpreter of its own costs more than a tiny scene.
        """
        if phase in (1, 6) and "--workers" not in more:
            more = (*more, "--workers", "1")
        code = load_script(SCRIPTS[phase])(self.args(*more))
        if self._capsys:
            captured = self._capsys.readouterr()
            self.text = captured.out + captured.err
        return code

    def run_upto(self, phase: int, sets: int = 2) -> None:
        """Phases 1 to `phase`, all of which must succeed; 4 is confirmed when more follows."""
        for number in range(1, phase + 1):
            assert self.run(number, *(["--num_sets", str(sets)] if number == 5 else [])) == 0, self.text
            if number == 4 and phase > 4:
                assert self.run(4, "--confirm") == 0, self.text


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """An empty project; write scenes into `project.raw`."""
    made = Project(tmp_path, capsys)
    made.raw.mkdir()
    return made


class TinyProject(Project):
    """A project whose one scene is "tiny": what the phases make of it is copied from a shared project, not made again."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], shared: Path) -> None:
        super().__init__(root, capsys)
        self._shared = shared
        shutil.copytree(shared / "0" / "data", self.raw)

    def run_upto(self, phase: int, sets: int = 2) -> None:
        """Phases 1 to `phase`; a copy where nothing has run and nothing was changed yet."""
        copied = min(phase, 5)
        fresh = not self.out.exists() and not self.logs.exists()
        if not fresh or sets != 2 or _listing(self.raw) != _listing(self._shared / "0" / "data"):
            return super().run_upto(phase, sets)
        made = self._shared / str(copied)
        shutil.copytree(made / "output", self.out)
        shutil.copytree(made / "logs", self.logs)
        index = self.out / "scene_index.json"
        index.write_text(index.read_text().replace(str(self._shared / "work"), str(self.root)))
        for number in range(copied + 1, phase + 1):
            assert self.run(number) == 0, self.text


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="session")
def tiny_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene "tiny" through phases 1 to 5, once per process: a folder N with what phases 1 to N left; 0 is the raw data.

    Read it, as in `tiny_stages / "5" / "output"`; a test that writes takes `scene_project`, which copies.
    """
    shared = tmp_path_factory.mktemp("tiny")
    project = Project(shared / "work")
    write_scene(project.raw, "tiny")
    shutil.copytree(project.raw, shared / "0" / "data")
    for phase in range(1, 6):
        if phase == 5:
            assert project.run(4, "--confirm") == 0
        assert project.run(phase, *(["--num_sets", "2"] if phase == 5 else [])) == 0, f"phase {phase}"
        for name in ("output", "logs"):
            shutil.copytree(project.root / name, shared / str(phase) / name)
    return shared


@pytest.fixture
def scene_project(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_stages: Path) -> Project:
    """A project of the test's own with one scene, "tiny": 18 frames of 72x48 with depth.

    `scene_project.run_upto(5)` leaves what phases 1 to 5 make of it, with two lens sets and a confirmed calibration, and costs
    a copy of some 200 small files; `scene_project.run(5, ...)` runs a phase for real. Damage whatever you like.
    """
    return TinyProject(tmp_path, capsys, tiny_stages)


def tree(folder: Path) -> dict[str, object]:
    """Every file below a scene folder except private ones: bytes, or for json the content without times and hosts."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or ".pipeline" in path.parts:
            continue
        data = path.read_bytes()
        name = str(path.relative_to(folder))
        if path.name == ".done":
            found[name] = {key: value for key, value in json.loads(data).items() if key not in VOLATILE}
        else:
            found[name] = json.loads(data) if path.suffix == ".json" else data
    return found


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real test material."""
    folder = Path(os.environ.get("BOKEHFLOW_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real test data in {folder}; set BOKEHFLOW_TEST_DATA")
    return folder
