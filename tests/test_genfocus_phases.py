"""Phase 2 with a small FLUX: draws to average, conditions, flags. All phases: tests/test_published_engines.py."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
from conftest import REPOSITORY, Project, write_scene

from pipeline.storage.scene import Scene

FRAMES = 16
FAST = ("--steps", "1", "--engine_opt", "dtype=fp32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux.write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def tiny(project: Project, weights: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Project:
    """A project with one scene, and the weights where the environment says."""
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(weights))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "genfocus_cache"))
    write_scene(project.raw, "tiny", FRAMES)
    return project


def done(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".done").read_text())


def test_resample_averages_draws_and_refuses_the_authors_seeds(tiny: Project):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *FAST, "--temporal", "resample") == 0
    refused = ("--temporal", "resample", "--engine_opt", "author_seeds=true")
    assert tiny.run(2, "--engine", "genfocus", *FAST, *refused) == 2
    assert "draws none" in tiny.text


def test_missing_weights_stop_before_anything(tiny: Project, tmp_path: Path):
    assert tiny.run(1) == 0
    empty = ("--engine_opt", f"weights={tmp_path / 'nowhere'}")
    assert tiny.run(2, "--engine", "genfocus", *empty) == 2
    assert "deblurNet.safetensors" in tiny.text and "python -m pipeline weights" in tiny.text
    assert not Scene(tiny.out, "tiny").sharp_dir.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--deblur_conditions", "3"), "conditions must be 1 or 2"),
        (("--steps", "many"), "steps must be a int"),
        (("--engine_opt", "guidance=physical"), "no option 'guidance'"),
    ],
)
def test_wrong_flags(tiny: Project, flags: tuple[str, ...], message: str):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *flags) == 2
    assert message in tiny.text


def test_flags_of_another_engine_are_refused(tiny: Project):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "wiener", "--steps", "3") == 2
    assert "no option 'steps'" in tiny.text


def test_two_conditions_use_the_other_file(tiny: Project):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *FAST, "--deblur_conditions", "2", "--no_temporal_avg") == 0, tiny.text
    record = done(Scene(tiny.out, "tiny").sharp_dir)
    assert "deblurNet_with_pre_deblur.safetensors" in record["fields"]["engine"]["weights"]
    assert np.isfinite(record["summary"]["psnr_db"])


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("benchmark_genfocus", REPOSITORY / "benchmarks" / "genfocus.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    report = tmp_path / "report.json"
    assert benchmark.main(["--quick", "--repeat", "1", "--steps", "1", "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert [(row["engine"], row["network_calls"]) for row in rows] == [
        ("genfocus", 1),
        ("genfocus", 2),
        ("bokehnet", 1),
        ("bokehnet", 2),
    ], "a small frame whole, a large one in two tiles"
    assert "peak GiB" in capsys.readouterr().out
