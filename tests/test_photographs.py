"""Generated scenes with ray-traced photographs: loaders read them as any finished scene, and the blur is the lens's own."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Project

from model.bokehflow.bptt import lenses_of
from model.data.focus_dataset import FocusDataset
from model.data.samples import collate
from model.data.sampling import ClipSettings
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from model.evaluation.eval_clips import scene_clips
from pipeline.errors import InputError
from pipeline.measures import psnr
from pipeline.media.depth_files import read_depth, read_npz
from pipeline.media.images import read_sharp
from pipeline.optics import Lens, coc_diameter, defocus_px, px_per_mm, render_lens_blur
from pipeline.optics.labels import label_of
from pipeline.photographs import (
    MAX_COC_M,
    PhotographRequest,
    contact_sheet,
    draw_focus_pull,
    draw_photograph_lens,
    make_photographs,
    photograph_requests,
    traced_lens,
    write_photographs,
)
from pipeline.raytrace import RaytraceError
from pipeline.raytrace.generated import generate
from pipeline.raytrace.generated.setting import Setting
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene

SMALL = {"width": 96, "height": 64, "num_frames": 2, "num_sets": 2, "samples": 16}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def request(**other):
    return PhotographRequest(
        **{"scene_id": "room_00003", "family": "room", "seed": 3, "split": "train", **SMALL} | other
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    assert write_photographs(root, request())
    return root


def test_the_loader_reads_a_generated_scene_as_any_finished_one(made):
    manifest = find_scenes(made, "train", coc_model="contract")
    assert [scene.scene_id for scene in manifest.scenes] == ["room_00003"] and not manifest.skipped
    clips = ClipDataset(manifest, ClipSettings(clip_frames=2, crop_width=64, crop_height=48))
    assert len(clips) == 2
    clip = clips[0]
    assert clip.frames.shape == clip.bokeh.shape == (2, 3, 48, 64)
    assert clip.max_radius_px == pytest.approx(31 * 96 / 512)
    assert not torch.equal(clip.frames, clip.bokeh)


def test_labels_depth_and_records_are_those_of_the_contract(made):
    scene = Scene(made, "room_00003")
    for number, lens_set in enumerate(scene.lens_sets()):
        assert lens_set.max_coc_m == MAX_COC_M
        for frame in range(2):
            label = read_npz(scene.focus_path(number, frame), "focus_map")
            np.testing.assert_array_equal(
                label, label_of(read_depth(scene.depth_path(frame)), lens_set.lens, MAX_COC_M)
            )
    metadata = scene.read_metadata()
    assert (metadata["engine"]["name"], metadata["truth"]) == ("raytrace", "ray-traced photograph")
    assert all(20 < one["noise_db"] < 60 for one in metadata["sets"])
    stats = json.loads(scene.stats_path.read_text())
    assert 0 < stats["d_min"] <= stats["d_median"] <= stats["d_max"] <= 1000
    records = [
        DoneRecord.read(folder) for folder in (scene.sharp_dir, scene.depth_dir, scene.focus_dir, scene.bokeh_dir)
    ]
    assert [record.phase for record in records] == ["deblur", "depth", "render", "render"]
    assert {record.engine for record in records} == {"raytrace"}


def test_the_photograph_is_what_the_stored_lens_makes_of_the_stored_frame(made):
    scene = Scene(made, "room_00003")
    gains = []
    for number, lens_set in enumerate(scene.lens_sets()):
        sharp, photograph = (read_sharp(p) / 255 for p in (scene.sharp_path(0), scene.bokeh_path(number, 0)))
        depth = torch.from_numpy(read_depth(scene.depth_path(0)).astype(np.float32))[None, None]
        image = torch.from_numpy(sharp.astype(np.float32)).permute(2, 0, 1)[None]
        defocus = defocus_px(depth, lens_set.lens, px_per_mm(96))
        rendered = render_lens_blur(image, defocus, order=depth)[0].permute(1, 2, 0).numpy()
        gains.append(psnr(rendered, photograph, 1.0) - psnr(sharp, photograph, 1.0))
    assert min(gains) > 3, gains


def test_a_finished_scene_is_skipped_repeats_and_others_are_refused(made, tmp_path):
    before = tree(made)
    assert not write_photographs(made, request())
    assert tree(made) == before
    one = request(num_frames=1, num_sets=1, samples=1)
    assert write_photographs(tmp_path / "a", one) and write_photographs(tmp_path / "b", one)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    with pytest.raises(RaytraceError, match=r"other settings .samples 16 -> 8"):
        write_photographs(made, request(samples=8))
    (tmp_path / "room_00003").mkdir()
    ok, written, message = make_photographs(tmp_path, request())
    assert not ok and not written and "was not made by this generator" in message


def test_an_older_version_makes_its_scenes_as_before_and_says_so():
    """Sums over all shapes of scenes of the first version, taken when there was no other."""
    for family, seed, size, count, changed in (
        ("room", 1000000, 1953.390, 261, False),
        ("street", 1000046, 7204.187, 387, True),  # somebody stood inside somebody
        ("nature", 1000047, 3108.196, 267, True),  # a lattice over the whole view
    ):
        first, second = (generate(family, seed, pace=0.25, version=version) for version in (1, 2))
        shapes, others = (scene.fixed.extend(scene.moving(0.5)) for scene in (first, second))
        assert len(shapes) == count
        assert sum(float(np.abs(np.stack(part)).sum()) for part in (shapes.centre, shapes.axes)) == pytest.approx(size)
        assert changed == (len(shapes) != len(others) or not np.array_equal(shapes.axes, others.axes))
    assert request(version=1).recorded() == {
        "scene_id": "room_00003", "family": "room", "seed": 3, "split": "train", **SMALL, "pace": 0.25, "version": 1
    }  # fmt: skip


def test_another_version_is_refused_by_name(made):
    with pytest.raises(RaytraceError, match=r"other settings .version 2 -> 1"):
        write_photographs(made, request(version=1))
    with pytest.raises(RaytraceError, match=r"other settings .blades None -> 5"):
        write_photographs(made, request(blades=5))


def test_nobody_stands_inside_somebody_else():
    crowd = [Setting(family="nature", seed=seed, version=2) for seed in range(20)]
    for setting in crowd:
        places = np.array([setting._free_place((-1.6, 1.6), (2.6, 7.0)) for _ in range(3)])
        between = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(3, 1)]
        assert between.min() > 1.0


def test_a_polygonal_opening_is_photographed_and_recorded(tmp_path):
    one = {"width": 48, "height": 32, "num_frames": 1, "num_sets": 1, "samples": 4}
    assert write_photographs(tmp_path / "disc", request(**one))
    assert write_photographs(tmp_path / "triangle", request(**one, blades=3))
    disc, triangle = (Scene(tmp_path / name, "room_00003") for name in ("disc", "triangle"))
    assert triangle.read_metadata()["engine"] == {"name": "raytrace", "samples": 4, "blades": 3}
    assert (disc.sharp_path(0).read_bytes(), disc.lens_sets()) == (
        triangle.sharp_path(0).read_bytes(),
        triangle.lens_sets(),
    )
    assert disc.bokeh_path(0, 0).read_bytes() != triangle.bokeh_path(0, 0).read_bytes()


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    """A scene of three frames through a lens whose focus stays and one whose focus travels."""
    root = tmp_path_factory.mktemp("pulled")
    assert write_photographs(root, request(num_frames=3, pulls=1))
    return root


def test_a_focus_pull_is_labelled_photographed_and_recorded_frame_by_frame(pulled):
    scene = Scene(pulled, "room_00003")
    still, pull = scene.lens_sets()
    assert not still.pull_m and still.lens_at(2) == still.lens
    assert len(pull.pull_m) == 3 and pull.pull_m[0] == pull.lens.focus_m
    steps = np.diff(1 / np.array(pull.pull_m))
    assert steps[0] == pytest.approx(steps[1]) and abs(steps[0]) > 0.01, "evenly in inverse distance"
    for frame in range(3):
        label = label_of(read_depth(scene.depth_path(frame)), pull.lens_at(frame), MAX_COC_M)
        np.testing.assert_array_equal(read_npz(scene.focus_path(1, frame), "focus_map"), label)
    sharp, photograph = (read_sharp(path) / 255 for path in (scene.sharp_path(2), scene.bokeh_path(1, 2)))
    depth = torch.from_numpy(read_depth(scene.depth_path(2)).astype(np.float32))[None, None]
    image = torch.from_numpy(sharp.astype(np.float32)).permute(2, 0, 1)[None]
    near = [
        psnr(
            render_lens_blur(image, defocus_px(depth, pull.lens_at(frame), px_per_mm(96)), order=depth)[0]
            .permute(1, 2, 0)
            .numpy(),
            photograph,
            1.0,
        )
        for frame in (0, 2)
    ]
    assert near[1] > near[0] + 1, near
    assert scene.read_metadata()["generated"]["pulls"] == 1


def test_loaders_give_every_frame_of_a_focus_pull_its_own_lens(pulled):
    manifest = find_scenes(pulled, "train", coc_model="contract")
    still, pull = manifest.scenes[0].sets
    samples = FocusDataset(manifest, roi="full", verify=True)
    assert [float(samples[number]["focus_m"]) for number in range(6)] == pytest.approx(
        [still.lens.focus_m] * 3 + list(pull.pull_m)
    )
    clips = ClipDataset(manifest, ClipSettings(clip_frames=2, crop_width=64, crop_height=48))
    pair = sorted((clips[number] for number in range(2)), key=lambda clip: clip.name)
    first = int(pair[1].name.split(" frames ")[1][0])
    batch = collate(pair)
    expected = torch.tensor([[still.lens.focus_m] * 2, pull.pull_m[first : first + 2]])
    torch.testing.assert_close(batch.focus_m, expected)
    torch.testing.assert_close(lenses_of(batch, 1).focus_m, expected[:, 1])
    clip = scene_clips(manifest)[1]
    assert [clip.read(number).lens.focus_m for number in range(3)] == list(pull.pull_m)


def test_a_focus_pull_keeps_within_the_largest_radius():
    depth = np.random.default_rng(2).uniform(1.0, 9, 5000).astype(np.float32)
    stopped = 0
    for number in range(12):
        drawn = draw_photograph_lens(f"scene{number}", 0, depth, width_px=512, seed=0).lens
        widest = float(np.percentile(defocus_px(torch.from_numpy(depth), drawn, px_per_mm(512)).abs(), 99.5))
        drawn = replace(drawn, f_number=drawn.f_number * widest / 31)  # at the limit where the pull begins
        lens, focus_m = draw_focus_pull(f"scene{number}", 0, depth, drawn, 5, width_px=512, seed=0)
        assert focus_m[0] == drawn.focus_m and min(focus_m) > 0.9 and max(focus_m) < 9.1
        assert abs(1 / focus_m[-1] - 1 / focus_m[0]) > 0.25 * (1 / 1.3 - 1 / 8.5)
        for one in focus_m:
            radius = defocus_px(torch.from_numpy(depth), replace(lens, focus_m=one), px_per_mm(512)).abs()
            assert float(np.percentile(radius, 99.5)) < 31.01
        stopped += lens.f_number > drawn.f_number
    assert 0 < stopped < 12, "only where its way asks for it"


def test_a_focus_pull_that_cannot_be_is_named(pulled, tmp_path):
    for change, message in (
        ({"pulls": 3}, r"pulls must be in .0, num_sets = 2., got 3"),
        ({"pulls": 1, "num_frames": 1}, "a focus pull needs 2 frames"),
    ):
        with pytest.raises(RaytraceError, match=message):
            request(**change)
    shutil.copytree(pulled, tmp_path / "copy")
    scene = Scene(tmp_path / "copy", "room_00003")
    metadata = scene.read_metadata()
    for frames, message in (
        (metadata["sets"][1]["S_focus_frames"][:2], "S_focus_frames of 2 for 3 frames"),
        ([1.0, 2.0, 3.0], "S_focus must be the first of S_focus_frames"),
        ([metadata["sets"][1]["S_focus"], -1, 3], "focus_m must be"),
    ):
        metadata["sets"][1]["S_focus_frames"] = frames
        scene.metadata_path.write_text(json.dumps(metadata))
        with pytest.raises(InputError, match=message):
            scene.lens_sets()


def test_phase_6_holds_every_frame_against_its_own_focus(scene_project: Project):
    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    metadata = scene.read_metadata()
    one = metadata["sets"][0]
    one["S_focus_frames"] = [one["S_focus"]] * 18
    scene.metadata_path.write_text(json.dumps(metadata))
    assert scene_project.run(6) == 0, scene_project.text
    one["S_focus_frames"][4] *= 1.5
    scene.metadata_path.write_text(json.dumps(metadata))
    assert scene_project.run(6) == 3
    report = json.loads((scene_project.out / "validation_report.json").read_text())["scenes"]["tiny"]
    assert "set_00/focus_0004.npz" in json.dumps(report) and "focus_0003.npz" not in json.dumps(report)


def test_an_interrupted_scene_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.photographs.write.render_photograph", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_photographs(tmp_path, request(num_frames=1))
    assert list(tmp_path.iterdir()) == []


def test_the_traced_lens_has_the_drawn_lens_circle_of_confusion():
    drawn = Lens(f_m=0.135, f_number=2.0, focus_m=3.0)
    traced = traced_lens(drawn, 0.035)
    depth = torch.tensor([0.5, 1.0, 3.0, 8.0, 1000.0], dtype=torch.float64)
    assert (traced.f_m, traced.focus_m) == (0.035, 3.0)
    torch.testing.assert_close(coc_diameter(depth, traced), coc_diameter(depth, drawn))


def test_lenses_fill_the_range_of_radii_and_keep_below_its_end():
    rng = np.random.default_rng(1)
    largest = []
    for number in range(40):
        depth = np.concatenate([rng.uniform(1.5, 9, 4000), np.full(200, 0.9)]).astype(np.float32)
        lens = draw_photograph_lens(f"scene{number}", 0, depth, width_px=512, seed=0).lens
        largest.append(float(np.percentile(defocus_px(torch.from_numpy(depth), lens, px_per_mm(512)).abs(), 99.5)))
    assert max(largest) < 31.001
    assert np.histogram(largest, [0, 8, 16, 24, 32])[0].min() >= 3


def test_sets_of_a_scene_with_something_at_the_lens_are_stopped_down_to_radii_of_their_own():
    depth = np.concatenate([np.linspace(4, 9, 9700), np.full(300, 0.12)]).astype(np.float32)
    drawn = [draw_photograph_lens("close", number, depth, width_px=512, seed=0) for number in range(3)]
    radii = [float(defocus_px(torch.tensor([0.12]), one.lens, px_per_mm(512)).abs()) for one in drawn]
    assert all("stopped down" in (one.reason or "") for one in drawn)
    assert max(radii) < 31.001 and len({round(r, 2) for r in radii}) == 3


def test_splits_are_by_scene_and_by_family():
    requests = photograph_requests(48, 1, held_out=("nature",))
    splits = {family: [r.split for r in requests if r.family == family] for family in ("room", "street", "nature")}
    assert set(splits["nature"]) == {"test"}
    assert splits["room"] == (["train"] * 3 + ["val"] + ["train"] * 3 + ["test"]) * 2
    assert len({r.seed for r in requests} | {r.seed for r in photograph_requests(48, 2)}) == 96
    assert photograph_requests(5, 1) + photograph_requests(43, 1, first_scene=5) == requests
    demo = photograph_requests(3, families=("bear", "night"))
    assert [(one.scene_id, one.split) for one in demo] == [
        ("bear_00000", "train"),
        ("night_00001", "train"),
        ("bear_00002", "train"),
    ]
    assert {one.split for one in photograph_requests(2, families=("nature",))} == {"train"}, "nothing else to train on"
    for arguments, message in (
        ({"num_scenes": 0}, "num_scenes must be at least 1"),
        ({"num_scenes": 3, "seed": -1}, "seed must be >= 0"),
        ({"num_scenes": 3, "held_out": ("sea",)}, "held_out must be some of"),
        ({"num_scenes": 3, "held_out": ("room", "street", "nature")}, "and not all"),
        (
            {"num_scenes": 3, "families": ("room", "sea")},
            "families must be different ones of room, street, nature, bear",
        ),
        (
            {"num_scenes": 3, "families": ("room",), "held_out": ("nature",)},
            "held_out must be some of room and not all",
        ),
        ({"num_scenes": 3, "first_scene": -1}, "first_scene must be >= 0"),
        ({"num_scenes": 3, "blades": 2}, "blades must be 0"),
        ({"num_scenes": 3, "version": 9}, "version must be one of 1, 2, got 9"),
        ({"num_scenes": 3, "width": 100}, "multiples of 16"),
        ({"num_scenes": 3, "samples": 0}, "samples must be at least 1"),
    ):
        with pytest.raises(RaytraceError, match=message):
            photograph_requests(**arguments)


def test_the_contact_sheet_and_the_script(made, tmp_path, capsys):
    from scripts.make_photograph_scenes import main

    assert contact_sheet(made, ["room_00003", "absent"], tmp_path / "sheet.jpg") == 1
    arguments = ["--out_root", str(tmp_path / "out"), "--num_scenes", "1", "--width", "32", "--height", "16"]
    arguments += ["--num_frames", "1", "--num_sets", "1", "--samples", "1", "--workers", "1"]
    assert main([*arguments, "--dry_run"]) == 0 and not (tmp_path / "out").exists()
    assert main(arguments) == 0
    assert "1 written, 0 already there, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out" / "contact_sheet.jpg").exists()
    more = ["--families", "bear", "fence", "--blades", "5", "--first_scene", "7", "--version", "1", "--dry_run"]
    assert main([*arguments, *more]) == 0
    assert "fence_00007: val, 1 frames" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--width", "33"])
