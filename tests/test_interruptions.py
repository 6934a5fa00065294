"""Kills, signals, full disks and second workers: nothing finished is lost or done again, and nothing differs afterwards."""

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from brake import Brake, put_on
from conftest import SCRIPTS, Project, load_script, tree, write_scene

from pipeline.phases.registry import phase_named
from pipeline.storage import files
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene

PHASES = {2: "deblur", 3: "depth", 5: "render"}
FILES = {2: ("frames_sharp/*.png", 24), 3: ("depth_maps/*.npz", 24), 5: ("bokeh_renders/*/bokeh_*.png", 48)}
EXTRA = {2: (), 3: (), 5: ("--num_sets", "2")}


def _work(phase: int, argv: list[str], brake: Path, **environment: str) -> None:
    """In a process of its own: run a phase under a brake, with its output thrown away."""
    os.environ.update(environment)
    put_on(brake)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os._exit(load_script(SCRIPTS[phase])(argv))


@pytest.fixture(scope="session")
def spawner():
    """Processes forked from a server that has everything imported, so that a kill hits work and not start-up."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "pipeline.cli", "pipeline.phases.render", "pipeline.engines.lens"])
    return context


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """One scene taken through phases 1 to 5 without interruption, and how long each phase took."""
    project = Project(tmp_path_factory.mktemp("reference"))
    project.raw.mkdir()
    write_scene(project.raw, "tiny", 24, holes=True)
    for phase in (1, 2, 3, 4):
        assert project.run(phase) == 0
    assert project.run(4, "--confirm") == 0
    assert project.run(5, "--num_sets", "2") == 0
    return project, tree(project.out / "tiny")


def _finished(scene: Scene, phase: int) -> dict[Path, tuple[int, int]]:
    """Finished outputs of a phase: path -> (inode, mtime). A depth map that still awaits the second pass is not one, nor
    is a label without its picture."""
    outputs = [path for path in scene.outputs(phase_named(PHASES[phase]).outputs, 24, 2) if path.exists()]
    if phase == 3:
        outputs = [path for path in outputs if path.suffix != ".npz" or not np.isnan(np.load(path)["depth"]).any()]
    if phase == 5:
        whole = {(path.parent.name, path.stem[-4:]) for path in outputs if path.suffix == ".png"}
        outputs = [path for path in outputs if (path.parent.name, path.stem[-4:]) in whole]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in outputs}


def _kill_and_compare(phase: int, kills: int, seed: int, reference, spawner, where: Path) -> int:
    """Kill a phase at a random file and `kills - 1` times at random moments, resume to the end.

    Returns:
        how many kills hit it at work; the one at a file always does.
    """
    original, expected = reference
    rng = random.Random(seed)
    project = Project(where)
    project.raw = original.raw
    _copy_before(original, project, phase)
    scene = Scene(project.out, "tiny")
    argv = project.args("--scene", "tiny", *EXTRA[phase])
    seconds = {2: 0.4, 3: 0.15, 5: 0.6}[phase]  # about what each takes on two cores
    hits = 0
    finished: dict[Path, tuple[int, int]] = {}
    brake = Brake(where / "brake")
    brake.set(FILES[phase][0], rng.randrange(FILES[phase][1]))
    for number in range(kills):
        process = spawner.Process(target=_work, args=(phase, argv, brake.folder))
        process.start()
        if number == 0:
            brake.wait()
        else:
            # From the moment it holds the lease: where it spends its time, not where it imports.
            deadline = time.monotonic() + 60
            while process.is_alive() and not scene.lease_path(PHASES[phase]).exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.random() * seconds)
        hits += process.is_alive()
        process.kill()
        process.join()
        if number == 0:
            brake.release()
        now = _finished(scene, phase)
        assert finished.items() <= now.items(), "a finished output was done again"
        finished = now
    assert project.run(phase, *EXTRA[phase]) == 0
    assert finished.items() <= _finished(scene, phase).items(), "a finished output was done again"
    for further in (number for number in (3, 4, 5) if number > phase):
        assert project.run(further, *EXTRA.get(further, ())) == 0
        if further == 4:
            assert project.run(4, "--confirm") == 0
    assert tree(scene.dir) == expected
    return hits


def _copy_before(original: Project, project: Project, phase: int) -> None:
    """The output as it was before a phase."""
    import shutil

    drop = {2: ("frames_sharp", "depth_maps", "focus_maps", "bokeh_renders", "metadata.json", "coc_stats.json")}
    drop[3], drop[5] = drop[2][1:], drop[2][2:5]
    shutil.copytree(original.out, project.out, ignore=shutil.ignore_patterns(*drop[phase], ".pipeline", "report"))
    if phase == 5:
        return
    (project.out / "coc_stats.json").unlink(missing_ok=True)


@pytest.mark.parametrize("phase", PHASES)
def test_killed_phases_resume_to_the_same_bytes(phase: int, reference, spawner, tmp_path: Path):
    hits = sum(_kill_and_compare(phase, 2, seed, reference, spawner, tmp_path / str(seed)) for seed in range(2))
    assert hits >= 2, "of four kills, the two at a file hit the phase at work on any machine"


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_killed_phases_resume_to_the_same_bytes_a_hundred_times(phase: int, reference, spawner, tmp_path: Path):
    """At least 34 kills of each phase that hit it at work, over 100 in all."""
    hits = rounds = 0
    while hits < 34 and rounds < 60:
        hits += _kill_and_compare(phase, 3, 100 + rounds, reference, spawner, tmp_path / str(rounds))
        rounds += 1
    assert hits >= 34, f"{hits} of {3 * rounds} kills hit the phase at work"


@pytest.mark.parametrize("phase", PHASES)
def test_a_full_disk_at_each_write(phase: int, reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ENOSPC at the k-th write, for k all over the phase: a clear reason, no litter, and the next run completes."""
    original, expected = reference
    project = Project(tmp_path)
    project.raw = original.raw
    _copy_before(original, project, phase)
    scene = Scene(project.out, "tiny")
    real = files._write_all
    lock = threading.Lock()
    count = 0
    fail_at = 1

    def write(descriptor: int, data: bytes) -> None:
        nonlocal count
        with lock:  # two threads write
            count += 1
            fails = count == fail_at
        if fails:
            os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(files, "_write_all", write)
    failures = 0
    for _ in range(400):
        count = 0
        code = project.run(phase, *EXTRA[phase])
        if code == 0:
            break
        assert code == 3
        failures += 1
        assert not list(scene.dir.rglob("*.tmp")), "a failed write leaves nothing behind"
        assert not scene.lease_path(PHASES[phase]).exists()
        assert not (scene.dir / {2: "frames_sharp", 3: "depth_maps", 5: "bokeh_renders"}[phase] / ".done").exists()
        fail_at = fail_at % 7 + 2  # early, late, in journals, labels, pictures and records
    assert failures >= 3
    monkeypatch.setattr(files, "_write_all", real)
    for name in ("frames_sharp", "depth_maps", "focus_maps", "bokeh_renders"):
        done = {key: value for key, value in tree(scene.dir).items() if key.startswith(name)}
        if done:
            assert done == {key: value for key, value in expected.items() if key.startswith(name)}


