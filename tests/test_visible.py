"""The prior `visible`, the same in phases 4 and 5; a lens of one's own; measurements of the scenes at hand alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, tree, write_scene

from pipeline.media.depth_files import encode_npz
from pipeline.optics import OpticsError, coc_diameter, coc_to_radius_px, draw_visible_lens, px_per_mm
from pipeline.optics.lens import CocModel
from pipeline.optics.visible import DRAWN_F_NUMBER, SOLVED_F_NUMBER, SOLVED_FOCAL_MM, TARGET_SHARES
from pipeline.phases.calibrate import NEARLY_SHARP, _sample_scenes
from pipeline.phases.calibration import CalibrateSettings
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene, SceneEntry

WIDTH = 320


def street(sky: float = 0.15) -> np.ndarray:
    """Depths of a street in metres: the ground, houses at some distances, a share of sky."""
    rng = np.random.default_rng(0)
    ground = 1.6 / np.linspace(0.03, 0.9, 3000)
    houses = rng.choice([4.0, 7.0, 15.0, 60.0], 3000) * rng.uniform(0.95, 1.05, 3000)
    return np.concatenate([ground, houses, np.full(int(sky * 6000 / (1 - sky)), 1000.0)])


@pytest.mark.parametrize("coc_model", ["contract", "thin_lens"])
def test_drawn_lenses_follow_the_four_rules(coc_model: CocModel):
    depth = street()
    near, far = 1 / np.percentile(1 / depth[depth < 100], (95, 5))
    per_mm = px_per_mm(WIDTH)
    lower, upper = (WIDTH * share for share in TARGET_SHARES)
    focused, targets = [], []
    for number in range(60):
        drawn = draw_visible_lens("street", number, depth, px_per_mm=per_mm, width_px=WIDTH, coc_model=coc_model)
        lens = drawn.lens
        radius_px = np.asarray(coc_to_radius_px(coc_diameter(torch.from_numpy(depth), lens), per_mm))
        assert near * 0.999 <= lens.focus_m <= far * 1.001 and lens.focus_m in depth, "on something, never on the sky"
        assert SOLVED_FOCAL_MM[0] <= lens.f_mm + 1e-9 and lens.f_mm <= SOLVED_FOCAL_MM[1] + 1e-9
        assert SOLVED_F_NUMBER[0] <= lens.f_number <= SOLVED_F_NUMBER[1]
        assert drawn.reason == "" and (radius_px > 1).mean() >= 0.5
        target_px = float(np.percentile(radius_px, 95))
        assert (radius_px <= max(1, target_px * 4 / 3 / 10)).mean() >= 0.05
        assert lower * 2 / 3 <= target_px <= upper * 4 / 3
        focused.append(1 / lens.focus_m)
        targets.append(target_px)
    assert np.median(focused) > 1.5 / far, "inverse depth is covered evenly, so most lenses focus near"
    assert min(targets) < 3 and max(targets) > 7, "from a little blur to a lot"


def test_draws_are_the_same_everywhere_and_differ_by_name_set_and_seed():
    depth = street()

    def draw(scene_id: str, number: int, seed: int = 0):
        return draw_visible_lens(scene_id, number, depth, px_per_mm=9.0, width_px=324, project_seed=seed).lens

    one = draw("bear", 1)
    assert draw("bear", 1) == one
    assert len({one, draw("bear", 2), draw("fence", 1), draw("bear", 1, seed=1)}) == 4


def test_what_cannot_be_shown_says_so():
    flat = draw_visible_lens("wall", 0, np.full(50, 3.0), px_per_mm=9.0, width_px=324)
    assert "constant plane" in flat.reason and flat.lens.focus_m == 3.0
    two = np.concatenate([np.full(960, 500.0), np.linspace(2, 3, 40)])  # hardly anything to focus on under a lot of sky
    drawn = draw_visible_lens("sky", 0, two, px_per_mm=9.0, width_px=324)
    assert "none of 16 draws" in drawn.reason and 2 <= drawn.lens.focus_m <= 3
    for depth in (np.array([]), np.array([1.0, 0.0]), np.array([1.0, np.nan])):
        with pytest.raises(OpticsError, match="depth_m"):
            draw_visible_lens("bad", 0, depth, px_per_mm=9.0, width_px=324)
    assert DRAWN_F_NUMBER[0] > SOLVED_F_NUMBER[0]


def entry(name: str) -> SceneEntry:
    return SceneEntry(scene_id=name, accepted=True, source=name, num_frames=16, width=64, height=48)


def test_at_least_twenty_scenes_are_sampled():
    assert len(_sample_scenes([entry(f"s{number}") for number in range(12)], 0)) == 12
    assert len(_sample_scenes([entry(f"s{number}") for number in range(60)], 0)) == 20
    assert len(_sample_scenes([entry(f"s{number}") for number in range(200)], 0)) == 40


def test_the_published_prior_leaves_no_trace_in_fingerprints():
    assert "lens_prior" not in CalibrateSettings().recorded()
    assert CalibrateSettings(lens_prior="visible").recorded()["lens_prior"] == "visible"


def test_phases_4_and_5_draw_the_same_visible_lenses(scene_project: Project):
    scene_project.run_upto(4)
    published = json.loads((scene_project.out / "coc_stats.json").read_text())
    assert published["blur"]["overall"][0] < NEARLY_SHARP
    assert scene_project.run(4) == 0
    assert scene_project.run(4, "--lens_prior", "visible", "--focus_range", "full") == 2
    assert scene_project.run(4, "--lens_prior", "visible") == 0, scene_project.text
    assert "beyond 1 px" in scene_project.text
    stats = json.loads((scene_project.out / "coc_stats.json").read_text())
    assert stats["blur"]["overall"][0] > published["blur"]["overall"][0]
    assert scene_project.run(4, "--confirm") == 0
    assert scene_project.run(5, "--num_sets", "2") == 0, scene_project.text
    metadata = Scene(scene_project.out, "tiny").read_metadata()
    measured = stats["scenes"]["tiny"]["lenses"][:2]
    assert [{key: one[key] for key in ("f", "N", "S_focus")} for one in metadata["sets"]] == [
        {key: one[key] for key in ("f", "N", "S_focus")} for one in measured
    ]
    assert metadata["lens_prior"] == "visible"
    assert scene_project.run(6) == 0, scene_project.text
    page = (scene_project.out / "report" / "index.html").read_text()
    assert f"{stats['blur']['overall'][0] * 100:.0f}" in page and "beyond 10 px" in page


def test_a_nearly_sharp_dataset_is_told_the_flag(scene_project: Project):
    scene_project.run_upto(3)
    assert scene_project.run(4) == 0
    assert "nearly sharp" in scene_project.text and "--lens_prior visible" in scene_project.text
    assert scene_project.run(6, "--if_changed") in (0, 3)


def test_a_lens_of_ones_own(scene_project: Project):
    scene_project.run_upto(4)
    assert scene_project.run(4, "--confirm") == 0
    own = ("--f_number", "1.8", "--focal_mm", "50", "--focus", "2.5")
    assert scene_project.run(5, *own, "--num_sets", "2") == 2
    assert "num_sets must be 1" in scene_project.text
    assert scene_project.run(5, "--f_number", "0") == 2
    assert scene_project.run(5, *own) == 0, scene_project.text
    scene = Scene(scene_project.out, "tiny")
    (only,) = scene.lens_sets()
    assert (only.lens.f_mm, only.lens.f_number, only.lens.focus_m) == (50, 1.8, 2.5)
    record = DoneRecord.read(scene.bokeh_dir)
    assert record and record.fields["settings"] == {"num_sets": 1, "f_number": 1.8, "focal_mm": 50, "focus_m": 2.5}
    before = tree(scene.dir)
    assert scene_project.run(5, "--num_sets", "1") == 3, "drawn lenses are other work"
    assert "settings.f" in scene_project.text and tree(scene.dir) == before
    assert scene_project.run(5, "--f_number", "1.4", "--num_sets", "2", "--on_stale", "redo") == 0
    stats = json.loads((scene_project.out / "coc_stats.json").read_text())
    sets = scene.lens_sets()
    assert [one.lens.f_number for one in sets] == [1.4, 1.4]
    assert [one.lens.focus_m for one in sets] == [one["S_focus"] for one in stats["scenes"]["tiny"]["lenses"][:2]]
    assert scene_project.run(6) == 0, scene_project.text


def test_scenes_that_come_after_a_measurement(scene_project: Project):
    """Not confirmed: measure again. Confirmed: they are rendered with the same max_coc, or all is measured again on request."""
    scene_project.run_upto(4)
    write_scene(scene_project.raw, "late", frames=16, seed=7)
    for phase in (1, 2, 3):
        assert scene_project.run(phase, "--scene", "late") == 0 if phase > 1 else scene_project.run(phase) == 0
    assert scene_project.run(4, "--confirm") == 1
    assert "late came later" in scene_project.text and "04_calibrate_coc.py" in scene_project.text
    assert json.loads((scene_project.out / "coc_stats.json").read_text())["confirmed_max_coc"] is None
    assert scene_project.run(4, "--on_stale", "redo") == 0
    assert scene_project.run(4, "--confirm") == 0
    confirmed = json.loads((scene_project.out / "coc_stats.json").read_text())["confirmed_max_coc"]

    write_scene(scene_project.raw, "later", frames=16, seed=8)
    for phase in (1, 2, 3, 4):
        assert scene_project.run(phase) == 0, scene_project.text
    assert "which also holds for 1 added since (later)" in scene_project.text
    assert scene_project.run(5, "--num_sets", "1") == 0, scene_project.text
    assert {one.max_coc_m for one in Scene(scene_project.out, "later").lens_sets()} == {confirmed}
    assert scene_project.run(4, "--confirm", "99um") == 1
    assert "later came later" in scene_project.text, "a new value needs a measurement of what is there"


def test_the_depth_of_a_scene_is_read_from_its_files(scene_project: Project):
    """Other depth, other visible lenses: the draw looks at the scene and not at a summary of it."""
    scene_project.run_upto(3)
    assert scene_project.run(4, "--lens_prior", "visible") == 0
    before = json.loads((scene_project.out / "coc_stats.json").read_text())["scenes"]["tiny"]["lenses"]
    scene = Scene(scene_project.out, "tiny")
    for path in Path(scene.depth_dir).glob("depth_*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            path.write_bytes(encode_npz("depth", (stored["depth"] * 2).astype(np.float16)))
    assert scene_project.run(4, "--lens_prior", "visible", "--on_stale", "redo") == 0
    after = json.loads((scene_project.out / "coc_stats.json").read_text())["scenes"]["tiny"]["lenses"]
    assert after[0]["S_focus"] == pytest.approx(2 * before[0]["S_focus"], rel=0.01)


def test_columns_of_the_evaluation_table_do_not_touch():
    from model.evaluate import table

    lines = table(
        {"network": {"psnr_db": 30.0, "depth_abs_rel_masked": 0.1}}, ("psnr_db", "depth_abs_rel_masked")
    ).splitlines()
    assert lines[0].split() == ["psnr_db", "depth_abs_rel_masked"] and len(lines[0]) == len(lines[1])
    assert "  depth_abs_rel_masked" in lines[0]
