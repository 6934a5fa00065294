"""The page to look at before confirming: pictures are phase 5's, the confirmation is phase 4's, only its owner gets in."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
import torch
from conftest import Project

from model.bokehflow import VARIANTS, BokehFlow
from model.bokehflow.checkpoint import model_bytes
from pipeline.__main__ import main
from pipeline.engines.trained import TrainedNetwork
from pipeline.errors import InputError, PipelineError, UsageError
from pipeline.media.depth_files import read_depth
from pipeline.media.images import read_sharp
from pipeline.optics import Lens, px_per_mm
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import Scene, calibration_path
from pipeline.view import workbench
from pipeline.view.dataset import Dataset
from pipeline.view.memo import Memo
from pipeline.view.panels import count, depth_at, focus_map_of, photograph, shrink
from pipeline.view.server import ViewServer
from pipeline.view.settings import Look, ViewSettings
from pipeline.view.workbench import Workbench

QUERY = {"scene": "tiny", "frame": "3", "f_number": "2", "focal_mm": "50", "focus_m": "2", "max_coc_m": "0.001"}


def dataset_of(project: Project) -> Dataset:
    return Dataset(RunSettings(raw_root=project.raw, out_root=project.out, logs=project.logs))


def bench_of(project: Project, long_side_px: int = 64) -> Workbench:
    return Workbench(dataset_of(project), ViewSettings(long_side_px=long_side_px, device="cpu"))


def test_at_full_size_the_photograph_and_the_map_are_those_of_phase_5(tiny_stages: Path):
    scene = Scene(tiny_stages / "5" / "output", "tiny")
    for number, used in enumerate(scene.lens_sets()):
        sharp, depth = read_sharp(scene.sharp_path(4)), read_depth(scene.depth_path(4))
        preview = shrink(sharp, depth, 480, 36.0)
        focus = focus_map_of(preview, used.lens, used.max_coc_m)
        with np.load(scene.focus_path(number, 4)) as stored:
            assert np.array_equal(focus, stored["focus_map"])
        made = photograph(preview, focus, used.lens, used.max_coc_m, saturate=True)
        assert np.array_equal(made, read_sharp(scene.bokeh_path(number, 4)))


def test_a_preview_is_the_same_lens_in_fewer_pixels():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (96, 160, 3), np.uint8)
    depth = rng.uniform(1, 9, (96, 160)).astype(np.float16)
    small = shrink(sharp, depth, 80, 36.0)
    assert small.sharp.shape == (48, 80, 3) and small.depth.shape == (48, 80)
    assert small.px_per_mm == px_per_mm(80) and small.full_px_per_mm == px_per_mm(160)
    assert np.isin(small.depth, depth).all(), "no depth between two surfaces"
    assert np.abs(small.sharp.mean() - sharp.mean()) < 1
    same = shrink(sharp, depth, 160, 36.0)
    assert same.sharp is sharp and same.depth is depth
    with pytest.raises(InputError, match="160x96 and its depth 80x48"):
        shrink(sharp, small.depth, 64, 36.0)


def test_without_saturation_the_lens_has_no_limit():
    rng = np.random.default_rng(1)
    sharp = cv2.GaussianBlur(rng.integers(0, 255, (48, 80, 3), np.uint8), (0, 0), 0.7)
    preview = shrink(sharp, np.full((48, 80), 8, np.float16), 80, 36.0)
    lens = Lens(f_m=0.1, f_number=1.4, focus_m=2.0)
    focus = focus_map_of(preview, lens, 4e-4)
    held = photograph(preview, focus, lens, 4e-4, saturate=True)
    free = photograph(preview, focus, lens, 4e-4, saturate=False)
    assert free.std() < 0.7 * held.std() < held.std() < sharp.std() * 1.01


def test_what_is_counted_belongs_to_the_frame_at_full_size():
    depth = np.full((96, 160), 4, np.float16)
    depth[:24] = 2
    lens = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)  # 0.3125 mm at 4 m
    preview = shrink(np.zeros((96, 160, 3), np.uint8), depth, 80, 36.0)
    found = count(preview, focus_map_of(preview, lens, 6.25e-4), lens, 6.25e-4)
    assert found.radius_max_px == pytest.approx(0.3125 / 2 * 160 / 36, rel=1e-3)
    assert (found.blurred, found.saturated) == (0, 0) and found.mean_focus == pytest.approx(0.625, abs=1e-3)
    assert count(preview, focus_map_of(preview, lens, 3e-4), lens, 3e-4).saturated == 0.75


def test_depth_under_a_click():
    depth = np.arange(1, 13, dtype=np.float16).reshape(3, 4)
    places = ((0, 0, 1), (0.99, 0.0, 4), (0.49, 0.5, 6), (1, 1, 12), (-3, 7, 9))
    assert [depth_at(depth, across, down) for across, down, _ in places] == [wanted for *_, wanted in places]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"f_number": "0"}, "f_number must be from 0.5 to 64, got 0"),
        ({"focal_mm": "wide"}, "focal_mm must be a number, got 'wide'"),
        ({"focus_m": "nan"}, "focus_m must be from 0.01 to 1000, got nan"),
        ({"max_coc_m": "1"}, "max_coc_m must be from 1e-06 to 0.05, got 1"),
        ({"frame": "1.5"}, "frame must be a whole number, got '1.5'"),
        ({"frame": "nan"}, "frame must be a whole number, got 'nan'"),
        ({"scene": ""}, "scene is missing"),
    ],
)
def test_a_look_that_cannot_be(change: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        Look.from_query(QUERY | change)


def test_scenes_and_frames_that_are_not_there(scene_project: Project):
    scene_project.run_upto(3)
    bench = bench_of(scene_project)
    with pytest.raises(UsageError, match=r"there is no scene '\.\./tiny' to look at; there are: tiny"):
        bench.picture("sharp", "../tiny", 0)
    with pytest.raises(UsageError, match=r"frame must be in \[0, 17\] for tiny, got 18"):
        bench.picture("sharp", "tiny", 18)
    Scene(scene_project.out, "tiny").depth_path(2).write_bytes(b"no depth")
    with pytest.raises(InputError, match=r"depth_0002\.npz is not a readable npz"):
        bench.picture("depth", "tiny", 2)


def test_a_move_makes_anew_only_what_depends_on_it(scene_project: Project, monkeypatch: pytest.MonkeyPatch):
    scene_project.run_upto(4)
    made: list[str] = []
    for name in ("shrink", "focus_map_of", "photograph"):
        kept = getattr(workbench, name)
        monkeypatch.setattr(
            workbench, name, lambda *args, _name=name, _kept=kept, **more: (made.append(_name), _kept(*args, **more))[1]
        )
    bench = bench_of(scene_project)

    def all_panels(**change: str) -> list[str]:
        made.clear()
        look = Look.from_query(QUERY | change)
        bench.picture("depth", look.scene, look.frame)
        for kind in ("focus", "render"):
            bench.looked(kind, look)
        bench.counted(look)
        return list(made)

    assert all_panels() == ["shrink", "focus_map_of", "photograph"]
    assert all_panels() == []
    assert all_panels(f_number="4") == ["focus_map_of", "photograph"]
    assert all_panels(f_number="4", saturate="0") == ["photograph"]
    assert all_panels(f_number="4", saturate="0", max_coc_m="0.0005") == ["focus_map_of"], "it has no say there"
    assert all_panels() == [], "what was looked at is kept"
    depth = Scene(scene_project.out, "tiny").depth_path(3)
    depth.write_bytes(depth.read_bytes())
    assert all_panels()[0] == "shrink", "a file written anew is read anew"


def test_a_memo_makes_a_key_once_and_forgets_the_oldest():
    memo, made = Memo[int](2), []
    for key in (1, 2, 1, 3, 1, 2):
        assert memo.get(key, lambda key=key: made.append(key) or 10 * key) == 10 * key
    assert made == [1, 2, 3, 2]


def test_before_depth_is_finished_the_command_says_what_is_missing(scene_project: Project, capsys):
    view = ["view", "--port", "0", *scene_project.args()]
    assert main(view) == 2 and "scene_index.json; run: python scripts/01" in capsys.readouterr().err
    scene_project.run_upto(2)
    assert main(view) == 1
    assert "no scene has finished depth; run: python scripts/03_depth.py" in capsys.readouterr().err
    assert main([*view, "--long_side", "9999"]) == 2
    assert "--long_side must be in [64, 1920] pixels, got 9999" in capsys.readouterr().err
    scene_project.run(3)
    assert main([*view, "--checkpoint", str(scene_project.root / "none")]) == 2
    assert "is neither a model.safetensors nor a checkpoint" in capsys.readouterr().err


def test_what_the_page_hears_of_the_calibration(scene_project: Project):
    scene_project.run_upto(3)
    bench = bench_of(scene_project)
    told = bench.describe()
    assert told["calibration"] is None and "not measured yet. Run: python scripts/04" in told["problem"]
    assert bench.describe_scene("tiny")["lenses"] == []
    scene_project.run(4)
    assert bench.describe()["calibration"]["confirmed_max_coc"] is None
    drawn = bench.describe_scene("tiny")["lenses"]
    scene_project.run(4, "--confirm")
    scene_project.run(5)
    rendered = Scene(scene_project.out, "tiny").lens_sets()
    assert [one["focus_m"] for one in drawn] == [one.lens.focus_m for one in rendered], "the lenses are phase 5's"
    calibration_path(scene_project.out).write_text("{}")
    assert "coc_stats.json lacks or garbles" in bench.describe()["problem"]


@contextmanager
def served(bench: Workbench) -> Iterator[ViewServer]:
    with ViewServer(bench, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: ViewServer, path: str, body: object = None, key: str | None = None, host: str = "") -> tuple[int, str]:
    """Status and text of an answer; a body is posted."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    sent = None if body is None else json.dumps(body)
    headers = {"Host": host} if host else {}
    where = f"/{server.key if key is None else key}/{path}"
    connection.request("GET" if body is None else "POST", where, sent, headers)
    answer = connection.getresponse()
    text = answer.read().decode("latin-1")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    connection.close()
    return answer.status, text