def test_full_disk_names_the_reason(scene_project: Project, monkeypatch: pytest.MonkeyPatch):
    scene_project.run_upto(1)

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_all", full)
    assert scene_project.run(2) == 3
    assert "the disk is full" in scene_project.text and "finished frames are kept" in scene_project.text


def _rendering(project: Project, spawner):
    """A worker process that has begun phase 5 and holds before its fourth picture, and its brake."""
    brake = Brake(project.root / "brake")
    brake.set(FILES[5][0], 3)
    process = spawner.Process(target=_work, args=(5, project.args(*EXTRA[5]), brake.folder))
    process.start()
    assert brake.wait() == [process.pid]
    return process, brake


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signal_stops_at_a_safe_point(number: int, reference, spawner, tmp_path: Path):
    original, expected = reference
    project = Project(tmp_path)
    project.raw = original.raw
    _copy_before(original, project, 5)
    scene = Scene(project.out, "tiny")
    process, _ = _rendering(project, spawner)
    os.kill(process.pid, number)
    process.join(240)
    assert process.exitcode == 75
    assert not scene.lease_path("render").exists(), "the lease is released"
    assert not (scene.bokeh_dir / ".done").exists()
    finished = _finished(scene, 5)
    assert finished
    labels = {path.stem[-4:] + path.parent.name for path in scene.focus_dir.rglob("focus_*.npz")}
    pictures = {path.stem[-4:] + path.parent.name for path in scene.bokeh_dir.rglob("bokeh_*.png")}
    assert labels == pictures, "every pair is complete or absent"
    assert project.run(5, *EXTRA[5]) == 0
    assert finished.items() <= _finished(scene, 5).items()
    assert tree(scene.dir) == expected


