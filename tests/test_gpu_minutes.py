"""The scheduler of `make gpu`: order, time boxes, results as they come, and what a second run does."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

WRITE = (
    "import json, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps({'rows': [{'size': 'tiny', 'ms': 7}]}))"
)
COUNT = "import sys, pathlib; p = pathlib.Path(sys.argv[1]).with_suffix('.runs'); p.open('a').write('x')"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_gpu", REPOSITORY / "benchmarks" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def program(gpu: ModuleType, name: str, code: str, box_s: float = 30.0):
    arguments = ("-c", code.replace("{", "{{").replace("}", "}}"), "{json}")
    return gpu.Measurement(name=name, box_s=box_s, gpu=("-c", "raise SystemExit('the GPU form')"), cpu=arguments)


def stored(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((out / "results.json").read_text())["measurements"]}


def test_results_come_in_order_and_a_second_run_repeats_only_what_failed(gpu: ModuleType, tmp_path: Path):
    todo = [
        program(gpu, "first", f"{COUNT}; {WRITE}"),
        program(gpu, "broken", f"{COUNT}; raise SystemExit('it broke')"),
        program(gpu, "last", f"{COUNT}; {WRITE}"),
    ]
    states = [one.state for one in gpu.run_all(todo, tmp_path, 1.0, True, "a card")]
    assert states == ["done", "failed", "done"]
    rows = stored(tmp_path)
    assert list(rows) == ["first", "broken", "last"]
    assert rows["broken"]["said"] == "it broke"
    assert rows["last"]["figures"] == {"rows": [{"size": "tiny", "ms": 7}]}
    table = (tmp_path / "results.md").read_text()
    assert "On a card:" in table and "tiny ms 7" in table and "it broke" in table

    todo[1] = program(gpu, "broken", f"{COUNT}; {WRITE}")
    assert [one.state for one in gpu.run_all(todo, tmp_path, 1.0, True, "a card")] == ["done"] * 3
    runs = {name: (tmp_path / f"{name}.runs").read_text() for name in rows}
    assert runs == {"first": "x", "broken": "xx", "last": "x"}
    gpu.run_all(todo, tmp_path, 1.0, True, "another card")
    assert (tmp_path / "first.runs").read_text() == "xx", "figures of one card are none of another's"


def test_a_time_box_ends_a_measurement_and_its_children_and_the_next_begins(gpu: ModuleType, tmp_path: Path):
    child = f"{sys.executable} -c 'import time; time.sleep(600)'"
    slow = f"import subprocess, pathlib, sys, time; p = subprocess.Popen({child!r}, shell=True)"
    slow += "; pathlib.Path(sys.argv[1]).with_suffix('.pid').write_text(str(p.pid)); time.sleep(600)"
    todo = [program(gpu, "slow", slow, box_s=2.0), program(gpu, "next", WRITE)]
    assert [one.state for one in gpu.run_all(todo, tmp_path, 1.0, True, "a card")] == ["out of time", "done"]
    pid = (tmp_path / "slow.pid").read_text()
    listed = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
    assert not listed or listed.startswith("Z")


def test_what_no_time_is_left_for_waits(gpu: ModuleType, tmp_path: Path):
    todo = [program(gpu, "long", WRITE, box_s=600.0), program(gpu, "short", WRITE, box_s=30.0)]
    assert [one.state for one in gpu.run_all(todo, tmp_path, 0.5, True, "a card")] == ["waiting", "done"]
    assert stored(tmp_path)["long"]["state"] == "waiting"


def test_every_measurement_is_a_program_that_is_there(gpu: ModuleType):
    todo = gpu.measurements()
    assert todo[0].name == "checks" and len({one.name for one in todo}) == len(todo)
    for one in todo:
        for arguments in (one.gpu, one.cpu):
            assert arguments[0] == "-m" or (REPOSITORY / arguments[0]).is_file()
