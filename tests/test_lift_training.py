"""LIFT's data, losses, training and evaluation."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lift import SMALL

from model import evaluate, train
from model.lift.config import LiftConfig, variant
from model.lift.evaluation import context_of, narrowed
from model.lift.layouts import dense, nearest, uniform
from model.lift.losses import LiftLoss, LiftLossWeights, census
from model.lift.network import LiftNet
from model.lift.overlays import draw_overlay
from model.lift.photographs import PhotographSettings
from model.lift.protocols import targets
from model.lift.samples import LiftSamples, SampleSettings, collate
from model.lift.scores import edge_sharpness, end_point_error, interpolation_error, ssim_volume
from model.lift.sequences import find_clips, find_motion
from model.lift.settings import LiftDataSettings
from model.lift.targets import spread, targets_of
from model.training.network_file import load_model, step_folders
from model.training.settings import load_settings, settings_from
from model.training.trainer import Trainer
from pipeline.errors import InputError, UsageError
from pipeline.media.images import encode_png
from pipeline.media.warping import backward_warp
from pipeline.signals import StopSignals

TINY = replace(variant("nano"), c1=4, c2=4, c4=8, c8=8, c16=8, dim=16, heads=2, layers=1, flow8=8, flow4=8, synthesis=4,
               refine=8, refine_blocks=1, refine_tail=4, choice=8, frames_before=3, frames_after=2)  # fmt: skip


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, height // 8 + 2, width // 8 + 2)))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (fine[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def write_pan(folder: Path, count: int, step: int = 2, size=(48, 64), seed: int = 0, name="{:05d}.png") -> Path:
    """A camera that pans: every frame shows the texture `step` px further right."""
    folder.mkdir(parents=True)
    wide = texture(size[0], size[1] + step * count, seed)
    for number in range(count):
        cut = np.ascontiguousarray(wide[:, step * number : step * number + size[1]])
        (folder / name.format(number)).write_bytes(encode_png(cut))
    return folder


def write_motion(root: Path, name: str, count: int = 7, step: int = 2, seed: int = 0) -> Path:
    """The same with exact flow, as docs/motion_scenes.md has it."""
    folder = write_pan(root / name, count, step, seed=seed, name="frame_{:04d}.png")
    (folder / "flow").mkdir()
    pairs = [(a, b) for a in range(count) for b in (a - 1, a + 1) if 0 <= b < count]
    x = np.arange(64)[None].repeat(48, 0)
    for a, b in pairs:
        flow = np.zeros((48, 64, 2), np.float16)
        flow[..., 0] = -step * (b - a)
        moved = x + flow[..., 0]
        np.savez(folder / "flow" / f"{a:04d}_{b:04d}.npz", flow=flow, occluded=(moved < 0) | (moved > 63))
    facts = {"format": "motion-clip", "version": 1, "clip_id": name, "phenomenon": "control", "num_frames": count}
    (folder / "clip.json").write_text(json.dumps({**facts, "flow_pairs": pairs}))
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lift")
    write_motion(root / "motion", "one")
    write_motion(root / "motion", "two", step=3, seed=1)
    write_pan(root / "clips" / "JPEGImages" / "pan", 7, seed=2)
    (root / "photographs").mkdir()
    for number in range(2):
        (root / "photographs" / f"{number}.png").write_bytes(encode_png(texture(80, 90, 5 + number)))
    return root


def samples(material: Path, photographs: float = 1.0, **change) -> LiftSamples:
    settings = SampleSettings(
        network=SMALL, crop=32, dense_share=0.3, any_t_share=0.5, jitter=False, photographs_share=photographs,
        motion=PhotographSettings(max_shift_px=6, light_share=0), seed=0,
    )  # fmt: skip
    files = sorted((material / "photographs").iterdir()) if photographs else []
    return LiftSamples(replace(settings, **change), find_motion(material / "motion"), files)


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_layouts_go_by_frame_numbers():
    layout = dense(8, 6)
    assert layout.numbers(8, 15) == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14], "the published one"
    assert layout.numbers(1, 4) == [None] * 7 + [0, 2, 3] + [None] * 4
    halves = uniform(2, 1)
    assert (halves.places, halves.offsets, halves.t) == ((-3, -1, 1), (-1.5, -0.5, 0.5), 0.5)
    quarter = uniform(1, 2, step=4, phase=1)
    assert (quarter.places, quarter.offsets, quarter.t) == ((-1, 3, 7), (-0.25, 0.75, 1.75), 0.25)
    assert nearest(dense(8, 6), 3, 3) == dense(3, 3)
    with pytest.raises(ValueError, match="phase must be in 1"):
        uniform(1, 1, step=4, phase=4)


def test_engines_get_the_same_frames_and_the_same_instant(material: Path):
    clip = find_motion(material / "motion")[0]
    for layout in (dense(2, 1), uniform(1, 2), uniform(1, 1, 4, 1)):
        sample = targets_of(clip, layout, first=3, every=99)[0].load()
        context = context_of(sample)
        assert context.t == pytest.approx(layout.t) and len(context.frames) == len(layout.places)
        near = max(n for n, offset in enumerate(layout.offsets) if offset < 0)
        assert np.array_equal(context.before, clip.read(3 + layout.places[near]))
        assert np.array_equal(context.after, clip.read(3 + layout.places[near + 1]))


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photographs", [0.0, 1.0], ids=["ray-traced", "photographs"])
def test_exact_flow_brings_the_neighbours_onto_the_target(material: Path, photographs: float):
    """Through crops, flips, reversals and any t; a wrong sign anywhere breaks it."""
    source, checked = samples(material, photographs), 0
    for number in range(24):
        sample = source[number]
        if sample.flow is None:
            continue
        offsets = sample.offsets.tolist()
        near = (offsets.index(max(o for o in offsets if o < 0)), offsets.index(min(o for o in offsets if o > 0)))
        assert offsets[near[0]] / (offsets[near[0]] - offsets[near[1]]) == pytest.approx(sample.t, abs=1e-5)
        for side, place in enumerate(near):
            back = backward_warp(sample.frames[place][None], sample.flow[None, 2 * side : 2 * side + 2])[0]
            error = (back - sample.target).abs().mean(0)[sample.visible[side] > 0.5]
            assert float(error.mean()) < 0.02, sample.name
        checked += 1
    assert checked >= 12


@pytest.mark.parametrize("photographs", [0.0, 1.0])
def test_a_caption_stands_still_over_everything(material: Path, photographs: float, monkeypatch: pytest.MonkeyPatch):
    plate = np.zeros((32, 32), np.float32)
    plate[12:20, 10:22] = 1  # in the middle: flips leave it
    monkeypatch.setattr("model.lift.samples.draw_overlay", lambda height, width, rng: (plate, [1.0, 0.5, 0.0]))
    captioned = samples(material, photographs, overlay_share=1.0, dense_share=1.0)[3]
    inside = (..., slice(12, 20), slice(10, 22))
    for picture in (*captioned.frames, captioned.target):
        assert torch.equal(picture[inside], torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 8, 12))
    assert float(captioned.flow[inside].abs().max()) == 0 and float(captioned.visible[inside].min()) == 1
    assert float(captioned.flow[..., :12, :].abs().max()) > 0.1, "around it everything moves"
    assert float((captioned.frames - captioned.target)[..., :12, :].abs().max()) > 0.05


def test_captions_fit_into_any_picture():
    rng = np.random.default_rng(0)
    for height, width in ((16, 16), (32, 96), (256, 160)) * 10:
        opacity, colour = draw_overlay(height, width, rng)
        assert opacity.shape == (height, width) and 0 <= opacity.min() <= opacity.max() <= 1
        assert 0 < (opacity > 0.5).mean() < 1 and len(colour) == 3 and 0 <= min(colour) <= max(colour) <= 1


def test_a_sample_is_its_number(material: Path):
    one, other = samples(material, 0.5, jitter=True), samples(material, 0.5, jitter=True)
    for number in (0, 5, 9):
        assert torch.equal(one[number].frames, other[number].frames) and one[number].name == other[number].name
    assert len({one[number].name for number in range(8)}) > 4
    assert not torch.equal(one[0].frames[0], samples(material, 0.5, jitter=True, seed=1)[0].frames[0])


def test_a_batch_fills_up_with_absent_frames(material: Path):
    source = samples(material)
    some = sorted((source[number] for number in range(30)), key=lambda sample: len(sample.frames))
    batch = collate([some[0], some[-1]])
    assert batch.frames.shape[1] == len(some[-1].frames) > len(some[0].frames)
    assert batch.present.sum(1).tolist() == [len(some[0].frames), len(some[-1].frames)]
    odd = replace(some[0], target=torch.zeros(3, 64, 64))
    with pytest.raises(InputError, match="one size"):
        collate([odd, some[0]])


def test_damaged_and_missing_clips_are_named(material: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="holds no moving scene; make some"):
        find_motion(tmp_path)
    with pytest.raises(UsageError, match="neither a folder of two pictures or more nor a video"):
        find_clips(tmp_path)
    (tmp_path / "list.txt").write_text("pan\nabsent\n")
    with pytest.raises(UsageError, match=r"1 of 2 clips are not in .*: absent"):
        find_clips(material / "clips" / "JPEGImages", tmp_path / "list.txt")
    folder = write_motion(tmp_path, "bad")
    (folder / "flow" / "0003_0002.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"0003_0002.npz is no flow"):
        find_motion(tmp_path)[0].flow(3, 2)
    with pytest.raises(InputError, match=r"bad is 64x48, smaller than data.crop = 128"):
        replaced = replace(samples(material).settings, crop=128)
        LiftSamples(replaced, find_motion(tmp_path), [])[0]
    (folder / "clip.json").write_text('{"format": "motion-clip", "version": 1, "num_frames": 7}')
    with pytest.raises(InputError, match=r"clip.json does not describe a clip"):
        find_motion(tmp_path)


# --- protocols --------------------------------------------------------------------------------------------------------


def test_protocols_read_the_published_lists(tmp_path: Path):
    for name in ("00001/0001", "00001/0002"):
        write_pan(tmp_path / "sequences" / name, 8, name="im{}.png")
    (tmp_path / "tri_testlist.txt").write_text("00001/0001\n\n")
    (tmp_path / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n")
    found = targets("triplet", tmp_path, None, SMALL)
    assert [(t.clip, t.number) for t in found] == [("00001/0001", 1)]
    four = targets("septuplet-uniform4", tmp_path, None, SMALL)
    assert [t.number for t in four] == [3, 3] and four[0].load().offsets.tolist() == [-1.5, -0.5, 0.5, 1.5]
    six = targets("septuplet-dense6", tmp_path, None, SMALL)[0].load()
    assert six.offsets.tolist() == [-3, -2, -1, 1, 2, 3]
    few = targets("septuplet-dense6", tmp_path, None, replace(SMALL, frames_before=1, frames_after=1))
    assert few[0].load().offsets.tolist() == [-1, 1]
    (tmp_path / "test-hard.txt").write_text(
        "data/SNU/sequences/00001/0001/im1.png 00001/0001/im3.png sequences/00001/0001/im5.png"
    )
    with pytest.raises(UsageError, match=r"none of the endings of 00001/0001/im3.png"):
        targets("snu-hard", tmp_path, None, SMALL)
    (tmp_path / "test-hard.txt").write_text(" ".join(f"data/SNU/sequences/00001/0001/im{n}.png" for n in (1, 3, 5)))
    hard = targets("snu-hard", tmp_path, None, SMALL)[0].load()
    assert torch.equal(hard.target, found[0].load().frames[1])
    assert len(targets("davis-quint", tmp_path / "sequences", None, SMALL)) == 4
    with pytest.raises(UsageError, match="needs its split file"):
        targets("snu-easy", tmp_path, None, SMALL)
    with pytest.raises(UsageError, match="--protocol must be one of folder, motion"):
        targets("vimeo", tmp_path, None, SMALL)


def test_x_test_measures_the_instants_that_were_trained(tmp_path: Path):
    write_pan(tmp_path / "Type1" / "TEST01", 33, step=1, size=(32, 32), name="{:04d}.png")
    found = targets("xtest", tmp_path, None, SMALL)
    assert [t.number for t in found] == [8, 12, 16, 20, 24] and found[0].load().t == 0.25
    assert [t.number for t in targets("xtest", tmp_path, None, replace(SMALL, t_min=0.5, t_max=0.5))] == [16]


def test_targets_lie_between_frames_and_know_whether_the_context_was_whole(material: Path):
    clip = find_clips(material / "clips")[0]
    found = targets_of(clip, uniform(2, 2), first=1, every=2)
    assert [(t.number, t.full) for t in found] == [(1, False), (3, True), (5, False)]
    assert found[0].load().offsets.tolist() == [-0.5, 0.5, 1.5]
    assert [t.number for t in spread(found, 1)] == [3] and len(spread(found, 0)) == 3


# --- figures ----------------------------------------------------------------------------------------------------------


def test_edges_are_as_steep_as_the_truth_says(material: Path):
    truth = torch.zeros(1, 3, 20, 30)
    truth[..., 15:] = 1
    assert edge_sharpness(truth, truth) == pytest.approx(1)
    assert edge_sharpness(truth * 0.6 + 0.2, truth) == pytest.approx(0.6)
    soft = torch.nn.functional.avg_pool2d(truth, (1, 5), 1, (0, 2), count_include_pad=False)
    assert edge_sharpness(soft, truth) == pytest.approx(0.4)  # a step of 1 over five pixels: 2/5 between next but one
    assert edge_sharpness(truth.roll(4, -1), truth) == pytest.approx(0)  # as steep, elsewhere
    assert edge_sharpness(1 - truth, truth) == pytest.approx(-1)  # as steep, the other way
    assert edge_sharpness(truth, torch.zeros_like(truth)) is None


def test_fewer_frames_are_the_nearest_ones():
    config = LiftConfig()
    assert narrowed(config, 0) == config
    for count, expected in ((2, (1, 1)), (6, (3, 3)), (7, (4, 3)), (13, (7, 6)), (14, (8, 6))):
        found = narrowed(config, count)
        assert (found.frames_before, found.frames_after) == expected
    with pytest.raises(UsageError, match="--context_frames must be 0 or 2 to 14, as trained, got 15"):
        narrowed(config, 15)


def test_the_volumetric_ssim_is_one_window_over_rows_columns_and_colours():
    x, y = torch.rand(2, 1, 3, 9, 12, generator=torch.Generator().manual_seed(0)).double()
    coordinates = torch.arange(-5, 6).double()
    line = torch.exp(-(coordinates**2) / (2 * 1.5**2))
    window = line[:, None, None] * line[None, :, None] * line[None, None, :]
    window = (window / window.sum())[None, None]

    def mean(volume):
        padded = torch.nn.functional.pad(volume[:, None], (5,) * 6, mode="replicate")
        return torch.nn.functional.conv3d(padded, window)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    slow = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim_volume(x, y) == pytest.approx(float(slow.mean()), abs=1e-9) and ssim_volume(x, x) == pytest.approx(1)
    with pytest.raises(ValueError, match="one size"):
        ssim_volume(x, y[..., 1:])


def test_errors_have_the_units_of_the_field():
    assert interpolation_error(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)) == pytest.approx(25.5)
    assert end_point_error(torch.zeros(2, 2, 2), torch.tensor([3.0, 4.0]).view(2, 1, 1).expand(2, 2, 2)) == 5


# --- losses and training ----------------------------------------------------------------------------------------------


def test_every_term_is_there_when_it_can_be_and_only_then(material: Path):
    source = samples(material)
    batch = collate([source[number] for number in range(2)])
    loss = LiftLoss(LiftLossWeights(perceptual=0, census=1, smoothness=1, warp=1, coarse=1, epe=1, occlusion=1))
    out = LiftNet(SMALL)(batch.frames, batch.offsets, batch.present, batch.t)
    terms, total = loss(out, batch)
    assert set(terms) == {"l1", "census", "smoothness", "warp", "coarse", "epe", "occlusion"}
    assert float(total.detach()) == pytest.approx(sum(float(v.detach()) for v in terms.values()), rel=1e-5)
    assert set(loss(out, replace(batch, known=torch.zeros(2, dtype=torch.bool)))[0]) == set(terms) - {
        "epe",
        "occlusion",
    }
    exact = replace(out, flows_s4=batch.flow[..., 2::4, 2::4] / 4, flows_s8=batch.flow[..., 4::8, 4::8] / 8)
    assert float(loss(exact, batch)[0]["epe"]) < 0.01 < float(terms["epe"].detach())
    assert float(census(batch.target, batch.target)) == 0 < float(census(batch.target, batch.frames[:, 0]))
    with pytest.raises(UsageError, match="there are no VGG-16 weights"):
        LiftLoss(LiftLossWeights(perceptual=0.1))


def test_st_lpips_is_a_term_with_its_weights_and_an_error_without(material: Path, tmp_path: Path):
    from test_st_lpips import written

    batch = collate([samples(material)[0]])
    out = LiftNet(SMALL)(batch.frames, batch.offsets, batch.present, batch.t)
    asked = LiftLossWeights(perceptual=0, st_lpips=0.3, st_lpips_weights=str(tmp_path))
    with pytest.raises(UsageError, match=r"loss.st_lpips is 0.3 and its weights are missing.*alex_shift_tolerant.pth"):
        LiftLoss(asked)
    distance, _ = written("alex", tmp_path)
    terms, total = LiftLoss(asked)(out, batch)
    expected = distance(out.raw * 2 - 1, batch.target * 2 - 1).mean()
    assert torch.allclose(terms["st_lpips"], expected) and float(expected.detach()) > 0
    assert torch.allclose(total, terms["l1"] + 0.3 * terms["st_lpips"])
    equal = LiftLoss(asked)(replace(out, raw=batch.target), batch)[0]
    assert float(equal["st_lpips"]) == 0
    with pytest.raises(UsageError, match="st_lpips_trunk must be one of alex, vgg, got 'squeeze'"):
        LiftLossWeights(st_lpips_trunk="squeeze")


def write_config(path: Path, material: Path, out_dir: Path, **run: object) -> Path:
    values = {"steps": 6, "batch_size": 2, "micro_batch_size": 2, "log_every": 1, "validate_every": 6, "save_every": 1}
    values |= {"out_dir": str(out_dir), "device": "cpu", "threads": 1, "val_targets": 2, **run}
    data = {"motion": str(material / "motion"), "photographs": str(material / "photographs"), "crop": 32}
    data |= {"val_videos": str(material / "clips"), "max_shift_px": 6.0, "workers": 1}
    sections = {
        "task": {"name": "lift"}, "model": {"variant": "nano", **{k: v for k, v in TINY.to_dict().items() if k != "dropout"}},
        "data": data, "loss": {"perceptual": 0.0, "epe": 0.02, "occlusion": 0.02},
        "optim": {"lr": 3e-3, "warmup_steps": 1}, "run": values,
    }  # fmt: skip
    lines = [f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in s.items()) for name, s in sections.items()]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def run(material: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert train.main(["--config", str(write_config(folder / "c.toml", material, folder / "run"))]) == 0
    return folder / "run"


def test_the_loss_falls_on_a_tiny_clip(material: Path):
    torch.manual_seed(0)
    source = samples(material, any_t_share=0.0)
    batch = collate([source[number] for number in range(2)])
    net, loss = LiftNet(SMALL).train(), LiftLoss(LiftLossWeights(perceptual=0, epe=0.02))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        total = loss(net(batch.frames, batch.offsets, batch.present, batch.t), batch)[1]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.75 * totals[0]


def test_a_stopped_run_goes_on_to_the_same_weights(run: Path, material: Path, tmp_path: Path, monkeypatch):
    config = write_config(tmp_path / "c.toml", material, tmp_path / "run")
    step = Trainer._step

    def signalling(self, at, stream):
        if at + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, at, stream)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "_step", signalling)
        assert train.main(["--config", str(config)]) == 75
    assert step_folders(tmp_path / "run")[-1][0] == 3
    assert train.main(["--config", str(config)]) == 0
    name = "checkpoints/step_000006/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_evaluation_has_the_baselines_and_the_notes(run: Path, material: Path, tmp_path: Path, capsys):
    given = [
        str(run),
        "--protocol",
        "motion",
        "--data_root",
        str(material / "motion"),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert evaluate.main([*given, "--max_targets", "1", "--baselines", "mean,flow"]) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "evaluation_test.json").read_text())
    assert set(found["scores"]) == {"lift", "mean", "flow"} and found["frames"] == 2
    row = found["scores"]["lift"]
    assert 0 < row["ssim_volume"] <= 1 and row["ie"] > 0 and row["epe_px"] >= 0 and row["psnr_disoccluded_db"] > 0
    assert "0 of 2 targets had the full context of 5 frames" in said, "seven frames, every second removed"
    assert found["groups"]["control"]["lift"]["psnr_frame_db"] > 0 and "against mean" in said
    assert 0.1 < row["edge_sharpness"] < 2
    assert evaluate.main([*given, "--max_targets", "1", "--baselines", "", "--context_frames", "2"]) == 0
    said, nearest_two = capsys.readouterr().out, json.loads((tmp_path / "evaluation_test.json").read_text())
    assert "2 of 2 targets had the full context of 2 frames" in said
    assert nearest_two["scores"]["lift"]["mse"] != row["mse"]
    assert (tmp_path / "evaluation_test.png").stat().st_size > 1000
    assert evaluate.main([*given, "--protocol", "triplet"]) == 2
    assert "needs its split file" in capsys.readouterr().err
    assert evaluate.main([*given, "--baselines", "guess"]) == 2
    assert "there is no interpolate engine 'guess'" in capsys.readouterr().err


def test_published_schedule_thaws_only_what_was_loaded(run: Path, material: Path, tmp_path: Path):
    """A pretrained encoder stands still at first; without weights nothing does, whatever the schedule."""
    fresh = Trainer(
        load_settings(write_config(tmp_path / "a.toml", material, tmp_path / "a"), ["optim.schedule=published"]),
        StopSignals(),
    )
    assert not fresh.task.stages()
    theirs = {f"net.{k}": v for k, v in load_model(run).net.state_dict().items() if k.startswith("encoder.")}
    theirs["net.encoder.last.0.weight"] = torch.zeros(3)
    save_file(theirs, tmp_path / "theirs.safetensors")
    config = write_config(tmp_path / "b.toml", material, tmp_path / "b", steps=50)
    given = [
        "optim.schedule=published",
        f"pretrained.weights='{tmp_path / 'theirs.safetensors'}'",
        "pretrained.mapping='net.='",
    ]
    task = Trainer(load_settings(config, given), StopSignals()).task
    assert task.describe()[-1] == "pretrained: 17 of 138 tensors matched, 13 of them in the encoder below full size"
    assert torch.equal(task.net.encoder.stages[0][0].weight, theirs["net.encoder.stages.0.0.weight"])
    stages = task.stages()
    assert [stage.first_step for stage in stages] == [0, 10, 12, 15, 18]
    frozen = [
        [
            n
            for n in (
                "encoder.last.0.weight",
                "encoder.stages.3.0.weight",
                "encoder.stages.1.0.weight",
                "encoder.stages.0.0.weight",
            )
            if s.frozen(n)
        ]
        for s in stages
    ]
    assert [len(names) for names in frozen] == [3, 2, 1, 1, 0], "s1 always trains"
    rates = {item.name: [item.rate(step) for step in (5, 20, 40)] for item in task.optimizers}
    assert rates["rest"] == pytest.approx([3e-3, 3e-3, 3e-4]) and rates["encoder"] == pytest.approx([3e-4] * 3)
    with pytest.raises(UsageError, match="none of the 18 tensors"):
        Trainer(load_settings(config, [*given, "pretrained.mapping='other.='"]), StopSignals())


def test_one_part_can_be_trained_alone(run: Path, material: Path, tmp_path: Path):
    config = write_config(tmp_path / "c.toml", material, tmp_path / "run", steps=2, init_from=str(run))
    assert train.main(["--config", str(config), "--set", "optim.only=choice."]) == 0
    before, after = (load_file(load_model(folder).path) for folder in (run, tmp_path / "run"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"choice"}
    with pytest.raises(UsageError, match="no parameter's name begins with 'mixer'"):
        Trainer(load_settings(config, ["optim.only=mixer"]), StopSignals())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "must name one of: motion, photographs, videos, scenes"),
        ({"data": {"motion": "m"}}, "val_motion and val_videos, or photographs"),
        ({"data": {"photographs": "p", "crop": 100}}, "data.crop must be a multiple of 32, got 100"),
        ({"data": {"photographs": "p"}, "model": {"variant": "huge"}}, "variant must be one of base, nano"),
        ({"data": {"photographs": "p"}, "model": {"layers": "3"}}, "model.layers must be of type int"),
        ({"data": {"photographs": "p"}, "optim": {"schedule": "steps"}}, "schedule must be one of cosine, published"),
        ({"data": {"photographs": "p"}, "loss": {"l1": 0.0}}, "loss.l1 must be > 0"),
        ({"data": {"photographs": "p"}, "pretrained": {"mapping": "a"}}, "pretrained.mapping must be"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(values, said: str):
    with pytest.raises(UsageError, match=said):
        settings_from({"task": {"name": "lift"}, **values})


def test_a_validation_clip_is_not_trained_on(material: Path, tmp_path: Path):
    config = write_config(tmp_path / "c.toml", material, tmp_path / "run")
    with pytest.raises(UsageError, match="clips of both training and validation: one"):
        Trainer(load_settings(config, [f"data.val_motion='{material / 'motion'}'"]), StopSignals())


@pytest.mark.parametrize(
    "path", sorted((Path(train.__file__).parent / "configs").glob("lift_*.toml")), ids=lambda p: p.stem
)
def test_shipped_configs_are_whole(path: Path):
    settings = load_settings(path)
    assert settings.task == "lift" and isinstance(settings.data, LiftDataSettings)


def test_published_weights_carry_the_config(run: Path):
    loaded = load_model(run)
    assert loaded.family == "lift" and loaded.net.config == replace(TINY, dropout=0.0)
    assert "encoder.last.0.weight" in load_file(loaded.path)
