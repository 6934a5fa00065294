"""scripts/focus_map.py: films with their sound, photographs, and what it refuses."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import load_script, texture
from media_clips import moving, write_clip

import model.weights
from model.focusmamba import FocusMamba, FocusMambaConfig
from model.focusmamba.checkpoint import CONVENTIONS, FAMILY
from model.training.network_file import network_bytes
from model.video.focus_map import FocusReader
from pipeline.errors import StoppedError

TINY = FocusMambaConfig(channels=16, heads=2, head_dim=8, blocks=1, stem_channels=8, middle_channels=8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = FocusMamba(TINY)
    path = tmp_path / "model.safetensors"
    path.write_bytes(network_bytes(FAMILY, TINY.to_dict(), CONVENTIONS, net.state_dict(), 0, {}))
    return path


def run(*args: object) -> int:
    return load_script("focus_map")([str(arg) for arg in args])


def test_a_film_gives_maps_and_colours_with_its_sound(tmp_path: Path, checkpoint: Path):
    clip, out = tmp_path / "clip.mp4", tmp_path / "maps"
    write_clip(clip, moving(5), sounds=1)
    assert run(clip, "--checkpoint", checkpoint, "-o", out, "--work_width", 48) == 0
    maps = sorted((out / "maps").glob("*.npz"))
    assert [path.name for path in maps] == [f"frame_{number:04d}.npz" for number in range(5)]
    with np.load(maps[0], allow_pickle=False) as found:
        assert {name: found[name].dtype for name in found} == dict.fromkeys(
            ("radius_px", "sigma_px", "behind"), np.float16
        )
        assert found["radius_px"].shape == (32, 48) and float(found["radius_px"].min()) >= 0
    with av.open(str(out / "focus.mp4")) as film:
        assert len(film.streams.audio) == 1 and (film.streams.video[0].width, film.streams.video[0].height) == (192, 64)
        assert sum(1 for _ in film.decode(video=0)) == 5


def test_without_a_checkpoint_it_is_the_one_that_comes_with_the_code(
    tmp_path: Path, checkpoint: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), texture(32, 48))
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    assert run(picture, "-o", tmp_path / "none") == 2
    assert "focus_nano.safetensors is missing" in capsys.readouterr().err
    checkpoint.rename(tmp_path / model.weights.SHIPPED[FAMILY])
    assert run(picture, "-o", tmp_path / "out") == 0
    assert "network: the one that comes with the code" in capsys.readouterr().out
    assert (tmp_path / "out" / "maps" / "photo.npz").exists()


def test_radii_are_of_the_frame_that_came_in(tmp_path: Path, checkpoint: Path):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), texture(64, 96))
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), cv2.resize(cv2.imread(str(picture)), (48, 32), interpolation=cv2.INTER_AREA))
    for name, width in ((picture, 48), (small, 0)):
        assert run(name, "--checkpoint", checkpoint, "-o", tmp_path / name.stem, "--work_width", width) == 0
        assert (tmp_path / name.stem / "focus.png").exists()
    radii = [np.load(tmp_path / stem / "maps" / f"{stem}.npz")["radius_px"] for stem in ("photo", "small")]
    assert np.allclose(radii[0], 2 * radii[1].astype(np.float32), rtol=0.02, atol=0.02)


def test_a_stopped_film_starts_over_and_a_longer_one_leaves_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    clip, out = tmp_path / "clip.mp4", tmp_path / "maps"
    write_clip(clip, moving(4))
    same = (clip, "--checkpoint", checkpoint, "-o", out, "--work_width", 48)
    original = FocusReader.read

    def stopping(self, picture):
        if (out / "maps" / "frame_0001.npz").exists():
            raise StoppedError("a signal")
        return original(self, picture)

    monkeypatch.setattr(FocusReader, "read", stopping)
    assert run(*same) == 75 and not (out / "focus.mp4").exists()
    monkeypatch.setattr(FocusReader, "read", original)
    assert run(*same) == 0 and (out / "focus.mp4").exists()
    assert sorted(path.name for path in out.iterdir()) == ["focus.mp4", "maps"]
    assert run(*same) == 2, "a finished film is not written over"
    assert run(*same, "--overwrite", "--max_frames", 2) == 0
    assert len(list((out / "maps").iterdir())) == 2


def test_what_cannot_be_done_is_said(tmp_path: Path, checkpoint: Path, capsys):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), texture(64, 96))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for args, message in (
        ((picture, "--checkpoint", checkpoint, "-o", full), "holds something already"),
        (
            (picture, "--checkpoint", checkpoint, "-o", tmp_path / "x", "--work_width", 8),
            "--work_width must be 0 or at least 32",
        ),
        ((picture, "--checkpoint", tmp_path / "none", "-o", tmp_path / "x"), "none"),
        ((tmp_path / "no.mp4", "--checkpoint", checkpoint, "-o", tmp_path / "x"), "no.mp4"),
    ):
        assert run(*args) in (1, 2)
        assert message in capsys.readouterr().err