def test_two_workers_on_one_scene(reference, spawner, tmp_path: Path, capsys):
    original, expected = reference
    project = Project(tmp_path, capsys)
    project.raw = original.raw
    _copy_before(original, project, 5)
    scene = Scene(project.out, "tiny")
    process, brake = _rendering(project, spawner)  # at work, for as long as the second one looks
    code = project.run(5, *EXTRA[5])
    brake.release()
    assert code == 0, "the other worker does it: that is no failure"
    assert f"pid {process.pid}" in project.text and "in work by" in project.text and "1 held" in project.text
    process.join(240)
    assert process.exitcode == 0
    assert tree(scene.dir) == expected


def test_oom_falls_back_to_smaller_and_then_to_the_raw_frame(scene_project: Project, monkeypatch: pytest.MonkeyPatch):
    from pipeline.engines.wiener import WienerDeblur

    real = WienerDeblur.deblur
    shrunk = []
    calls = 0

    def hungry(self, frame, seed, safe_point):
        nonlocal calls
        calls += 1
        if calls == 3 or calls > 20:  # a passing shortage that shrinking cures, and from frame 18 on a lasting one
            raise MemoryError("pretend")
        return real(self, frame, seed, safe_point)

    def shrink(self):
        shrunk.append(1)
        return len(shrunk) <= 1

    monkeypatch.setattr(WienerDeblur, "deblur", hungry)
    monkeypatch.setattr(WienerDeblur, "shrink", shrink)
    write_scene(scene_project.raw, "other", 24, seed=5)
    scene_project.run_upto(1)
    assert scene_project.run(2, "--scene", "other") == 0
    assert "trying again with less" in scene_project.text and "the raw frame takes its place" in scene_project.text
    record = DoneRecord.read(Scene(scene_project.out, "other").sharp_dir)
    assert record and record.fallbacks == 5, "frames 19 to 23"
    assert any("ran out of memory" in warning for warning in record.warnings)


def test_unexpected_error_is_one_scene_s_failure(scene_project: Project, monkeypatch: pytest.MonkeyPatch):
    from pipeline.engines.wiener import WienerDeblur

    def broken(self, frame, seed, safe_point):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(WienerDeblur, "deblur", broken)
    scene_project.run_upto(1)
    assert scene_project.run(2) == 3
    assert "ZeroDivisionError: a bug" in scene_project.text
    assert "Traceback" in (scene_project.logs / "deblur.log").read_text()
    assert Scene(scene_project.out, "tiny").failure_path("deblur").exists()


@pytest.mark.parametrize("phase", PHASES)
def test_worker_stopped_past_its_lease_writes_nothing_more(
    phase: int, reference, spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """A hung node comes back when a successor, with other settings, is done: not one byte of the old work appears."""
    short = {"BOKEHFLOW_LEASE_EXPIRES_S": "0.6"}
    original, _ = reference
    project = Project(tmp_path, capsys)
    project.raw = original.raw
    _copy_before(original, project, phase)
    scene = Scene(project.out, "tiny")
    folder = {2: scene.sharp_dir, 3: scene.depth_dir, 5: scene.bokeh_dir}[phase]
    other = {2: ("--engine", "none"), 3: (), 5: ("--num_sets", "1")}[phase]
    brake = Brake(tmp_path / "brake")
    brake.set(FILES[phase][0], 5)
    arguments = (phase, project.args(*EXTRA[phase]), brake.folder)
    process = spawner.Process(target=_work, args=arguments, kwargs=short)
    process.start()
    brake.wait()  # it has passed its fence and is about to rename
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.7)
    monkeypatch.setenv(*next(iter(short.items())))
    # This process cannot tell that the holder lives: as if it were on another machine.
    monkeypatch.setattr("pipeline.storage.holder.boot_id", lambda: "another machine")
    code = project.run(phase, *other, "--on_stale", "redo")
    after = {path: path.read_bytes() for path in scene.dir.rglob("*") if path.is_file()}
    brake.release()
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert code == 0 and DoneRecord.read(folder) is not None
    assert process.exitcode == 0, "another worker has the scene: no failure"
    assert {path: path.read_bytes() for path in scene.dir.rglob("*") if path.is_file()} == after
