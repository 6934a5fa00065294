"""Evaluation: figures that can be checked by hand from the files, baselines beside the network, and bad input."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_scenes import HEIGHT, NUM_FRAMES, WIDTH, shared_scenes

import model.weights
from model import evaluate, report
from model.bokehflow import VARIANTS, BokehFlow, LensBatch
from model.bokehflow.checkpoint import model_bytes
from model.bokehflow.measure import BASELINES, BLIND, HALF_MIX, NETWORK, NOISE, SHEET_COLUMNS, STATELESS, measure_clip
from model.bokehflow.measure import TRUE_DEPTH as HANDED_IN
from model.data.scene_manifest import find_scenes
from model.evaluation.baselines import lens_render
from model.evaluation.eval_clips import scene_clips, spread
from model.evaluation.scores import FRAME_CAP_DB, Tally, pool
from model.evaluation.visualize import colour_depth, sheet_png
from pipeline.measures import psnr_of_mse
from pipeline.media.images import read_picture
from pipeline.report.network import read_network

PLAIN, TRUE_DEPTH, PREDICTED = BASELINES


@pytest.fixture(scope="module")
def scenes() -> Path:
    return shared_scenes()


@pytest.fixture(autouse=True)
def no_cached_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def net() -> BokehFlow:
    torch.manual_seed(0)
    return BokehFlow(VARIANTS["demo"]).eval()


@pytest.fixture
def checkpoint(net: BokehFlow, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(net.config, net.state_dict(), 3, {"data": {"kind": "scenes"}}))
    return path


def stored(folder: Path, pattern: str) -> np.ndarray:
    return np.stack([read_picture(path)[0].astype(np.float64) / 255 for path in sorted(folder.glob(pattern))])


def test_the_report_agrees_with_the_files(scenes: Path, checkpoint: Path, net: BokehFlow, capsys):
    assert evaluate.main([str(checkpoint), "--data_root", str(scenes), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    found = json.loads((checkpoint.parent / "evaluation_test.json").read_text())
    scene = find_scenes(scenes, "test").scenes[0]
    folder = scenes / scene.scene_id
    sharp = stored(folder, "frames_sharp/*.png")
    truths = [stored(folder, f"bokeh_renders/set_{k:02d}/*.png") for k in range(2)]

    # the unchanged frame, straight from the files
    errors = np.concatenate([((sharp - truth) ** 2).mean((1, 2, 3)) for truth in truths])
    plain = found["scores"][PLAIN]
    assert plain["mse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert plain["psnr_db"] == pytest.approx(-10 * math.log10(errors.mean()), abs=1e-4)
    capped = [min(FRAME_CAP_DB, psnr_of_mse(float(e))) for e in errors]
    assert plain["psnr_frame_db"] == pytest.approx(np.mean(capped), abs=1e-3)
    flicker = [np.abs(np.diff(sharp, axis=0) - np.diff(truth, axis=0)).mean() for truth in truths]
    assert plain["temporal"] == pytest.approx(np.mean(flicker), rel=1e-4)

    # the network, frame by frame with its state
    errors, ratios = [], []
    for k, truth in enumerate(truths):
        lens = LensBatch.of(scene.sets[k].lens, scene.px_per_mm, scene.max_radius_px)
        state = None
        for t in range(NUM_FRAMES):
            with torch.no_grad():
                out, state = net(torch.from_numpy(sharp[t]).float().permute(2, 0, 1)[None], lens, state)
            errors.append(float(((out.bokeh[0].permute(1, 2, 0).double().numpy() - truth[t]) ** 2).mean()))
            depth = np.load(folder / f"depth_maps/depth_{t:04d}.npz")["depth"].astype(np.float64)
            guess = out.depth_m[0, 0].double().numpy()
            ratios.append(float((np.abs(guess - depth) / depth).mean()))
    ours = found["scores"][NETWORK]
    assert ours["mse"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert ours["abs_rel"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert 0 <= ours["delta1"] <= 1

    # true depth in the renderer that made the truth: only the rounding to 8 bits is left
    assert found["scores"][TRUE_DEPTH]["psnr_db"] > 55 > plain["psnr_db"]
    # and so is the untrained network's image when it is handed in
    assert found["scores"][HANDED_IN]["psnr_db"] > 50 and "abs_rel" not in found["scores"][HANDED_IN]
    blind = [found["scores"][name] for name in (*BLIND, HALF_MIX)]
    assert all(0 < row["psnr_db"] < found["scores"][TRUE_DEPTH]["psnr_db"] for row in blind)
    assert NOISE not in found["scores"] and found["groups"] == {}  # these are no traced photographs
    assert found["frames"] == 2 * NUM_FRAMES and set(found["takes"]) == {f"{scene.scene_id} set {k}" for k in range(2)}
    assert found["checkpoint"]["step"] == 3
    assert "against the unchanged frame" in said and "LPIPS is left out" in said and PREDICTED in said
    sheet = read_picture(checkpoint.parent / "evaluation_test.png")[0]
    assert sheet.shape[1] >= 4 * WIDTH and sheet.shape[0] >= 2 * HEIGHT


def test_max_frames_and_out_limit_and_move_the_results(scenes: Path, checkpoint: Path, tmp_path: Path):
    out = tmp_path / "results"
    args = [str(checkpoint), "--data_root", str(scenes), "--split", "val", "--max_frames", "2", "--out", str(out)]
    assert evaluate.main(args) == 0
    assert json.loads((out / "evaluation_val.json").read_text())["frames"] == 4


def test_without_a_checkpoint_it_is_the_one_that_comes_with_the_code(
    scenes: Path, checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    checkpoint.rename(tmp_path / model.weights.SHIPPED["bokehflow"])
    assert evaluate.main(["--data_root", str(scenes), "--max_frames", "1"]) == 0
    assert "network: the one that comes with the code" in capsys.readouterr().out
    found = json.loads((tmp_path / "runs" / "shipped" / "evaluation_test.json").read_text())
    assert found["checkpoint"]["path"] == str(tmp_path / "bokehflow_nano.safetensors")


def test_predicted_depth_is_the_networks(scenes: Path, net: BokehFlow):
    clip = scene_clips(find_scenes(scenes, "val"))[1]
    found = measure_clip(net, clip, device="cpu", max_frames=1).tallies[PREDICTED].sums["mse"]
    sample = clip.read(0)
    with torch.no_grad():
        out, _ = net(sample.frame[None], LensBatch.of(clip.lens, clip.px_per_mm, clip.max_radius_px))
    rendered = lens_render(sample.frame[None], out.depth_m, clip.lens, clip.px_per_mm, clip.max_radius_px)
    assert found == pytest.approx(float((rendered[0].double() - sample.bokeh.double()).square().mean()), rel=1e-6)


def test_photographs_without_depth(tmp_path: Path):
    from dataclasses import replace

    from test_model_data import write_pair

    write_pair(tmp_path, split="test")
    torch.manual_seed(0)
    net = BokehFlow(replace(VARIANTS["demo"], coc_model="thin_lens"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(net.config, net.state_dict(), 3, {"data": {"kind": "realbokeh"}}))
    assert evaluate.main([str(path), "--data_root", str(tmp_path), "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert report["frames"] == 2 and "abs_rel" not in report["scores"][NETWORK]
    assert report["scores"][TRUE_DEPTH]["mse"] is None  # nobody knows the depth
    assert report["scores"][PREDICTED]["psnr_db"] > 0


def test_identical_pictures_do_not_break_the_means():
    first, second = Tally(), Tally()
    for tally, error in ((first, 0.0), (second, 1e-3)):
        tally.add("mse", error)
        tally.add("psnr_frame_db", min(FRAME_CAP_DB, psnr_of_mse(error)))
    assert first.scores()["psnr_db"] is None and first.scores()["mse"] == 0 and first.scores()["psnr_frame_db"] == 60
    first.merge(second)
    assert first.scores()["psnr_db"] == pytest.approx(-10 * math.log10(5e-4))
    assert first.scores()["psnr_frame_db"] == pytest.approx(45)
    first.add("abs_rel", float("nan"))
    assert first.mean("abs_rel") is None
    assert pool([]) == {}


def test_depth_colours_and_the_sheet_of_examples(tmp_path: Path):
    near, far = colour_depth(np.full((2, 2), 0.5, np.float32)), colour_depth(np.full((2, 2), 1000.0, np.float32))
    assert near.sum() > 2 * far.sum()
    picture = np.zeros((30, 600, 3), np.uint8)
    rows = [("one", [picture] * 4), ("two", [picture[:, :100]] * 4)]
    (tmp_path / "sheet.png").write_bytes(sheet_png(rows, SHEET_COLUMNS))
    assert read_picture(tmp_path / "sheet.png")[0].shape[1] == 4 * (480 + 4)
    assert spread(list(range(10)), 4) == [0, 2, 5, 7] and spread([1, 2], 5) == [1, 2] and spread([1, 2], 0) == [1, 2]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--split", "dev"], 2, "split must be one of train, val, test"),
        (["--data_root", "nowhere"], 2, "no folder of generated scenes nowhere"),
        (["--max_frames", "-1"], 2, "--max_frames must be >= 0"),
        (["--vgg_weights", "absent.pth"], 0, ""),  # without the lpips package the weights are not looked at
        (["--kind", "realbokeh"], 2, "has no test/in"),
    ],
)
def test_wrong_flags_are_refused_with_what_is_allowed(
    scenes: Path, checkpoint: Path, tmp_path: Path, capsys, monkeypatch, args, code, message
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate.main([str(checkpoint), "--data_root", str(scenes), "--max_frames", "1", *args]) == code
    assert message in capsys.readouterr().err


def test_an_empty_split_and_a_damaged_checkpoint(scenes: Path, checkpoint: Path, tmp_path: Path, capsys):
    shutil.copytree(scenes, tmp_path / "output")
    for split in (tmp_path / "output").glob("*/split.txt"):
        split.write_text("train\n")
    assert evaluate.main([str(checkpoint), "--data_root", str(tmp_path / "output")]) == 2
    assert "no scene folder there has split 'test'" in capsys.readouterr().err
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    assert evaluate.main([str(checkpoint), "--data_root", str(scenes)]) == 1
    assert "truncated or damaged" in capsys.readouterr().err


def test_the_network_is_also_measured_without_its_state(scenes: Path, net: BokehFlow):
    """A dropped state is that of a first frame: equal on frame 0, and what a fresh call gives on the others."""
    clip = scene_clips(find_scenes(scenes, "val"))[1]
    one = measure_clip(net, clip, device="cpu", baselines=(), stateless=True, max_frames=1).tallies
    assert one[STATELESS].sums["mse"] == one[NETWORK].sums["mse"]
    three = measure_clip(net, clip, device="cpu", baselines=(), stateless=True, max_frames=3).tallies
    errors, logs = [], []
    for sample in clip.frames(3):
        with torch.no_grad():
            out, _ = net(sample.frame[None], LensBatch.of(clip.lens, clip.px_per_mm, clip.max_radius_px))
        errors.append(float((out.bokeh.clamp(0, 1)[0].double() - sample.bokeh.double()).square().mean()))
        logs.append(np.log(out.depth_m[0].double().numpy()) - np.log(sample.depth_m.double().numpy()))
    assert three[STATELESS].sums["mse"] == pytest.approx(sum(errors), rel=1e-5)
    changes = [np.abs(after - before).mean() for before, after in pairwise(logs)]  # this scene has no sky
    assert three[STATELESS].mean("depth_temporal") == pytest.approx(np.mean(changes), rel=1e-5)
    for name in ("mse", "temporal", "abs_rel", "depth_temporal"):
        assert three[STATELESS].sums[name] != three[NETWORK].sums[name]


def test_a_run_goes_onto_the_report_page(scenes: Path, net: BokehFlow, tmp_path: Path, capsys):
    """Curves, table and images of a run folder; the page's reader takes them without complaint."""
    run, out_root = tmp_path / "run", tmp_path / "output"
    folder = run / "checkpoints" / "step_000002"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(model_bytes(net.config, net.state_dict(), 2, {}))
    assert report.main([str(run), "--out_root", str(out_root)]) == 2
    assert "run: python -m model.evaluate" in capsys.readouterr().err
    assert evaluate.main([str(run), "--data_root", str(scenes), "--kind", "scenes", "--max_frames", "2"]) == 0
    assert report.main([str(run), "--out_root", str(out_root)]) == 2
    assert "must be the folder of a training run" in capsys.readouterr().err
    logged = [{"kind": "train", "step": step, "loss": 1 / (step + 1), "depth": 0.5} for step in (0, 1, 1, 2)]
    (run / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged) + '{"kind": "tr')
    applied = scenes / find_scenes(scenes, "test").scenes[0].scene_id / "frames_sharp"
    assert report.main([str(run), "--out_root", str(out_root), "--applied", str(applied)]) == 0
    found = read_network(out_root)
    assert found is not None and not found.problem and found.chart is not None
    assert [curve.name for curve in found.chart.curves] == ["total loss", "depth term"]
    methods = [*BASELINES, *BLIND, HALF_MIX, NETWORK, HANDED_IN]
    assert [row[0] for row in found.rows] == methods and found.strong == methods.index(NETWORK)
    psnr, error = found.columns.index("PSNR (dB)"), found.columns.index("temporal error")
    for column, best_of in ((psnr, max), (error, min)):
        figures = [float(row[column]) for row in found.rows if row[column] != "–"]
        marked = {float(found.rows[row][column]) for row, marked_column in found.best if marked_column == column}
        assert marked == {best_of(figures)}, "the best of each column is marked, whoever has it"
    assert ("Steps", "3") in found.facts and len(found.pictures) == 2
    assert report.main([str(run), "--out_root", str(out_root), "--applied", str(tmp_path)]) == 2
    assert "holds no images" in capsys.readouterr().err
