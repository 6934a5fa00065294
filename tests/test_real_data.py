"""Real footage through the phases. The folder comes from BOKEHFLOW_TEST_DATA; without it these tests skip."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Project

from pipeline.media.cuts import CutDetector
from pipeline.media.delivered_depth import find_delivered_depth
from pipeline.media.sources import open_source
from pipeline.storage.scene import Scene, SceneIndex


def take(real_data: Path, project: Project, name: str, count: int | None) -> None:
    """Copy the first `count` frames of a real scene, with what belongs to them."""
    source, target = real_data / "scenes" / name, project.raw / name
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.jpg"))[:count]:
        shutil.copy2(path, target)
    if (source / "disparity").is_dir():
        (target / "disparity").mkdir()
        for path in sorted((source / "disparity").glob("*.png"))[:count]:
            shutil.copy2(path, target / "disparity")
        shutil.copy2(source / "depth.json", target)


def check_deblur(project: Project, name: str) -> None:
    summary = json.loads((Scene(project.out, name).sharp_dir / ".done").read_text())["summary"]
    assert summary["flicker_output"] < summary["flicker_frame"]
    assert summary["detail_output"] >= 0.95 * summary["detail_frame"]
    assert summary["detail_output"] > detail_of_raw(project, name), "it is sharper than the raw video"
    assert 25 < summary["psnr_db"] < 45


def detail_of_raw(project: Project, name: str) -> float:
    from pipeline.phases.temporal import gradient_energy

    return float(np.mean([gradient_energy(frame) for _, frame, _ in open_source(project.raw / name).decode()]))


def test_bear_through_phases_1_and_2(real_data: Path, project: Project):
    take(real_data, project, "bear", 17)
    project.run_upto(2)
    check_deblur(project, "bear")
    assert (project.logs / "deblur_psnr.csv").read_text().count("bear,") == 17


def test_breakdance_through_all_phases(real_data: Path, project: Project):
    take(real_data, project, "breakdance", 16)
    project.run_upto(6, sets=1)
    report = json.loads((project.out / "validation_report.json").read_text())
    assert report["scenes"]["breakdance"]["passed"] and report["scenes"]["breakdance"]["label_error"] == 0
    stats = json.loads(Scene(project.out, "breakdance").stats_path.read_text())
    assert 3.0 <= stats["d_min"] < stats["d_max"] <= 40.1, "the range that depth.json gives"


def test_video_and_frames_of_the_bear_agree(real_data: Path):
    video, folder = real_data / "video" / "bear.mp4", real_data / "scenes" / "bear"
    if not (video.exists() and folder.is_dir()):
        pytest.skip(f"{video} or {folder} is not there")
    shown = [frame for _, frame, _ in open_source(video).decode([0, 40, 81])]
    for index, frame in zip([0, 40, 81], shown, strict=True):
        (_, expected, _) = next(iter(open_source(folder).decode([index])))
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 8


def test_disparity_of_breakdance_is_nearer_where_it_is_larger(real_data: Path):
    folder = real_data / "scenes" / "breakdance"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    depth = find_delivered_depth(folder, 84)
    assert depth is not None
    values = depth.read(40)
    assert np.median(values[-60:]) < np.median(values[:60]), "the ground at the bottom is nearer than the top"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bear", "breakdance"])
def test_real_scenes_of_full_length_pass_validation(real_data: Path, project: Project, name: str):
    take(real_data, project, name, None)
    project.run_upto(2)
    check_deblur(project, name)
    frames = SceneIndex.load(project.out / "scene_index.json").entries[name].num_frames
    assert frames == {"bear": 82, "breakdance": 84}[name]
    if name == "breakdance":
        project.run_upto(6)
        report = json.loads((project.out / "validation_report.json").read_text())
        assert report["scenes"][name]["passed"]


def test_cuts_between_real_shots_and_none_within(real_data: Path):
    finder, found, counts = CutDetector(), [], []
    for name in ("bear", "breakdance", "bear"):
        folder = real_data / "scenes" / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there")
        found += [finder.begins_shot(frame) for _, frame, _ in open_source(folder).decode()]
        counts.append(len(found))
    assert [number for number, begins in enumerate(found) if begins] == counts[:2]
