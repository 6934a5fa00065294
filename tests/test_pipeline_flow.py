"""All phases on a tiny scene: the contract holds, a second run does nothing, settings and inputs that change are noticed."""

import json

import cv2
import numpy as np
from conftest import Project, tree, write_scene

from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene


def test_all_phases_give_the_contract(scene_project: Project):
    scene_project.run_upto(6)
    scene = Scene(scene_project.out, "tiny")
    assert scene.split_path.read_text().strip() in ("train", "val", "test")
    metadata = json.loads(scene.metadata_path.read_text())
    assert set(metadata["sets"][0]) == {"f", "N", "S_focus", "max_coc"}
    assert 0.024 <= metadata["sets"][0]["f"] <= 0.085, "f is in metres"
    assert metadata["px_per_mm"] == 80 / 36
    assert len(metadata["sets"]) == 2
    stats = json.loads(scene.stats_path.read_text())
    for frame in range(18):
        sharp = cv2.imread(str(scene.sharp_path(frame)))
        assert sharp.shape == (48, 80, 3)
        depth = np.load(scene.depth_path(frame))["depth"]
        assert depth.shape == (48, 80) and depth.dtype == np.float16
        assert stats["d_min"] <= depth.min() and depth.max() <= stats["d_max"]
        for number in range(2):
            label = np.load(scene.focus_path(number, frame))["focus_map"]
            assert label.dtype == np.float16 and label.shape == (48, 80)
            assert label.min() >= 0 and label.max() <= 1
            assert cv2.imread(str(scene.bokeh_path(number, frame))).shape == (48, 80, 3)
    for folder in (scene.sharp_dir, scene.depth_dir, scene.focus_dir, scene.bokeh_dir):
        assert (folder / ".done").exists()
        assert not list(folder.glob("set_*/.done"))
    assert not list(scene.dir.rglob("*.tmp")) and not list(scene.private_dir.glob("*.lease"))
    report = json.loads((scene_project.out / "validation_report.json").read_text())
    assert report["scenes"]["tiny"]["passed"] and report["scenes"]["tiny"]["label_error"] == 0
    assert (scene_project.out / "report" / "index.html").stat().st_size > 1000


def test_labels_follow_the_formula_written_out(scene_project: Project):
    """f^2 / (N S) |d - S| / d, computed here in float64 without the project's functions."""
    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    for number, values in enumerate(json.loads(scene.metadata_path.read_text())["sets"]):
        depth = np.load(scene.depth_path(3))["depth"].astype(np.float64)
        coc = values["f"] ** 2 / (values["N"] * values["S_focus"]) * np.abs(depth - values["S_focus"]) / depth
        expected = 1 - np.clip(coc / values["max_coc"], 0, 1)
        stored = np.load(scene.focus_path(number, 3))["focus_map"].astype(np.float64)
        assert np.abs(expected - stored).max() <= 2.5e-4


def test_render_is_driven_by_the_stored_map(scene_project: Project):
    """Rendering again from the stored label gives the stored picture, bit for bit."""
    from pipeline.engines import load_engine
    from pipeline.engines.base import BokehRenderer, BokehRequest
    from pipeline.media.images import read_sharp

    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    metadata = scene.read_metadata()
    engine = load_engine("bokeh", "lens", {}, "cpu", BokehRenderer)
    for number, lens_set in enumerate(scene.lens_sets()):
        request = BokehRequest(
            sharp=read_sharp(scene.sharp_path(7)),
            focus_map=np.load(scene.focus_path(number, 7))["focus_map"],
            depth_m=np.load(scene.depth_path(7))["depth"].astype(np.float32),
            lens=lens_set.lens,
            max_coc_m=lens_set.max_coc_m,
            px_per_mm=metadata["px_per_mm"],
            seed=0,
        )
        assert np.array_equal(engine.render(request, lambda: None), read_sharp(scene.bokeh_path(number, 7)))


def test_second_run_writes_nothing(scene_project: Project):
    scene_project.run_upto(5)
    folder = scene_project.out / "tiny"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for phase in (1, 2, 3, 4):
        assert scene_project.run(phase) == 0
    assert "already done" in scene_project.text, "phase 4 says so"
    assert scene_project.run(5, "--num_sets", "2") == 0
    assert "0 done, 1 skipped" in scene_project.text
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_same_input_gives_same_bytes_elsewhere(project: Project, tmp_path):
    write_scene(project.raw, "tiny", holes=True)
    project.run_upto(5)
    other = Project(tmp_path / "elsewhere")
    other.raw = project.raw
    other.run_upto(5)
    assert tree(project.out / "tiny") == tree(other.out / "tiny")


def test_changed_setting_stops_and_is_named(scene_project: Project):
    scene_project.run_upto(2)
    scene = Scene(scene_project.out, "tiny")
    before = tree(scene.dir)
    assert scene_project.run(2, "--reach", "3") == 3
    assert "settings.reach changed: 2 -> 3" in scene_project.text
    assert "--on_stale" in scene_project.text and "redo" in scene_project.text and "keep" in scene_project.text
    assert tree(scene.dir) == before, "nothing was touched"
    assert scene_project.run(2, "--reach", "3", "--on_stale", "keep") == 0
    assert tree(scene.dir) == before
    assert scene_project.run(2, "--reach", "3", "--on_stale", "redo") == 0
    record = DoneRecord.read(scene.sharp_dir)
    assert record and record.fields["settings"]["reach"] == 3


