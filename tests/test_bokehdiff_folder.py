"""scripts/bokehdiff.py: photographs of a folder with the published flags, focus, and what is refused before work begins."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_sdxl
from conftest import load_script, texture
from PIL import Image

from pipeline.refocus import folder as folder_module
from pipeline.refocus.folder import focus_disparity, shifted

SIZE = (48, 64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl.write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def surroundings(weights: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(weights))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "bokehdiff_cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photo.jpg with its disparity beside it as pngdepth has it, and with its depth as this project has it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(texture(*SIZE)).save(folder / "photo.jpg", quality=95)
    depth = np.tile(np.linspace(4, 1, SIZE[1], dtype=np.float32), (SIZE[0], 1))
    cv2.imwrite(str(folder / "photo.png"), np.round(1 / depth * 65535).astype(np.uint16))
    np.savez(folder / "photo.depth.npz", depth=depth)
    return folder


def run(folder: Path, *more: str) -> int:
    output = ("--output_dir", str(folder.parent / "out"), "--data_id", "set")
    return load_script("bokehdiff")(["--test_data_dir", str(folder), *output, *more, "--device", "cpu"])


def test_disparity_as_png_or_depth_beside_it(photos: Path, capsys: pytest.CaptureFixture[str]):
    assert run(photos, "--organization", "pngdepth", "--K", "40") == 0
    result = photos.parent / "out" / "set" / "photo_40.jpg"
    first = cv2.imread(str(result))
    assert first.shape == (*SIZE, 3) and first.std() > 3
    assert run(photos, "--organization", "pngdepth", "--K", "40") == 2
    assert "exists already" in capsys.readouterr().err
    (photos / "photo.png").unlink()
    assert run(photos, "--K", "40", "--depth", "given", "--overwrite") == 0
    second = cv2.imread(str(result))
    assert np.abs(first.astype(int) - second).max() <= 8, "the same disparity, and the same K"
    assert run(photos, "--K", "40", "--depth", "given", "--overwrite", "--focus_px", "63,20") == 0
    assert np.abs(second.astype(int) - cv2.imread(str(result))).max() > 8, "a click moves the focus"


def test_three_pictures_as_published_and_a_larger_working_size(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    Image.fromarray(texture(24, 32)).save(photos / "photo.jpg")
    monkeypatch.setattr(folder_module, "_TILE_PX", 48)
    assert run(photos, "--organization", "pngdepth", "--shifts", "--upsample") == 0
    assert caplog.text.count("64x48 in 64x48") == 3, "enlarged to a shorter side of a tile"
    folder = photos.parent / "out" / "set"
    assert {path.name for path in folder.iterdir()} == {"photo_20.jpg", "photo_20_near.jpg", "photo_20_far.jpg"}
    assert all(cv2.imread(str(path)).shape == (24, 32, 3) for path in folder.iterdir())


def test_focus_is_the_click_the_subject_or_the_middle():
    disparity = np.full((10, 20), 0.2, np.float32)
    disparity[4:6, 8:12] = 0.5
    disparity[:, :3] = 0.9
    mask = disparity > 0.8
    assert focus_disparity(disparity, None, None) == pytest.approx(0.5)
    assert focus_disparity(disparity, mask, None) == pytest.approx(0.9)
    assert focus_disparity(disparity, mask, (9, 2), 2.0) == pytest.approx(0.2), "the click is asked first, and scaled"
    assert [shifted(disparity, 0.5, name) for name in ("near", "none", "far")] == pytest.approx([0.74, 0.5, 0.32])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--K", "-1"), "--K must be finite and >= 0"),
        (("--organization", "zip"), "--organization must be folder, pngdepth"),
        (("--variant", "large"), "--variant must be base, small"),
        (("--focus_px", "64,2"), "--focus_px must lie in photo.jpg, 64x48"),
        (("--data_id", "a/b"), "--data_id must be a plain name"),
        (("--variant", "small"), "weights are missing"),
    ],
)
def test_wrong_flags(photos: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str):
    assert run(photos, "--organization", "pngdepth", *flags) == 2
    assert message in capsys.readouterr().err


def test_photographs_without_disparity_and_empty_folders(photos: Path, capsys: pytest.CaptureFixture[str]):
    (photos / "photo.png").unlink()
    assert run(photos, "--organization", "pngdepth") == 2
    assert "photo.jpg has no disparity: photo.png is not beside it" in capsys.readouterr().err
    (photos / "photo.depth.npz").unlink()
    assert run(photos, "--depth", "given") == 2
    assert "has no depth with it" in capsys.readouterr().err
    (photos / "photo.jpg").unlink()
    assert run(photos) == 2
    assert "holds no photograph" in capsys.readouterr().err
    assert run(photos / "nowhere") == 2
    assert "must be a folder" in capsys.readouterr().err
    assert not (photos.parent / "out").exists(), "nothing was begun"
