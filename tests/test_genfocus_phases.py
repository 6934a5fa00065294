"""Phases 2 and 5 with the published networks in small, through the scripts, as an operator runs them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
import torch
from conftest import REPOSITORY, Project, tree, write_scene

from pipeline.engines.genfocus import network
from pipeline.frames import read_sharp
from pipeline.optics import coc_to_radius_px
from pipeline.scene import Scene

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


def test_both_phases_end_to_end(tiny: Project, weights: Path):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *FAST) == 0, tiny.text
    scene = Scene(tiny.out, "tiny")
    record = done(scene.sharp_dir)
    assert record["engine"] == "genfocus" and "FLUX.1 [dev] Non-Commercial License" in record["licence"]
    assert set(record["fields"]["engine"]["weights"]) == {"FLUX.1-dev", "deblurNet.safetensors"}
    assert str(weights) not in json.dumps(record), "no path stands in a record"
    assert record["fallbacks"] == 0 and read_sharp(scene.sharp_path(0)).shape == (48, 80, 3)

    assert tiny.run(3) == 0 and tiny.run(4) == 0 and tiny.run(4, "--confirm") == 0
    bokeh = ("--engine", "bokehnet", "--num_sets", "2", "--guidance_px", "50", *FAST)
    assert tiny.run(5, *bokeh) == 0, tiny.text
    metadata = scene.read_metadata()
    radius = coc_to_radius_px(metadata["sets"][0]["max_coc"], metadata["px_per_mm"])
    assert metadata["guidance"] == "physical" and metadata["guidance_factor"] == pytest.approx(radius / 50)
    assert metadata["engine"]["options"]["guidance_px"] == 50 and metadata["engine"]["options"]["steps"] == 1
    assert "FLUX.1 [dev] Non-Commercial License" in metadata["licences"]["bokeh"]
    assert tiny.run(6) == 0, tiny.text

    before = tree(scene.dir)
    assert tiny.run(5, *bokeh) == 0 and "0 done, 1 skipped" in tiny.text
    for frame in (3, 9):
        scene.bokeh_path(1, frame).unlink()
    assert tiny.run(5, *bokeh, "--engine_opt", "tile_batch=4") == 0, "how memory is used changes no output"
    assert tree(scene.dir) == before, "frames made again are the same, byte for byte"
    assert tiny.run(5, *bokeh, "--guidance", "normalised", "--on_stale", "redo") == 0
    metadata = scene.read_metadata()
    assert metadata["guidance"] == "normalised" and metadata["guidance_factor"] == 1.0


def test_resample_averages_draws_and_refuses_the_authors_seeds(tiny: Project):
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *FAST, "--temporal", "resample") == 0
    refused = ("--temporal", "resample", "--engine_opt", "author_seeds=true")
    assert tiny.run(2, "--engine", "genfocus", *FAST, *refused) == 2
    assert "draws none" in tiny.text


def test_out_of_memory_falls_back_to_the_raw_frame(tiny: Project, monkeypatch: pytest.MonkeyPatch):
    """Frame by frame: one picture finds no memory on any step of the ladder, the others are made."""
    calls, plain = 0, network.denoise

    def scarce(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls in (1, 2):  # the CPU's ladder has one step: the VAE in tiles
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args)

    monkeypatch.setattr(network, "denoise", scarce)
    assert tiny.run(1) == 0
    assert tiny.run(2, "--engine", "genfocus", *FAST, "--no_temporal_avg") == 0, tiny.text
    scene = Scene(tiny.out, "tiny")
    assert done(scene.sharp_dir)["fallbacks"] == 1 and calls == FRAMES + 1
    assert "trying again with less" in tiny.text and "the raw frame takes its place" in tiny.text
    psnr = done(scene.sharp_dir)["summary"]["psnr_db_per_frame"]
    assert psnr[0] == 100 and max(psnr[1:]) < 60


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