def test_only_who_knows_the_key_gets_in(scene_project: Project):
    scene_project.run_upto(4)
    before = calibration_path(scene_project.out).read_bytes()
    with served(bench_of(scene_project)) as server:
        assert server.server_address[0] == "127.0.0.1" and server.key in server.address
        assert ask(server, "")[0] == 200 and "Look before you confirm" in ask(server, "", host="localhost:99")[1]
        for refused in ({"key": ""}, {"key": "guess"}, {"host": "evil.example"}, {"host": "127.0.0.1.evil.example:80"}):
            assert ask(server, "state", **refused)[0] == 403
            assert ask(server, "confirm", {"max_coc_m": None}, **refused)[0] == 403
        assert ask(server, "../state")[0] == 404
        status, told = ask(server, "render?" + urlencode(QUERY | {"f_number": "x"}))
        assert (status, told) == (422, "f_number must be a number, got 'x'")
        assert ask(server, "confirm", {"max_coc_m": "x" * 20_000})[0] == 413
        assert ask(server, "render?" + urlencode(QUERY))[1].startswith("\xff\xd8")
        with pytest.raises(UsageError, match=r"cannot be used: .*; give another --port"):
            ViewServer(server.bench, server.server_address[1])
    assert calibration_path(scene_project.out).read_bytes() == before