def test_redone_upstream_makes_downstream_stale(scene_project: Project):
    scene_project.run_upto(5)
    assert scene_project.run(2, "--engine", "none", "--on_stale", "redo") == 0
    assert scene_project.run(3) == 3
    assert "upstream.deblur changed" in scene_project.text
    assert scene_project.run(3, "--on_stale", "redo") == 0
    assert scene_project.run(5, "--num_sets", "2") == 1, "depth changed after confirmation"
    assert "changed after max_coc was confirmed" in scene_project.text
    assert scene_project.run(4) == 1
    assert "--on_stale" in scene_project.text, "a confirmation is not dropped silently"
    assert scene_project.run(4, "--on_stale", "redo") == 0
    assert scene_project.run(5, "--num_sets", "2") == 1
    assert "not confirmed" in scene_project.text
    assert scene_project.run(4, "--confirm") == 0
    assert scene_project.run(5, "--num_sets", "2", "--on_stale", "redo") == 0
    assert scene_project.run(6) == 0


def test_changed_source_is_noticed(scene_project: Project):
    scene_project.run_upto(2)
    cv2.imwrite(str(scene_project.raw / "tiny" / "3.png"), np.zeros((48, 72, 3), np.uint8))
    before = tree(scene_project.out / "tiny")
    assert scene_project.run(2, "--reach", "1", "--on_stale", "redo") == 3
    assert tree(scene_project.out / "tiny") == before, (
        "what was finished is not given up for raw data that cannot be used"
    )
    assert "changed since it was indexed" in scene_project.text and "01_validate_dataset" in scene_project.text
    assert scene_project.run(1) == 0
    assert scene_project.run(2) == 3
    assert "upstream.source changed" in scene_project.text


def test_lost_output_is_noticed_and_made_again(scene_project: Project):
    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    before = tree(scene.dir)
    others = scene.sharp_path(4).stat().st_mtime_ns
    scene.sharp_path(5).unlink()
    scene.bokeh_path(1, 2).unlink()
    assert scene_project.run(2) == 0
    assert "1 outputs are missing behind .done" in scene_project.text
    assert scene_project.run(5, "--num_sets", "2") == 0
    assert tree(scene.dir) == before
    assert scene.sharp_path(4).stat().st_mtime_ns == others


def test_dry_run_writes_nothing(scene_project: Project):
    assert scene_project.run(1, "--dry_run") == 0
    assert "tiny" in scene_project.text
    assert not scene_project.out.exists() and not scene_project.logs.exists()
    scene_project.run_upto(1)
    before = sorted(scene_project.out.rglob("*"))
    assert scene_project.run(2, "--dry_run") == 0
    assert "would run" in scene_project.text
    assert sorted(scene_project.out.rglob("*")) == before


def test_one_failing_scene_does_not_stop_the_others(project: Project):
    write_scene(project.raw, "a_bad", depth=False)
    write_scene(project.raw, "b_good", seed=1)
    project.run_upto(2)
    assert project.run(3) == 3
    assert "a_bad" in project.text and "needs depth/ or disparity/" in project.text
    assert DoneRecord.read(Scene(project.out, "b_good").depth_dir) is not None
    assert project.run(4) == 0
    assert "a_bad is left out" in project.text


def test_psnr_log_has_every_frame(project: Project):
    write_scene(project.raw, "one", seed=1)
    write_scene(project.raw, "two", seed=2)
    project.run_upto(2)
    rows = (project.logs / "deblur_psnr.csv").read_text().splitlines()
    assert rows[0] == "scene,frame,psnr_db" and len(rows) == 1 + 2 * 18
    assert all(20 < float(row.split(",")[2]) <= 100 for row in rows[1:])


def test_scene_can_be_chosen(project: Project):
    write_scene(project.raw, "one", seed=1)
    write_scene(project.raw, "two", seed=2)
    project.run_upto(1)
    assert project.run(2, "--scene", "two") == 0
    assert not (project.out / "one" / "frames_sharp").exists()
    assert (project.out / "two" / "frames_sharp" / ".done").exists()


def test_phase_6_recomputes_labels_with_the_lens_of_metadata(scene_project: Project):
    """The check is a real one: a lens that differs by a per cent fails it."""
    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    metadata = json.loads(scene.metadata_path.read_text())
    metadata["sets"][1]["S_focus"] *= 1.05
    scene.metadata_path.write_text(json.dumps(metadata))
    assert scene_project.run(6) == 3
    assert "labels" in scene_project.text and "set_01" in scene_project.text


def test_validation_can_be_skipped_while_nothing_changed(scene_project: Project):
    scene_project.run_upto(5)
    assert scene_project.run(6, "--if_changed") == 0
    report = scene_project.out / "validation_report.json"
    stamp = report.stat().st_mtime_ns
    assert scene_project.run(6, "--if_changed") == 0
    assert "nothing changed" in scene_project.text and report.stat().st_mtime_ns == stamp
    Scene(scene_project.out, "tiny").bokeh_path(0, 3).unlink()
    assert scene_project.run(6, "--if_changed") == 3, "a removed file is noticed"
    assert scene_project.run(6, "--if_changed") == 3, "and a failing report is no reason to skip"
