"""What is disturbed: commands on a scene of three frames, what they read, and what they must have written in the end."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Project, load_script, tree, write_scene

from pipeline.storage.appending import read_records
from pipeline.storage.scene import Scene

NAME, FRAMES = "tiny", 3
INDEX = ("--min_frames", str(FRAMES), "--workers", "1")
SIZE = (36, 30)  # 32x32 once resized
MODALITIES = ("frames_sharp", "depth_maps", "focus_maps", "bokeh_renders")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One command.

    Args:
        name: for the table.
        script: in scripts/, without .py.
        flags: of the work that is disturbed.
        others: of a successor with other settings; () where there are none.
        lease: the phase whose lease it holds; "" without one.
        absent: what is not there yet before it runs, inside the scene's folder.
        results: files and folders to compare, relative to the project's root.
        disk: the folder that is moved to a small disk for a while.
    """

    name: str
    script: str
    flags: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    lease: str = ""
    absent: tuple[str, ...] = ()
    results: tuple[str, ...] = (f"output/{NAME}",)
    disk: str = "output"

    def argv(self, root: Path, more: tuple[str, ...]) -> list[str]:
        if self.name == "trainer":
            return ["--config", str(root / "train.toml")]
        if self.name == "apply_bokeh":
            return [str(root / "data" / NAME), "-o", str(root / "place" / "applied"), *more]
        return [*Project(root).args(), *more]

    def lease_path(self, root: Path) -> Path | None:
        if self.name == "trainer":
            return root / "place" / "run" / "train.lease"
        if self.name == "apply_bokeh":
            return root / "place" / ".applied.lease"
        return Scene(root / "output", NAME).private_dir / f"{self.lease}.lease" if self.lease else None


SUBJECTS = (
    Subject(
        name="phase 2", script="02_deblur", others=("--engine", "none"), lease="deblur",
        absent=(*MODALITIES, "metadata.json"), results=(f"output/{NAME}", "logs/deblur_psnr.csv"),
    ),
    Subject(name="phase 3", script="03_depth", lease="depth", absent=(*MODALITIES[1:], "metadata.json")),
    Subject(
        name="phase 5", script="05_render_and_labels", flags=("--num_sets", "2"), others=("--num_sets", "1"),
        lease="render", absent=(*MODALITIES[2:], "metadata.json"),
    ),
    Subject(
        name="phase 6", script="06_validate_outputs", flags=("--workers", "1"),
        results=("output/validation_report.json",),
    ),
    Subject(name="trainer", script="train", results=("place/run",), disk="place"),
    Subject(
        name="apply_bokeh", script="apply_bokeh", flags=("--focus", "2", "--overwrite"), results=("place/applied",),
        disk="place",
    ),
)  # fmt: skip


_TRAINING = """
[model]
variant = "demo"
channels = 16
stem_channels = 8
heads = 1
head_dim = 8
depth_blocks = 1
bokeh_blocks = 1
[data]
root = "{root}/output"
val_split = "train"
clip_frames = 2
crop_width = 24
crop_height = 16
[optim]
warmup_steps = 2
[run]
out_dir = "{root}/place/run"
steps = 5
batch_size = 1
micro_batch_size = 1
backprop_frames = 1
device = "cpu"
threads = 1
log_every = 1
validate_every = 2
save_every = 1
val_clips = 1
val_frames = 2
"""


def run(script: str, argv: list[str]) -> int:
    """A script in this process; an exit through argparse is its code."""
    try:
        if script == "train":
            from model.train import main

            return main(argv)
        return load_script(script)(argv)
    except SystemExit as end:
        return int(end.code or 0)


def build(root: Path) -> None:
    """A project with one scene through all phases."""
    project = Project(root)
    project.raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(FRAMES)]
    write_scene(project.raw, NAME, frames, holes=True)
    steps: list[tuple[int, tuple[str, ...]]] = [(1, INDEX), (2, ()), (3, ()), (4, ()), (4, ("--confirm",))]
    for number, flags in [*steps, (5, ("--num_sets", "2")), (6, ("--workers", "1"))]:
        code = project.run(number, *flags)
        assert code == 0, f"phase {number} of the sample ended with {code}"


def lay_out(built: Path, root: Path, subject: Subject) -> None:
    """The project as it is before a subject runs. Raw data are shared, since nobody may write there."""
    root.mkdir(exist_ok=True)
    shutil.copytree(built / "data", root / "data")
    shutil.copytree(built / "output", root / "output", ignore=shutil.ignore_patterns(".pipeline", "report"))
    (root / "place").mkdir()
    (root / "train.toml").write_text(_TRAINING.format(root=root))
    scene = root / "output" / NAME
    for name in subject.absent:
        path = scene / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def results(root: Path, subject: Subject) -> dict[str, object]:
    """What is compared: bytes by name, records without times and hosts."""
    found: dict[str, object] = {}
    for name in subject.results:
        path = root / name
        if path.name == "run":
            found |= _run_results(path)
        elif path.is_dir():
            found |= {f"{name}/{inner}": value for inner, value in tree(path).items()}
        elif path.exists():
            found[name] = path.read_bytes()
    return found


def _run_results(folder: Path) -> dict[str, object]:
    """Checkpoints, the best one, and the log without times."""
    files = [
        *folder.glob("checkpoints/*/*.safetensors"),
        *folder.glob("checkpoints/*/resume/*"),
        *folder.glob("best.json"),
    ]
    found: dict[str, object] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for number, line in enumerate(read_records(folder / "train.jsonl")):
        found[f"train.jsonl:{number}"] = {key: value for key, value in line.items() if key != "frames_per_s"}
    return found


def finished(root: Path) -> dict[Path, tuple[int, int]]:
    """Outputs that are whole: path -> (inode, time). Not a depth map that still awaits its second pass, nor a label without
    its image."""
    scene = Scene(root / "output", NAME)
    files = [path for name in MODALITIES for path in (scene.dir / name).rglob("[!.]*_[0-9][0-9][0-9][0-9].*")]
    whole = []
    for path in files:
        if path.parent.name == "depth_maps" and _awaits_filling(path):
            continue
        pair = scene.bokeh_dir / path.parent.name / f"bokeh_{path.stem[-4:]}.png"
        if path.parent.parent == scene.focus_dir and not pair.exists():
            continue
        whole.append(path)
    found = {}
    for path in whole:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found[path] = (stat.st_ino, stat.st_mtime_ns)
    return found


def _awaits_filling(path: Path) -> bool:
    try:
        return bool(np.isnan(np.load(path)["depth"]).any())
    except FileNotFoundError:
        return True


Run = Callable[[str, list[str]], int]
Results = dict[str, Any]
