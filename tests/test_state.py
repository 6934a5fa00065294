"""Atomic files, queues, fingerprints, journals, `status` and `explain`, what the reporter shows and keeps."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Project, write_scene

from pipeline import __main__ as commands
from pipeline.errors import InputError
from pipeline.media.depth_files import encode_npz, resize_depth
from pipeline.media.prefetch import WriteBehind, map_ahead, map_processes, prefetch
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.appending import append_line
from pipeline.storage.completion import DoneRecord, Journal, as_stored, fingerprint, first_difference
from pipeline.storage.files import read_json, remove_leftovers, write_bytes, write_json
from pipeline.storage.lease import Lease
from pipeline.storage.scene import Scene

# --- files -------------------------------------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path):
    path = tmp_path / "x"
    contents = {bytes([value]) * 200_000 for value in range(5)}
    write_bytes(path, next(iter(contents)))
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for data in contents:
                write_bytes(path, data)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(200):
            assert path.read_bytes() in contents
    finally:
        stop.set()
        thread.join()


def test_leftovers_go_and_nothing_else(tmp_path: Path):
    (tmp_path / ".frame_0001.png.123-4.tmp").write_bytes(b"")
    (tmp_path / "frame_0001.png").write_bytes(b"")
    (tmp_path / ".done").write_bytes(b"")
    assert remove_leftovers(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".done", "frame_0001.png"]


def test_json_is_strict(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object, got list"):
        read_json(tmp_path / "list.json", "the test")


def test_npz_bytes_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch):
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    first = encode_npz("depth", array)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert encode_npz("depth", array) == first
    assert encode_npz("depth", np.asfortranarray(array)) == first


def test_depth_is_resized_in_inverse_depth():
    depth = np.full((8, 8), 2.0, np.float32)
    depth[:, 4:] = 10.0
    wide = resize_depth(depth, (16, 8))
    middle = wide[4, 7:9]
    assert ((middle > 2) & (middle < 10)).all()
    assert 1 / middle.mean() == pytest.approx(0.3, rel=0.25)
    depth[:, 6:] = np.nan
    assert (
        np.isnan(resize_depth(depth, (16, 8))[:, 14:]).all() and np.isfinite(resize_depth(depth, (16, 8))[:, :11]).all()
    )


# --- queues ------------------------------------------------------------------------------------------------------------


def test_prefetch_keeps_order_is_bounded_and_passes_errors_on():
    made = []

    def source():
        for number in range(20):
            made.append(number)
            yield number
        raise ValueError("the end")

    items = prefetch(source(), depth=3)
    assert next(items) == 0
    time.sleep(0.1)
    assert len(made) <= 6, "at most a few ahead"
    with pytest.raises(ValueError, match="the end"):
        for item, expected in zip(items, range(1, 30), strict=False):
            assert item == expected


def test_abandoned_prefetch_ends_its_thread():
    before = set(threading.enumerate())
    items = prefetch(iter(range(1000)), depth=2)
    next(items)
    items.close()
    assert set(threading.enumerate()) <= before


def test_map_ahead_is_ordered_and_bounded():
    running = []

    def work(number: int) -> int:
        running.append(number)
        time.sleep(0.001)
        return number * number

    results = map_ahead(work, range(50), depth=4)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(running) <= 6
    assert list(results) == [number * number for number in range(1, 50)]


def test_write_behind_raises_what_went_wrong():
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), WriteBehind() as writer:
        writer.submit(fail)
        for _ in range(50):
            writer.submit(lambda: time.sleep(0.001))


def test_write_behind_is_bounded():
    gate = threading.Event()
    began = []
    with WriteBehind(workers=1, depth=2) as writer:
        threading.Timer(0.2, gate.set).start()
        for number in range(4):
            writer.submit(lambda number=number: (began.append(number), gate.wait())[0])
            if number == 2:
                assert gate.is_set(), "the third had to wait for the first"
    assert began == [0, 1, 2, 3]


def test_map_processes_keeps_order():
    assert list(map_processes(divmod, [(7, 2), (9, 4), (5, 5)], workers=2)) == [(3, 1), (2, 1), (1, 0)]


# --- fingerprints and journals -----------------------------------------------------------------------------------------


def test_fingerprint_is_the_same_in_every_process():
    fields = {"b": [1, 2.5], "a": {"x": None, "y": "ü"}}
    code = f"from pipeline.storage.completion import fingerprint; print(fingerprint({fields!r}))"
    environment = os.environ | {"PYTHONHASHSEED": "17", "PYTHONPATH": str(REPOSITORY)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint(fields) == fingerprint(dict(reversed(fields.items())))


def test_first_difference_names_the_field():
    old = {"engine": {"name": "lens", "options": {"blades": 0}}, "seed": 0}
    new = {"engine": {"name": "lens", "options": {"blades": 6}}, "seed": 1}
    assert first_difference(old, new) == ("engine.options.blades", 0, 6)
    assert first_difference(old, as_stored(old)) is None
    assert first_difference({}, {"a": None}) == ("a", "(absent)", None)


def test_torn_journal_line_is_ignored_and_does_not_swallow_the_next(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.begin({"a": 1})
    journal.add("0000", {"x": 1})
    with (tmp_path / "j.jsonl").open("a") as file:
        file.write('{"key": "0001", "fac')
    again = Journal(tmp_path / "j.jsonl")
    assert again.fields == {"a": 1} and again.facts == {"0000": {"x": 1}}
    again.add("0002", {"x": 3})
    assert Journal(tmp_path / "j.jsonl").facts == {"0000": {"x": 1}, "0002": {"x": 3}}


def test_append_is_on_disk_at_once(tmp_path: Path):
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "two")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


# --- status and explain ------------------------------------------------------------------------------------------------


def status(project: Project, capsys: pytest.CaptureFixture[str]) -> dict:
    arguments = ["status", "--json", "--raw_root", str(project.raw), "--out_root", str(project.out)]
    assert commands.main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_status_tells_every_state(project: Project, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b", "c"):
        write_scene(project.raw, name, depth=name != "c", seed=ord(name))
    write_scene(project.raw, "short", 3)
    assert project.run(1) == 0
    assert status(project, capsys)["scenes"]["a"]["deblur"]["state"] == "waiting"
    project.run(2)
    project.run(3)
    project.run(4)
    found = status(project, capsys)
    assert found["scenes"]["a"]["deblur"] == {"state": "done", "finished": 18, "total": 18, "detail": ""}
    assert found["scenes"]["c"]["depth"]["state"] == "failed" and "depth/" in found["scenes"]["c"]["depth"]["detail"]
    assert found["calibration"]["state"] == "unconfirmed"
    assert "3 frames" in found["rejected"]["short"][0]
    assert project.run(4, "--confirm") == 0
    assert project.run(5, "--num_sets", "2", "--scene", "a") == 0
    assert project.run(2, "--scene", "b", "--reach", "1", "--on_stale", "redo") == 0
    scene = Scene(project.out, "a")
    scene.bokeh_path(0, 3).unlink()
    with Lease(Scene(project.out, "c").lease_path("depth")):
        found = status(project, capsys)
    assert found["scenes"]["a"]["render"]["state"] == "stale", "the depth of b changed after confirmation"
    assert found["scenes"]["b"]["depth"]["state"] == "stale"
    assert found["scenes"]["c"]["depth"]["state"] == "running" and "pid" in found["scenes"]["c"]["depth"]["detail"]
    (scene.sharp_dir / ".done").write_text("")
    (scene.depth_dir / ".done").unlink()
    found = status(project, capsys)
    assert found["scenes"]["a"]["deblur"]["state"] == "foreign"
    assert found["scenes"]["a"]["depth"]["state"] == "partial"


def test_status_counts_missing_outputs(scene_project: Project, capsys: pytest.CaptureFixture[str]):
    scene_project.run_upto(5)
    capsys.readouterr()
    Scene(scene_project.out, "tiny").bokeh_path(0, 3).unlink()
    found = status(scene_project, capsys)["scenes"]["tiny"]["render"]
    assert found["state"] == "incomplete" and (found["finished"], found["total"]) == (72, 73)
    assert scene_project.run(4, "--confirm", "77um") == 0
    capsys.readouterr()
    assert "max_coc changed" in status(scene_project, capsys)["scenes"]["tiny"]["render"]["detail"]


def test_status_table_and_explain(scene_project: Project, capsys: pytest.CaptureFixture[str]):
    scene_project.run_upto(5)
    roots = ["--raw_root", str(scene_project.raw), "--out_root", str(scene_project.out)]
    assert commands.main(["status", *roots]) == 0
    text = capsys.readouterr().out
    assert "tiny" in text and "done    done   done" in text and "render: 1 done" in text and "confirmed" in text
    assert commands.main(["explain", "tiny", "render", *roots]) == 0
    text = capsys.readouterr().out
    assert "73 of 73" in text and "engine.name = lens" in text and "upstream.depth" in text
    assert commands.main(["explain", "tiny", "deblur", *roots]) == 0
    assert "settings.reach = 2" in capsys.readouterr().out
    (Scene(scene_project.out, "tiny").sharp_dir / ".done").write_text("")
    assert commands.main(["explain", "tiny", "deblur", *roots]) == 0
    assert "not trusted" in capsys.readouterr().out
    assert commands.main(["explain", "nobody", "deblur", *roots]) == 2
    with pytest.raises(SystemExit):
        commands.main(["explain", "tiny", "lunch", *roots])


def test_status_before_anything(project: Project, capsys: pytest.CaptureFixture[str]):
    assert commands.main(["status", "--out_root", str(project.out)]) == 2
    assert "01_validate_dataset.py" in capsys.readouterr().err


def test_check_describes_the_machine(capsys: pytest.CaptureFixture[str]):
    assert commands.main(["check"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text and os.uname().machine in text


def test_gpu_that_pytorch_cannot_use_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import torch

    from pipeline import environment

    monkeypatch.setattr(environment, "driver_version", lambda: "525.60")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commands.main(["check"]) == 1
    text = capsys.readouterr().err
    assert "525.60" in text and "--conda" in text


def test_done_record_without_a_folder_is_none(tmp_path: Path):
    assert DoneRecord.read(tmp_path / "nowhere") is None


# --- reporter ----------------------------------------------------------------------------------------------------------


def test_the_reporter_takes_in_what_modules_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = logging.getLogger("pipeline.engines.some")
    level = logging.getLogger("pipeline").level
    with Reporter("deblur", tmp_path) as reporter:
        log.info("%d steps took %.1f s", 8, 2.5)
        log.warning("less memory from here on")
        logging.getLogger("diffusers").info("somebody else's")
        reporter.info("a line of its own")
    log.warning("after the end")
    shown, written = capsys.readouterr().out, (tmp_path / "deblur.log").read_text()
    assert shown == "warning: less memory from here on\na line of its own\n"
    for text in ("8 steps took 2.5 s", "warning: less memory from here on", "a line of its own"):
        assert written.count(text) == 1, text
    assert "somebody" not in written and "after the end" not in written
    assert not logging.getLogger("pipeline").handlers and logging.getLogger("pipeline").level == level


def test_a_journal_line_that_breaks_off_does_not_swallow_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full in the middle of a line, and another thread's line still fits: that one must be readable."""
    from pipeline.storage import files

    journal = Journal(tmp_path / "phase.jsonl")
    journal.begin({"phase": "depth"})
    real = files._write_all

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_all", half)
    with pytest.raises(OSError, match="No space"):
        journal.add("0001", {"missing": 1})
    monkeypatch.setattr(files, "_write_all", real)
    journal.add("0002", {"missing": 2})
    assert Journal(tmp_path / "phase.jsonl").facts == {"0002": {"missing": 2}}


def test_a_signal_that_another_thread_takes_is_heard_while_the_queue_is_full():
    """The kernel may hand a process's signal to any thread; the main one, which runs the handlers, must not sleep on."""
    heard = []

    def job() -> None:
        while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "wait":
            time.sleep(0.01)
        time.sleep(0.2)  # and asleep in there
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while signals.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
        heard.append(signals.received)

    with StopSignals() as signals, WriteBehind(workers=1, depth=1) as writer:
        writer.submit(job)
        writer.submit(lambda: None)
    assert heard == ["SIGUSR1"]
