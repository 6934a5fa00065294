"""The last lines of defence: errors nobody expected, helpers whose parent was killed, stale data in training."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from finished_scenes import shared_scenes

from model.data.scene_manifest import find_scenes
from pipeline import cli, crash
from pipeline.cluster import request
from pipeline.cluster.submit import check_python
from pipeline.errors import ExitCode, UsageError, explain_os_error
from pipeline.reporter import Reporter
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene


def test_an_error_nobody_expected_is_one_line_and_its_traceback_is_in_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def body() -> ExitCode:
        raise ZeroDivisionError("a bug\nover two lines")

    monkeypatch.setattr(crash, "_logs", tmp_path / "logs")
    assert cli.main(body) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "ZeroDivisionError: a bug over two lines" in shown
    assert str(tmp_path / "logs" / "crash.log") in shown
    assert "Traceback" in (tmp_path / "logs" / "crash.log").read_text()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(crash, "_logs", tmp_path / "file" / "logs")
    assert cli.main(body) == 1
    spare = Path(capsys.readouterr().err.rstrip().rpartition(" ")[2])
    assert "Traceback" in spare.read_text()
    spare.unlink()


@pytest.mark.parametrize(
    ("number", "words"), [(30, "read-only"), (28, "full"), (13, "no permission"), (5, "in trouble")]
)
def test_what_the_disk_said_comes_with_what_to_do(number: int, words: str):
    assert words in explain_os_error(
        OSError(number, os.strerror(number), "/some/file")
    ) and "/some/file" in explain_os_error(OSError(number, os.strerror(number), "/some/file"))


def test_job_id_with_slashes_writes_no_log_outside_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "../../etc/x")
    with Reporter("depth", tmp_path / "a" / "logs") as reporter:
        reporter.log_only("a line")
    assert [path.name for path in tmp_path.rglob("*.log")] == ["depth_.._.._etc_x.0.log"]
    assert len(list((tmp_path / "a" / "logs").iterdir())) == 1


def _children(pid: int) -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.add(int(folder.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_pool_workers_die_with_a_killed_parent(tmp_path: Path):
    code = (
        "import time\nfrom pipeline.media.prefetch import map_processes\n"
        "if __name__ == '__main__':\n    list(map_processes(time.sleep, [(300,), (300,)], workers=2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        workers = {pid for pid in _children(parent.pid) if len(list(Path(f"/proc/{pid}/task").iterdir())) > 1}
        if len(workers) >= 2:  # their watching thread runs
            break
        time.sleep(0.05)
    everybody = _children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 30
    while any(map(_alive, everybody)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in everybody if _alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize(
    ("phase", "advised"),
    [("deblur", "03_depth.py"), ("depth", "05_render_and_labels.py"), ("render", "05_render_and_labels.py")],
)
def test_scene_of_mixed_origins_is_refused_with_the_command(tmp_path: Path, phase: str, advised: str):
    """Sharp frames, depth or photographs redone with another engine while the rest stands."""
    out = tmp_path / "output"
    shutil.copytree(shared_scenes(), out)
    scene = find_scenes(out, "train").scenes[0].scene
    folder = {"deblur": scene.sharp_dir, "depth": scene.depth_dir, "render": scene.bokeh_dir}[phase]
    record = DoneRecord.read(folder)
    assert record is not None
    stored = json.loads((folder / ".done").read_text())
    stored["fields"]["engine"]["version"] = 99
    from pipeline.storage.completion import fingerprint

    stored["fingerprint"] = fingerprint(stored["fields"])
    (folder / ".done").write_text(json.dumps(stored))
    with pytest.raises(UsageError) as caught:
        find_scenes(out, "train")
    message = str(caught.value)
    assert f"{scene.scene_id}: " in message and "made with another" in message
    assert f"{advised} --out_root {out} --scene {scene.scene_id} --on_stale redo" in message
    other = Scene(out, scene.scene_id)
    (other.dir / "split.txt").write_text("val\n")
    assert find_scenes(out, "test").scenes, "a split without it is fine"


def test_path_of_python_is_quoted_in_the_generated_script(tmp_path: Path):
    odd = f'/no/$(touch {tmp_path}/ran) "`touch {tmp_path}/ran`/python'
    done = subprocess.run(["bash", "-c", check_python(odd)], capture_output=True, text=True, check=False)
    assert done.returncode == 127 and odd in done.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("test_bear.sh", "--scene=street", "--scene=street"),
        ("test_bear.sh", "--scene street", "--scene street"),
        ("test_bear.sh", "--num 2", "--scene bear --num 2"),
        ("train.sh", "--config=my.toml", "--config=my.toml"),
        ("train.sh", "a=1", "--config model/configs/small.toml a=1"),
    ],
)
def test_job_scripts_take_flags_in_both_spellings(script: str, given: str, expected: str):
    line = next(line for line in (REPOSITORY / "jobs" / script).read_text().splitlines() if line.startswith("case"))
    command = ["bash", "-c", f'{line}\necho "$@"', "bash", *given.split()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == expected


def test_quotation_that_does_not_end_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        request.parse("", ["1-4", "--deblur_args", "--engine 'none"])
    assert caught.value.code == 2 and "--deblur_args takes flags as a shell would" in capsys.readouterr().err
