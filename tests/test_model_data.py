"""Loaders: samples that follow from (seed, number) alone, labels that fit their images, and every kind of bad input."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_scenes import HEIGHT, NUM_FRAMES, WIDTH, shared_scenes
from PIL import Image
from torch.utils.data import DataLoader

from model.data.focus_dataset import FocusDataset
from model.data.loaders import BatchPlan, batches
from model.data.realbokeh import RealBokehDataset, find_pairs, photograph_px_per_mm
from model.data.roi import choose_box, saliency
from model.data.samples import collate
from model.data.sampling import ClipSettings, draw_window, item_of, sample_rng
from model.data.scene_manifest import SceneManifest, find_scenes
from model.data.scenes import ClipDataset, read_bokeh, read_depth, read_frame
from pipeline.errors import InputError, UsageError
from pipeline.media.depth_files import encode_npz
from pipeline.optics import focus_map

SMALL = ClipSettings(clip_frames=2, crop_width=32, crop_height=24, seed=3)


@pytest.fixture(scope="module")
def finished() -> Path:
    return shared_scenes()


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(finished, tmp_path / "output")
    return tmp_path / "output"


@pytest.fixture
def manifest(finished: Path) -> SceneManifest:
    return find_scenes(finished, "train")


def change_lens(scene: Path, **values: object) -> None:
    metadata = json.loads((scene / "metadata.json").read_text())
    metadata["sets"][1] |= values
    (scene / "metadata.json").write_text(json.dumps(metadata))


def the_scene(out: Path, split: str = "train") -> Path:
    return next(path.parent for path in sorted(out.glob("*/split.txt")) if path.read_text().strip() == split)


# --- which scenes -----------------------------------------------------------------------------------------------------


def test_each_split_has_its_scenes_with_what_metadata_says(finished: Path):
    found = [find_scenes(finished, split) for split in ("train", "val", "test")]
    assert [len(c.scenes) for c in found] == [1, 1, 1]
    assert len({c.scenes[0].scene_id for c in found}) == 3
    scene = found[0].scenes[0]
    metadata = json.loads((finished / scene.scene_id / "metadata.json").read_text())
    assert (scene.num_frames, scene.width, scene.height) == (NUM_FRAMES, WIDTH, HEIGHT)
    assert scene.px_per_mm == metadata["px_per_mm"] == pytest.approx(WIDTH / 36)
    assert scene.max_radius_px == metadata["max_radius_px"]
    assert [item.lens.f_m for item in scene.sets] == [item["f"] for item in metadata["sets"]]
    assert "1 scenes, 12 images" in found[0].describe() and "skipped" not in found[0].describe()


@pytest.mark.parametrize("folder", ["frames_sharp", "depth_maps", "focus_maps", "bokeh_renders"])
def test_a_scene_without_a_done_record_is_skipped_with_the_reason(out: Path, folder: str):
    scene = the_scene(out)
    shutil.copytree(the_scene(out, "val"), out / "more")
    (out / "more" / "split.txt").write_text("train\n")
    (scene / folder / ".done").unlink()
    found = find_scenes(out, "train")
    assert [item.scene_id for item in found.scenes] == ["more"]
    assert found.skipped == {scene.name: f"{folder} is not finished (no .done)"}
    assert "1 skipped" in found.describe() and folder in found.describe()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda s: (s / "bokeh_renders/set_01/bokeh_0003.png").unlink(), "bokeh_0003.png is missing behind .done"),
        (lambda s: (s / "depth_maps/.done").write_text(""), "is empty"),
        (lambda s: (s / "metadata.json").unlink(), "there is no"),
        (lambda s: (s / "metadata.json").write_text('{"sets": []}'), "num_frames"),
        (lambda s: change_lens(s, N=0), "f_number must be finite and > 0, got 0"),
        (lambda s: change_lens(s, f=None), "in sets; each needs f, N, S_focus, max_coc"),
    ],
)
def test_an_empty_split_is_an_error_with_the_reasons(out: Path, damage, reason: str):
    damage(the_scene(out))
    with pytest.raises(UsageError, match="the train split of") as caught:
        find_scenes(out, "train")
    assert reason in str(caught.value)


def test_unknown_splits_missing_roots_and_mixed_lens_models_are_refused(out: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="split must be one of train, val, test, got 'dev'"):
        find_scenes(out, "dev")
    with pytest.raises(UsageError, match="no folder of generated scenes"):
        find_scenes(tmp_path / "absent", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no scene folder there has split 'train'"):
        find_scenes(tmp_path / "empty", "train")
    with pytest.raises(UsageError, match=r"frames are 80x48, smaller than the 96x32 crop"):
        find_scenes(out, "train", min_size=(96, 32))
    with pytest.raises(UsageError, match="6 frames, clips need 7"):
        find_scenes(out, "train", min_frames=7)
    with pytest.raises(UsageError, match=r"never mix"):
        find_scenes(out, "train", coc_model="thin_lens")
    (the_scene(out) / "split.txt").write_text("something else")
    with pytest.raises(UsageError, match=r"split\.txt holds no split"):
        find_scenes(out, "train")


# --- clips ------------------------------------------------------------------------------------------------------------


def test_a_clip_is_its_window_of_the_stored_files(manifest: SceneManifest):
    dataset = ClipDataset(manifest, SMALL)
    seen_mirrored = set()
    for number in range(8):
        choice, clip = dataset.choose(number), dataset[number]
        scene, window = choice.scene, choice.window
        seen_mirrored.add(window.mirrored)
        for t in range(2):
            frame = choice.first_frame + t
            area = np.s_[:, window.top : window.top + 24, window.left : window.left + 32]
            for got, full in (
                (clip.frames[t], read_frame(scene, frame)),
                (clip.bokeh[t], read_bokeh(scene, choice.set_index, frame)),
                (clip.depth_m[t], read_depth(scene, frame)),
            ):
                assert torch.equal(got, full[area].flip(-1) if window.mirrored else full[area])
        assert clip.px_per_mm == pytest.approx(WIDTH / 36)  # the full frame's, not the crop's
        assert clip.lens == scene.sets[choice.set_index].lens
        assert clip.name == choice.name and scene.scene_id in clip.name and f"set {choice.set_index}" in clip.name
    assert seen_mirrored == {True, False}


def test_an_epoch_shows_every_scene_and_set_once_in_another_order(out: Path):
    for number, source in enumerate(("val", "test")):
        shutil.copytree(the_scene(out, source), out / f"more{number}")
        (out / f"more{number}" / "split.txt").write_text("train\n")
    dataset = ClipDataset(find_scenes(out, "train"), SMALL)
    assert len(dataset) == 6
    orders = []
    for epoch in range(4):
        shown = [dataset.choose(epoch * 6 + i) for i in range(6)]
        orders.append([(c.scene.scene_id, c.set_index) for c in shown])
        assert len(set(orders[-1])) == 6
    assert len({tuple(order) for order in orders}) > 1


def test_samples_follow_from_seed_and_number(manifest: SceneManifest):
    first, second = ClipDataset(manifest, SMALL), ClipDataset(manifest, SMALL)
    forward = [first[n].name for n in range(6)]
    assert [second[n].name for n in reversed(range(6))] == forward[::-1]
    other = ClipDataset(manifest, ClipSettings(clip_frames=2, crop_width=32, crop_height=24, seed=4))
    assert [other[n].name for n in range(6)] != forward


def test_drawn_windows_fill_the_frame():
    settings = ClipSettings(clip_frames=1, crop_width=5, crop_height=3)
    windows = [draw_window(sample_rng(0, n), settings, 8, 4) for n in range(200)]
    assert {w.left for w in windows} == {0, 1, 2, 3} and {w.top for w in windows} == {0, 1}
    assert 60 < sum(w.mirrored for w in windows) < 140
    full = draw_window(sample_rng(0, 0), ClipSettings(clip_frames=1, crop_width=0, crop_height=0), 8, 4)
    assert (full.left, full.top, full.width, full.height) == (0, 0, 8, 4)
    with pytest.raises(IndexError, match="start at 0"):
        item_of(0, -1, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_frames": 0}, "clip_frames must be at least 1"),
        ({"crop_width": -8}, "must both be > 0"),
        ({"crop_height": 0}, "or both 0 for full frames"),
    ],
)
def test_impossible_clip_settings_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        ClipSettings(**values)


def test_frames_smaller_than_the_patch_and_scenes_shorter_than_the_clip(manifest: SceneManifest):
    with pytest.raises(UsageError, match=r"6 frames of 80x48; a sample needs 4 of 96x32"):
        ClipDataset(manifest, ClipSettings(crop_width=96, crop_height=32))
    with pytest.raises(UsageError, match=r"a sample needs 7 of 32x32"):
        ClipDataset(manifest, ClipSettings(clip_frames=7, crop_width=32, crop_height=32))


@pytest.mark.parametrize("fault", ["gone", "torn", "size", "nan", "zero", "folder"])
def test_files_that_go_bad_during_training_are_named(out: Path, fault: str):
    dataset = ClipDataset(find_scenes(out, "train"), SMALL)
    scene = the_scene(out)
    if fault == "folder":
        shutil.rmtree(scene)
    for t in range(NUM_FRAMES):
        depth, frame = scene / f"depth_maps/depth_{t:04d}.npz", scene / f"frames_sharp/frame_{t:04d}.png"
        if fault == "gone":
            frame.unlink()
        elif fault == "torn":
            frame.write_bytes(frame.read_bytes()[:-30])
        elif fault == "size":
            Image.new("RGB", (WIDTH, HEIGHT - 16)).save(frame)
        elif fault in ("nan", "zero"):
            values = np.full((HEIGHT, WIDTH), 2, np.float16)
            values[5] = np.nan if fault == "nan" else 0
            depth.write_bytes(encode_npz("depth", values))
    with pytest.raises(InputError, match=r"sample 5 \(scene\d set \d frames \d-\d 32x24") as caught:
        dataset[5]
    wanted = {"nan": "80 values that are not finite and > 0", "zero": "80 values", "size": "80x32, metadata.json says"}
    assert wanted.get(fault, "frame_000") in str(caught.value)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_ranks_share_a_step_without_overlap_whatever_their_number():
    for processes, micro in ((1, 8), (1, 2), (2, 2), (4, 2), (2, 4)):
        plans = [
            BatchPlan(batch_size=8, micro_batch_size=micro, rank=r, num_processes=processes) for r in range(processes)
        ]
        dealt = [number for plan in plans for chunk in plan.numbers(3) for number in chunk]
        assert dealt == list(range(24, 32))
        assert all(len(plan.numbers(3)) == plan.micro_batches for plan in plans)
    with pytest.raises(UsageError, match="must be a multiple of micro_batch_size times the number of processes"):
        BatchPlan(batch_size=6, micro_batch_size=2, num_processes=2)
    with pytest.raises(UsageError, match="must be >= 1"):
        BatchPlan(batch_size=0, micro_batch_size=2)


def test_batches_are_the_samples_in_order_for_any_number_of_threads_and_any_start(manifest: SceneManifest):
    dataset = ClipDataset(manifest, SMALL)
    plan = BatchPlan(batch_size=4, micro_batch_size=2)
    expected = [dataset[n].name for n in range(12)]
    for workers in (1, 3):
        found = list(batches(dataset, collate, plan, 0, 3, workers))
        assert [name for batch in found for name in batch.names] == expected
    resumed = list(batches(dataset, collate, plan, 2, 3, 1))
    assert [name for batch in resumed for name in batch.names] == expected[8:]
    one = found[0]
    assert one.frames.shape == (2, 2, 3, 24, 32) and one.depth_m.shape == (2, 2, 1, 24, 32)
    assert torch.equal(one.frames[1], dataset[1].frames)
    assert one.f_m[1].item() == pytest.approx(dataset[1].lens.f_m) and one.f_m.dtype == torch.float32
    assert len(one) == 2 and one.num_frames == 2 and one.to("cpu").names == one.names


def test_a_failing_sample_fails_its_batch_and_no_earlier_one(manifest: SceneManifest):
    inner = ClipDataset(manifest, SMALL)

    class Source:
        def __len__(self) -> int:
            return len(inner)

        def __getitem__(self, number: int):
            if number == 5:
                raise InputError("sample 5 is broken")
            return inner[number]

    found = batches(Source(), collate, BatchPlan(batch_size=2, micro_batch_size=2), 0, 9, 2)
    assert len(next(found)) == len(next(found)) == 2
    with pytest.raises(InputError, match="sample 5 is broken"):
        next(found)


def test_clips_of_unlike_size_or_depth_make_no_batch(manifest: SceneManifest):
    small = ClipDataset(manifest, SMALL)[0]
    large = ClipDataset(manifest, ClipSettings(clip_frames=2, crop_width=40, crop_height=24))[0]
    with pytest.raises(InputError, match="must agree in size and depth"):
        collate([small, large])


# --- focus estimation -------------------------------------------------------------------------------------------------


def test_focus_samples_hold_everything_and_pass_their_own_check(manifest: SceneManifest):
    dataset = FocusDataset(manifest, roi="random", verify=True)
    assert len(dataset) == NUM_FRAMES * 2
    sample = dataset[7]
    scene = manifest.scenes[0]
    assert sample["name"] == f"{scene.scene_id} set 1 frame 1"
    assert torch.equal(sample["frame"], read_frame(scene, 1))
    assert torch.equal(sample["bokeh"], read_bokeh(scene, 1, 1))
    recomputed = focus_map(sample["depth_m"], scene.sets[1].lens, scene.sets[1].max_coc_m)
    assert torch.equal(sample["focus_map"], recomputed.half().float())
    assert sample["f_number"].item() == pytest.approx(scene.sets[1].lens.f_number)
    assert sample["px_per_mm"].item() == pytest.approx(WIDTH / 36)
    left, top, right, bottom = sample["roi"].tolist()
    assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["focus_map"].shape == (3, 1, HEIGHT, WIDTH) and batch["roi"].shape == (3, 4)


def test_verify_finds_a_label_that_is_not_its_depths(out: Path):
    path = the_scene(out) / "focus_maps/set_00/focus_0002.npz"
    stored = np.load(path)["focus_map"]
    stored[3, 4] = np.float16(0.123)
    path.write_bytes(encode_npz("focus_map", stored))
    manifest = find_scenes(out, "train")
    assert FocusDataset(manifest, roi="full")[2]["roi"].tolist() == [0, 0, WIDTH, HEIGHT]
    with pytest.raises(InputError, match=r"focus_0002.npz is not the focus map of its depth and lens: 1 pixels differ"):
        FocusDataset(manifest, verify=True)[2]
    path.write_bytes(encode_npz("focus_map", stored[:-1]))
    with pytest.raises(InputError, match="must be float16"):
        FocusDataset(manifest)[2]


def test_boxes_are_the_same_in_an_epoch_and_others_in_the_next(manifest: SceneManifest):
    first, second = FocusDataset(manifest), FocusDataset(manifest)
    assert [first[i]["roi"].tolist() for i in range(4)] == [second[i]["roi"].tolist() for i in range(4)]
    second.set_epoch(1)
    assert [first[i]["roi"].tolist() for i in range(4)] != [second[i]["roi"].tolist() for i in range(4)]
    with pytest.raises(UsageError, match="roi must be one of full, random, saliency, got 'centre'"):
        FocusDataset(manifest, roi="centre")


def test_a_saliency_box_holds_what_stands_out():
    rng = np.random.default_rng(0)
    frame = np.full((90, 160, 3), 120, np.uint8)
    frame += rng.integers(0, 3, frame.shape, dtype=np.uint8)
    frame[50:66, 100:124] = (230, 40, 30)
    assert saliency(frame).shape == (90, 160)
    hits = 0
    for seed in range(10):
        left, top, right, bottom = choose_box("saliency", frame, np.random.default_rng(seed))
        hits += left <= 112 < right and top <= 58 < bottom
        assert 0.15 * 160 <= right - left <= 0.65 * 160
    assert hits == 10
    flat = np.full((40, 60, 3), 9, np.uint8)
    assert saliency(flat).max() == 0
    left, top, right, bottom = choose_box("saliency", flat, rng)
    assert right > left and bottom > top


# --- RealBokeh --------------------------------------------------------------------------------------------------------


def write_pair(
    root: Path, scene_id: str = "7", apertures=(2.0, 4.5), size=(64, 48), exif=None, split: str = "train", **metadata
) -> Path:
    """A pair as the data set lays it out."""
    folder = root / split
    for name in ("in", f"gt/{scene_id}", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(scene_id))
    for path in (
        folder / "in" / f"{scene_id}_f22.JPG",
        *(folder / "gt" / scene_id / f"{scene_id}_f{n:.1f}.JPG" for n in apertures),
    ):
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        image.save(path, "JPEG", **({"exif": exif} if exif else {}))
    values = {"focal_length": 50, "focus_plane_distance": 1.8, "target_avs": list(apertures), **metadata}
    (folder / "metadata" / f"{scene_id}.json").write_text(json.dumps(values))
    return folder


CROP = ClipSettings(clip_frames=1, crop_width=32, crop_height=24)


def test_real_pairs_are_read_as_thin_lenses_without_depth(tmp_path: Path):
    write_pair(tmp_path)
    write_pair(tmp_path, "12", apertures=(1.4,), focus_plane_distance="240 cm")
    found = find_pairs(tmp_path, "train")
    assert [pair.name for pair in found.pairs] == ["7 f/2", "7 f/4.5", "12 f/1.4"] and not found.skipped
    assert found.pairs[2].lens.focus_m == pytest.approx(2.4)
    dataset = RealBokehDataset(found, CROP)
    shown = [dataset[number] for number in range(len(dataset))]
    assert sorted(clip.name.split(" ")[0] for clip in shown) == ["12", "7", "7"]
    clip = shown[0]
    assert clip.lens.coc_model == "thin_lens" and clip.depth_m is None and clip.max_radius_px == math.inf
    assert clip.frames.shape == clip.bokeh.shape == (1, 3, 24, 32)
    assert clip.px_per_mm == pytest.approx(64 / 36)
    assert collate(shown).depth_m is None
    assert dataset[4].name == RealBokehDataset(found, CROP)[4].name


def test_exif_knows_smaller_sensors(tmp_path: Path):
    exif = Image.Exif()
    exif[0x8769] = {0x920A: 35.0, 0xA405: 56}
    folder = write_pair(tmp_path, exif=exif)
    path = folder / "in" / "7_f22.JPG"
    assert photograph_px_per_mm(path) == pytest.approx(64 / (36 * 35 / 56))
    clip = RealBokehDataset(find_pairs(tmp_path, "train"), CROP)[0]
    assert clip.px_per_mm == pytest.approx(64 / 22.5)


def test_a_camera_held_upright_keeps_its_pixels_per_millimetre(tmp_path: Path):
    write_pair(tmp_path, size=(48, 64))
    clip = RealBokehDataset(find_pairs(tmp_path, "train"), CROP)[0]
    assert clip.px_per_mm == pytest.approx(64 / 36)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"focal_length": "fifty"}, "needs focal_length in mm"),
        ({"focus_plane_distance": 0}, "focus_plane_distance"),
        ({"focus_plane_distance": "2 feet"}, "unit 'feet'"),
        ({"focus_plane_distance": 0.04}, "focuses only beyond its focal length"),
        ({"target_avs": 2.0}, "target_avs"),
        ({"target_avs": [8.0]}, "no photograph in"),
    ],
)
def test_real_pairs_that_cannot_be_used_are_skipped_with_the_reason(tmp_path: Path, metadata, reason: str):
    write_pair(tmp_path, **metadata)
    with pytest.raises(UsageError, match="has no pair that can be used") as caught:
        find_pairs(tmp_path, "train")
    assert reason in str(caught.value)
    write_pair(tmp_path, "8")
    found = find_pairs(tmp_path, "train")
    assert len(found.pairs) == 2 and len(found.skipped) >= 1 and "2 RealBokeh pairs; " in found.describe()


def test_real_photographs_refuse_missing_splits_and_longer_clips(tmp_path: Path):
    folder = write_pair(tmp_path)
    with pytest.raises(UsageError, match="splits there are: train"):
        find_pairs(tmp_path, "test")
    found = find_pairs(tmp_path, "train")
    with pytest.raises(UsageError, match="clip_frames must be 1"):
        RealBokehDataset(found, ClipSettings())
    with pytest.raises(InputError, match="smaller than the 80x24 crop"):
        RealBokehDataset(found, ClipSettings(clip_frames=1, crop_width=80, crop_height=24))[0]
    for path in (folder / "gt" / "7").iterdir():
        Image.new("RGB", (60, 48)).save(path, "JPEG")
    with pytest.raises(InputError, match=r"is 60x48, .* 64x48"):
        RealBokehDataset(found, CROP)[0]
    (folder / "metadata" / "7.json").unlink()
    with pytest.raises(UsageError, match=r"7.json cannot be read: No such file"):
        find_pairs(tmp_path, "train")
