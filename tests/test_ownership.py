"""What may be removed and written: only names of ours, never through a link; making a finished scene again."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Project, tree
from finished_scenes import finish_scenes

from pipeline import __main__ as commands
from pipeline.storage.completion import DoneRecord
from pipeline.storage.files import _here
from pipeline.storage.holder import this_process
from pipeline.storage.scene import Scene

MIN = ("--min_frames", "6")
COMMANDS = {
    1: MIN,
    2: ("--engine", "none"),
    3: (),
    4: ("--on_stale", "redo"),
    5: ("--num_sets", "2"),
    6: ("--workers", "1"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return finish_scenes(tmp_path_factory.mktemp("finished"), count=1)


@pytest.fixture
def copied(finished: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """One finished scene, "scene0", to be damaged."""
    project = Project(tmp_path, capsys)
    project.raw = finished.raw
    shutil.copytree(finished.out, project.out)
    return project


FOLDERS = {2: "frames_sharp", 3: "depth_maps", 5: "bokeh_renders"}


@pytest.mark.parametrize("phase", FOLDERS)
def test_redo_leaves_what_the_pipeline_does_not_write(phase: int, copied: Project):
    scene = Scene(copied.out, "scene0")
    folder = scene.dir / FOLDERS[phase]
    before = tree(scene.dir)
    inner = folder / "set_00" if phase == 5 else folder
    mine = [folder / "notes.txt", inner / "holiday.jpg", folder / "raw" / "frame_0000.png", inner / "frame_1.png.bak"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's")
    old = inner / {2: "frame_0099.png", 3: "depth_0099.npz", 5: "bokeh_0099.png"}[phase]
    old.write_bytes(b"of a longer version of the scene")
    (folder / ".done").write_text("")
    assert copied.run(phase, *COMMANDS[phase]) == 3, "not trusted, and not touched without being told to"
    assert copied.run(phase, *COMMANDS[phase], "--on_stale", "redo") == 0, copied.text
    assert "were left alone, which this phase does not write" in copied.text
    assert all(path.read_text() == "somebody's" for path in mine) and not old.exists()
    for path in mine:
        path.unlink()
    (folder / "raw").rmdir()
    assert tree(scene.dir) == before


@pytest.mark.parametrize(
    ("phase", "place"),
    [
        (2, "frames_sharp"),
        (2, "frames_sharp/frame_0002.png"),
        (2, ".pipeline"),
        (2, ".pipeline/deblur.lease"),
        (2, ".pipeline/deblur.jsonl"),
        (5, ".pipeline/render.failed.json"),
        (3, "depth_maps"),
        (3, "depth_maps/stats.json"),
        (5, "bokeh_renders"),
        (5, "focus_maps/set_01"),
        (5, "bokeh_renders/set_00/bokeh_0001.png"),
        (5, "."),
    ],
)
@pytest.mark.parametrize("how", ["--redo", "resume"])
def test_link_out_of_the_output_root_is_refused(phase: int, place: str, how: str, copied: Project):
    """Somebody keeps photographs where a link leads: nothing there is removed, replaced or added."""
    scene = Scene(copied.out, "scene0")
    linked = scene.dir / place
    away = copied.root / "elsewhere" / linked.name
    away.parent.mkdir()
    if place.endswith((".lease", ".failed.json")):  # of a process that is dead
        linked.write_text(json.dumps(this_process("theirs") | {"pid": 2**22 + 5}))
    linked.rename(away)
    linked.symlink_to(away)
    if how == "resume":
        (scene.dir / FOLDERS[phase] / ".done").unlink()
    before = {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()}
    flags = ("--redo", "--scene", "scene0") if how == "--redo" else ("--on_stale", "redo")
    assert copied.run(phase, *COMMANDS[phase], *flags) == 3
    assert f"{linked} is a link to {away}; nothing was touched" in copied.text
    assert {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()} == before
    assert linked.is_symlink()


@pytest.mark.parametrize("phase", FOLDERS)
def test_what_killed_workers_left_beside_finished_work_goes(phase: int, copied: Project, monkeypatch):
    """Nobody takes the lease of a finished scene any more; a lease in use, and files of other writers, stay."""
    scene = Scene(copied.out, "scene0")
    name = {2: "deblur", 3: "depth", 5: "render"}[phase]
    lease, journal = scene.lease_path(name), scene.journal_path(name)
    frame = sorted((scene.dir / FOLDERS[phase]).rglob("*_0001.*"))[0]
    assert copied.run(phase, *COMMANDS[phase], "--redo", "--scene", "scene0") == 0
    before = {path: path.stat().st_mtime_ns for path in scene.dir.rglob("*") if path.is_file()}
    left = [path.with_name(f".{path.name}.0123456789ab-7-0.tmp") for path in (frame, frame.parent / ".done", journal)]
    left += [scene.failure_path(name).with_name(f".{name}.failed.json.{_here(0)}-7-0.tmp")]
    left += [lease.with_name(f".{lease.name}.0123.tmp"), lease]
    foreign = [frame.with_name(f".{frame.name}.tmp"), scene.private_dir / ".other.lease.0123.tmp"]
    holder = this_process("theirs")
    for path in (*left, *foreign):
        path.write_text(json.dumps(holder if path == lease else holder | {"pid": 2**22 + 5}))
    assert copied.run(phase, *COMMANDS[phase]) == 0, "its holder lives: this process"
    assert all(path.exists() for path in (*left, *foreign))
    lease.write_text(json.dumps(holder | {"pid": 2**22 + 5}))
    assert copied.run(phase, *COMMANDS[phase], "--dry_run") == 0
    assert all(path.exists() for path in (*left, *foreign))
    assert copied.run(phase, *COMMANDS[phase]) == 0
    assert all(path.exists() for path in foreign) and not any(path.exists() for path in left)
    for path in foreign:
        path.unlink()
    assert {path: path.stat().st_mtime_ns for path in scene.dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("phase", "place"),
    [
        (1, "scene0"),
        (1, "scene0/split.txt"),
        (1, "scene_index.json"),
        (4, "coc_stats.json"),
        (4, "report"),
        (6, "report"),
    ],
)
def test_dataset_files_are_not_written_through_links(phase: int, place: str, copied: Project):
    linked = copied.out / place
    linked.parent.mkdir(exist_ok=True)
    away = copied.root / "elsewhere" / linked.name
    away.parent.mkdir()
    if not linked.exists():
        linked.mkdir()
    linked.rename(away)
    linked.symlink_to(away)
    before = {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()}
    extra = ("--seed", "1") if phase in (1, 4) else ()
    assert copied.run(phase, *COMMANDS[phase], *extra) == 1
    assert f"{linked} is a link to {away}" in copied.text
    assert {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()} == before


def test_output_root_itself_may_be_a_link(copied: Project):
    expected = tree(copied.out / "scene0")
    away = copied.root / "big disk"
    copied.out.rename(away)
    copied.out.symlink_to(away)
    for phase in (2, 3, 5):
        assert copied.run(phase, *COMMANDS[phase], "--redo", "--scene", "scene0") == 0, copied.text
    assert copied.run(6, *COMMANDS[6]) == 0, copied.text
    assert tree(away / "scene0") == expected


def test_report_shows_nothing_through_a_link(copied: Project):
    """A page is passed on; the picture a link leads to is not part of the data set."""
    scene = Scene(copied.out, "scene0")
    for number, path in enumerate([*sorted(scene.sharp_dir.glob("*.png")), *sorted(scene.bokeh_dir.rglob("*.png"))]):
        away = copied.root / f"private_{number}.png"
        path.rename(away)
        path.symlink_to(away)
    report = copied.out / "report"
    report.mkdir(exist_ok=True)
    secret = copied.root / "secret.png"
    secret.write_bytes(b"private bytes")
    (report / "shown.png").symlink_to(secret)
    shown = {"schema": 1, "title": "A network", "pictures": [{"file": "shown.png", "caption": "c"}]}
    (report / "network.json").write_text(json.dumps(shown))
    assert commands.main(["report", "--out_root", str(copied.out)]) == 0
    page = (report / "index.html").read_text()
    assert "cHJpdmF0ZSBieXRlcw" not in page and "shown.png is a link to" in page
    strips = page.count("data:image/jpeg")
    assert strips == 3, "depth and two focus maps are files of the data set; sharp and bokeh are links"


@pytest.mark.parametrize("phase", FOLDERS)
def test_redo_makes_a_finished_scene_again(phase: int, copied: Project):
    scene = Scene(copied.out, "scene0")
    expected = tree(scene.dir)
    path = {2: scene.sharp_path(3), 3: scene.depth_path(3), 5: scene.focus_path(1, 3)}[phase]
    path.write_bytes(path.read_bytes()[:-40])
    assert copied.run(phase, *COMMANDS[phase], "--on_stale", "redo") == 0
    assert tree(scene.dir) != expected, "it counts as done, so nothing happened"
    assert copied.run(6, *COMMANDS[6]) == 3
    script = {2: "02_deblur", 3: "03_depth", 5: "05_render_and_labels"}[phase]
    command = f"run: python scripts/{script}.py --scene scene0 --redo"
    assert command in copied.text, copied.text
    assert copied.run(phase, *COMMANDS[phase], "--redo") == 2 and "needs --scene" in copied.text
    assert copied.run(phase, *COMMANDS[phase], "--redo", "--scene", "scene0", "--dry_run") == 0
    assert "would run" in copied.text and tree(scene.dir) != expected
    assert copied.run(phase, *COMMANDS[phase], "--redo", "--scene", "scene0") == 0
    assert tree(scene.dir) == expected
    assert copied.run(6, *COMMANDS[6]) == 0


def test_redo_of_a_label_that_lies_names_both_phases(copied: Project):
    """Plausible numbers in a focus map: its depth may be the liar, so both are made again."""
    scene = Scene(copied.out, "scene0")
    shutil.copy(scene.focus_path(1, 0), scene.focus_path(0, 0))
    shutil.copytree(scene.dir, copied.out / "other")  # two, so that they are checked in processes of their own
    index = json.loads((copied.out / "scene_index.json").read_text())
    index["scenes"]["other"] = index["scenes"]["scene0"] | {"scene_id": "other"}
    (copied.out / "scene_index.json").write_text(json.dumps(index))
    assert copied.run(6, "--workers", "2") == 3
    shutil.rmtree(copied.out / "other")
    del index["scenes"]["other"]
    (copied.out / "scene_index.json").write_text(json.dumps(index))
    assert f"--out_root {copied.out}" in copied.text
    copied.text = copied.text[copied.text.index("error: scene0") :]
    advice = copied.text.partition("run: ")[2].splitlines()[0]
    assert [part.split()[1].rpartition("/")[2] for part in advice.split(" && ")] == [
        "03_depth.py", "05_render_and_labels.py"
    ]  # fmt: skip
    assert advice.count("--scene scene0 --redo") == 2
    record = DoneRecord.read(scene.depth_dir)
    assert record and copied.run(3, "--redo", "--scene", "scene0") == 0
    assert copied.run(5, *COMMANDS[5], "--redo", "--scene", "scene0") == 0
    assert copied.run(6, *COMMANDS[6]) == 0, copied.text


def test_redo_in_phase_1_looks_at_the_source_again(copied: Project):
    assert copied.run(1, *MIN) == 0 and "0 checked" in copied.text
    assert copied.run(1, *MIN, "--redo", "--scene", "scene0") == 0 and "1 checked" in copied.text