def test_confirming_is_phase_4s_own_with_its_refusals(scene_project: Project):
    scene_project.run_upto(3)
    path = calibration_path(scene_project.out)
    with served(bench_of(scene_project)) as server:
        status, told = ask(server, "confirm", {"max_coc_m": None})
        assert status == 422 and "to confirm; run: python scripts/04" in told and not path.exists()
        scene_project.run(4)
        for value, said in ((1.0, "below 50 mm"), ("wide", "takes"), (float("nan"), "below 50 mm")):
            status, told = ask(server, "confirm", {"max_coc_m": value})
            assert status == 422 and said in told, value
        assert json.loads(path.read_text())["confirmed_max_coc"] is None
        status, told = ask(server, "confirm", {"max_coc_m": 3e-4})
        assert status == 200 and json.loads(told)["next"].startswith("python scripts/05_render")
        stats = json.loads(path.read_text())
        assert stats["confirmed_max_coc"] == 3e-4 and not stats["confirmed"]["took_recommendation"]
        assert ask(server, "confirm", {"max_coc_m": None})[0] == 200
        stats = json.loads(path.read_text())
        assert stats["confirmed_max_coc"] == stats["p95"] and stats["confirmed"]["took_recommendation"]
        (Scene(scene_project.out, "tiny").depth_dir / ".done").unlink()
        status, told = ask(server, "confirm", {"max_coc_m": 3e-4})
        assert status == 422 and "no scene has finished depth" in told


def test_a_network_photographs_beside_the_renderer(scene_project: Project):
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS["demo"]).eval()
    file = scene_project.root / "model.safetensors"
    file.write_bytes(model_bytes(net.config, net.state_dict(), 7, {}))
    network = TrainedNetwork(file, "cpu")
    assert "7 steps" in network.said and "weak" in network.said
    picture = np.full((32, 48, 3), 90, np.uint8)
    wide = network.photograph(picture, Lens(f_m=0.05, f_number=1.4, focus_m=1.0), 36.0)
    assert wide.shape == picture.shape and wide.dtype == np.uint8
    with pytest.raises(UsageError, match="--focal_mm must be"):
        network.photograph(picture, Lens(f_m=0.5, f_number=2, focus_m=2.0), 36.0)
    scene_project.run_upto(3)
    bench = Workbench(dataset_of(scene_project), ViewSettings(device="cpu"), network)
    assert bench.looked("network", Look.from_query(QUERY))[:2] == b"\xff\xd8" and bench.describe()["network"]
    with pytest.raises(PipelineError, match="open the page with --checkpoint"):
        bench_of(scene_project).looked("network", Look.from_query(QUERY))
