"""The tests' own machinery: the two sizes lose no test, the brake holds, and what is absent is skipped with the reason."""

import itertools
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression
from brake import Brake
from conftest import REPOSITORY
from slurm import conftest as slurm_conftest
from slurm.cluster import ClusterSettings

MAKEFILE = (REPOSITORY / "Makefile").read_text()
MARKS = ("slow", "slurm", "browser")

# Three files, whose names arrive by a rename, and a stop that is obeyed between them.
_WRITER = """
import os, sys
from pathlib import Path
from pipeline.errors import StoppedError
from pipeline.signals import StopSignals
with StopSignals() as signals:
    for number in range(3):
        Path("partial").write_text("x")
        os.replace("partial", f"{number}.txt")
        try:
            signals.safe_point()
        except StoppedError:
            sys.exit(75)
"""


def chosen(expression: str, marks: tuple[str, ...]) -> bool:
    return Expression.compile(expression).evaluate(lambda name, **_: name in marks)


def test_every_test_is_in_exactly_one_half_of_make_test_all():
    options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    (quick,) = re.findall(r"-m '(.+)'", options)
    (rest,) = re.findall(r'^test-all: test\n.*-m "(.+?)"', MAKEFILE, re.MULTILINE)
    for count in range(len(MARKS) + 1):
        for marks in itertools.combinations(MARKS, count):
            assert chosen(quick, marks) is not chosen(rest, marks), marks
            assert chosen(quick, marks) is (not marks)
            assert not chosen(quick, (*marks, "gpu")) and not chosen(rest, (*marks, "gpu")), "wants a GPU"
    assert "\nmake test-all\n" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize(("needed", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_without_slurm_a_cluster_is_skipped_or_fails_as_asked(monkeypatch: pytest.MonkeyPatch, needed, outcome):
    monkeypatch.setattr(slurm_conftest, "missing_programs", lambda: ["sbatch"])
    monkeypatch.setattr(slurm_conftest, "NEEDED", needed)
    with (
        pytest.raises(outcome, match="not installed: sbatch; apt-get install"),
        slurm_conftest.running(ClusterSettings()),
    ):
        pass


@pytest.fixture
def held(tmp_path: Path):
    """A process that holds before its second file, its brake, and the folder it writes to."""
    brake = Brake(tmp_path / "brake")
    brake.set("*.txt", 1)
    folder = tmp_path / "out"
    folder.mkdir()
    environment = brake.environment
    environment["PYTHONPATH"] += f":{REPOSITORY}"
    process = subprocess.Popen([sys.executable, "-c", _WRITER], cwd=folder, env=environment)
    assert brake.wait() == [process.pid]
    yield process, brake, folder
    process.kill()
    process.wait()


def test_a_held_process_has_finished_so_many_files_and_goes_on_when_released(held):
    process, brake, folder = held
    assert [path.name for path in folder.glob("*.txt")] == ["0.txt"] and process.poll() is None
    brake.release()
    assert process.wait(240) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0.txt", "1.txt", "2.txt"]


def test_a_held_process_that_is_told_to_stop_gets_to_its_safe_point(held):
    process, _, folder = held
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 75
    assert sorted(path.name for path in folder.iterdir()) == ["0.txt", "1.txt"], "the file in hand, and no more"
