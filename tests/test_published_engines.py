"""The published networks in small, one after the other through the scripts: from raw frames to a passing validation."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_flux
import torch
import vda_reference
from conftest import Project, tree, write_scene

from pipeline.engines.genfocus import network
from pipeline.media.images import read_sharp
from pipeline.optics import coc_to_radius_px
from pipeline.storage.scene import Scene

FRAMES = 34  # two windows of the depth network
FLUX_LICENCE, VDA_LICENCE = "FLUX.1 [dev] Non-Commercial License", "CC-BY-NC-4.0"
DEBLUR = ("--engine", "genfocus", "--steps", "1", "--engine_opt", "dtype=fp32")
DEPTH = ("--engine", "vda", "--engine_opt", "input_size=28")
BOKEH = ("--engine", "bokehnet", "--num_sets", "2", "--guidance_px", "50", "--steps", "1", "--engine_opt", "dtype=fp32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_flux.write_weights(tmp_path_factory.mktemp("weights"))
    vda_reference.save_tiny(folder / "checkpoints")
    return folder


@pytest.fixture(scope="module")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A scene through all phases. Its first frame found no memory in phase 2, not even on the last step of the ladder."""
    root = tmp_path_factory.mktemp("project")
    project = Project(root)
    write_scene(project.raw, "tiny", FRAMES, depth=False)
    plain, failures = network.denoise, 2  # the CPU's ladder has one step: the VAE in tiles

    def scarce(*args: Any) -> torch.Tensor:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch:
        surroundings(patch, weights, root)
        patch.setattr(network, "denoise", scarce)
        for phase, flags in ((1, ()), (2, DEBLUR), (3, DEPTH), (4, ()), (4, ("--confirm",)), (5, BOKEH), (6, ())):
            assert project.run(phase, *flags) == 0, f"phase {phase} {flags}"
    return project


def surroundings(patch: pytest.MonkeyPatch, weights: Path, root: Path) -> None:
    """The weights where the environment says, and no cache of this user."""
    patch.setenv("BOKEHFLOW_WEIGHTS", str(weights))
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        patch.delenv(name, raising=False)


def done(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".done").read_text())


def test_all_phases_pass_validation(finished: Project):
    report = json.loads((finished.out / "validation_report.json").read_text())["scenes"]["tiny"]
    assert report["passed"] and report["label_error"] == 0
    scene = Scene(finished.out, "tiny")
    for frame in range(FRAMES):
        assert read_sharp(scene.sharp_path(frame)).shape == (48, 80, 3)
        depth = np.load(scene.depth_path(frame))["depth"].astype(np.float32)
        assert np.isfinite(depth).all() and depth.std() > 0.01, "the depth network drew something"
    first, second = (read_sharp(scene.bokeh_path(number, 5)).astype(int) for number in range(2))
    assert (first != second).any(), "two lens sets are two photographs"
    assert np.abs(first - read_sharp(scene.sharp_path(5))).max() > 10


def test_records_name_engines_weights_and_licences(finished: Project, weights: Path):
    scene = Scene(finished.out, "tiny")
    for folder, engine, licence, files in (
        (scene.sharp_dir, "genfocus", FLUX_LICENCE, {"FLUX.1-dev", "deblurNet.safetensors"}),
        (scene.depth_dir, "vda", VDA_LICENCE, {"metric_video_depth_anything_vitl.pth"}),
        (scene.bokeh_dir, "bokehnet", FLUX_LICENCE, {"FLUX.1-dev", "bokehNet.safetensors"}),
    ):
        record = done(folder)
        assert (record["engine"], record["licence"]) == (engine, licence)
        assert set(record["fields"]["engine"]["weights"]) == files
        assert str(weights) not in json.dumps(record), "no path stands in a record"
    metadata = scene.read_metadata()
    assert metadata["licences"] == {"deblur": FLUX_LICENCE, "depth": VDA_LICENCE, "bokeh": FLUX_LICENCE}
    radius = coc_to_radius_px(metadata["sets"][0]["max_coc"], metadata["px_per_mm"])
    assert metadata["guidance"] == "physical" and metadata["guidance_factor"] == pytest.approx(radius / 50)
    assert metadata["engine"]["options"]["guidance_px"] == 50 and metadata["engine"]["options"]["steps"] == 1
    page = (finished.out / "report" / "index.html").read_text()
    assert FLUX_LICENCE in page and VDA_LICENCE in page and "non-commercial" in page


def test_a_frame_that_found_no_memory_is_told_everywhere(finished: Project):
    scene = Scene(finished.out, "tiny")
    said = "1 frames ran out of memory and are the raw frames"
    record = done(scene.sharp_dir)
    assert record["fallbacks"] == 1 and said in record["warnings"][0]
    psnr = record["summary"]["psnr_db_per_frame"]
    assert psnr[0] > max(psnr[1:]), "only its neighbours' share was drawn"
    log = (finished.logs / "deblur.log").read_text()
    assert "trying again with less" in log and "VAE in tiles" in log and "the raw frame takes its place" in log
    assert said in (finished.out / "validation_report.json").read_text()
    assert said in (finished.out / "report" / "index.html").read_text()


def test_the_log_says_what_was_used_and_what_it_cost(finished: Project):
    log = (finished.logs / "deblur.log").read_text()
    assert "deblurNet.safetensors is used with conditions=1" in log
    assert log.count("80x48 whole, 1 steps: ") == FRAMES - 1, "time and memory of each frame that was made"


def test_a_resumed_scene_is_the_same_byte_for_byte_and_guidance_changes_it(
    finished: Project, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    surroundings(monkeypatch, weights, finished.root)
    scene = Scene(finished.out, "tiny")
    before, physical = tree(scene.dir), cv2.imread(str(scene.bokeh_path(0, 5)))
    assert finished.run(5, *BOKEH) == 0 and "0 done, 1 skipped" in capsys.readouterr().out
    for frame in (3, 9):
        scene.bokeh_path(1, frame).unlink()
    scene.depth_path(22).unlink()
    assert finished.run(3, *DEPTH) == 0
    assert finished.run(5, *BOKEH, "--engine_opt", "tile_batch=4") == 0, "how memory is used changes no output"
    assert tree(scene.dir) == before
    assert finished.run(5, *BOKEH, "--guidance", "normalised", "--on_stale", "redo") == 0
    metadata = scene.read_metadata()
    assert metadata["guidance"] == "normalised" and metadata["guidance_factor"] == 1.0
    assert not np.array_equal(cv2.imread(str(scene.bokeh_path(0, 5))), physical)
