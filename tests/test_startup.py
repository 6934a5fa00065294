"""What people type to look at things starts without PyTorch; measured by the benchmark's own commands."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY, Project


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_startup", REPOSITORY / "benchmarks" / "startup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_counts_what_is_imported(startup: ModuleType, tmp_path: Path):
    (cost,) = startup.measure([REPOSITORY], "json", ["-c", "import json"], 1)
    assert not cost.torch and cost.modules > 10 and cost.cpu_s > 0
    assert "torch" in startup.imports(REPOSITORY, ["-c", "import torch"])
    with pytest.raises(SystemExit, match="ended with 3"):
        startup.start(tmp_path, ["-c", "raise SystemExit(3)"])


def test_looking_at_a_dataset_starts_without_pytorch(startup: ModuleType, scene_project: Project):
    assert scene_project.run(1) == 0
    for name, arguments in startup.commands(scene_project.root).items():
        assert "torch" not in startup.imports(REPOSITORY, arguments), name
