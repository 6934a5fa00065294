"""scripts/refocus.py: one photograph through lens or published networks, in small; conventions of K, focus, sizes, errors."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_flux
import torch
import vda_reference
from conftest import load_script, texture
from PIL import Image

from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer, Clip, Deblurrer
from pipeline.engines.bokehnet import BokehNet
from pipeline.engines.genfocus import network
from pipeline.engines.vda.choose import best_here
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.media.images import read_sharp, resize_picture
from pipeline.optics import defocus_px, px_per_mm, render_lens_blur
from pipeline.refocus.defocus import defocus_map, lens_of, radius_px

SIZE = (72, 48)
NEAR_M, FAR_M = 1.0, 4.0
LENS = ("--engine", "lens", "--no_deblur")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_flux.write_weights(tmp_path_factory.mktemp("weights"))
    vda_reference.save_tiny(folder / "checkpoints", "vits")
    return folder


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch) -> None:
    for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "refocus_cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph whose left half is near, with its depth beside it."""
    path = tmp_path / "photo.png"
    Image.fromarray(texture(SIZE[1], SIZE[0])).save(path)
    np.savez(tmp_path / "photo.depth.npz", depth=halves())
    return path


def halves() -> np.ndarray:
    depth = np.full(SIZE[::-1], FAR_M, np.float32)
    depth[:, : SIZE[0] // 2] = NEAR_M
    return depth


def refocus(*args: object) -> int:
    return load_script("refocus")([*(str(arg) for arg in args), "--device", "cpu"])


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(first.astype(int) - second.astype(int)).max(axis=2)


# --- K and the focus -----------------------------------------------------------------------------------------------------


def test_k_is_a_radius_per_inverse_metre_and_the_map_saturates_at_100():
    depth = np.array([[0.5, 1.0, 2.0, 1000.0, 0.01]], np.float32)
    radius = radius_px(depth, 2.0, 20)
    assert radius.dtype == np.float32
    assert np.allclose(radius, [[30, 10, 0, 9.98, 100]])
    assert radius[0, 2] == 0, "in focus is nothing, not nearly nothing"
    assert np.allclose(defocus_map(radius), [[0.3, 0.1, 0, 0.0998, 1]])
    physical = defocus_px(torch.from_numpy(depth[None, :, :4]), lens_of(20, 2.0, 640), px_per_mm(640))
    assert np.allclose(physical[0], [[-30, -10, 0, 9.98]], atol=1e-3), "the lens that stands for K blurs as much"


@pytest.mark.parametrize(("pixel", "sharp_side"), [("10,20", 0), ("60,20", 1)])
def test_the_lens_blurs_all_but_what_the_pixel_shows(photo: Path, pixel: str, sharp_side: int):
    assert refocus(photo, "--focus_px", pixel, "--K", 8, *LENS, "-o", "out.png") == 0
    before, after = read_sharp(photo), read_sharp(Path("out.png"))
    assert after.shape == before.shape, "no network is at work, no size is rounded"
    sides = np.split(difference(before, after)[:, [*range(24), *range(48, 72)]], 2, axis=1)
    assert sides[sharp_side].max() <= 1 and sides[1 - sharp_side].mean() > 3
    x = int(pixel.partition(",")[0])
    assert difference(before, after)[20, x] <= 1, "the pixel itself"
    inverse = 1 / halves()
    radius = torch.from_numpy(8 * (inverse[20, x] - inverse))[None, None]
    image = image_to_tensor(before)[None]
    drawn = render_lens_blur(image, radius, order=torch.from_numpy(halves())[None, None])[0]
    assert difference(after, tensor_to_image(drawn)).max() <= 2, "K times the difference of disparities, in px"


def test_k_0_gives_the_photograph_itself_and_needs_no_depth(photo: Path, weights: Path, capsys):
    Path("photo.depth.npz").unlink()
    assert refocus(photo, "--K", 0, *LENS, "-o", "out.png") == 0
    assert np.array_equal(read_sharp(Path("out.png")), read_sharp(photo))
    assert refocus(photo, "--K", 0, "--no_deblur", "-o", "wide.png") == 0, "BokehNet is not asked for its weights"
    assert np.array_equal(read_sharp(Path("wide.png")), resize_picture(read_sharp(photo), (80, 48)))
    options = ("--steps", 1, "--seed", 3, "--engine_opt", f"weights={weights}")
    assert refocus(photo, "--K", 0, *options, "-o", "deblurred.png") == 0
    assert "K is 0" in capsys.readouterr().out
    assert difference(read_sharp(Path("deblurred.png")), read_sharp(Path("wide.png"))).max() > 10, "DeblurNet drew it"


# --- the published networks ----------------------------------------------------------------------------------------------


def test_deblurred_estimated_and_drawn_as_the_engines_do_alone(photo: Path, weights: Path, monkeypatch, capsys):
    Path("photo.depth.npz").unlink()
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(weights))
    seen_by_flux, generate = [], network.FluxNetwork.generate

    def watched(self, sampling, safe_point):
        seen_by_flux.append((sampling.images, sampling.guidance))
        return generate(self, sampling, safe_point)

    monkeypatch.setattr(network.FluxNetwork, "generate", watched)
    flags = ("--author_seeds", "--steps", 1, "--engine_opt", "input_size=28")
    assert refocus(photo, "--focus_px", "71,47", "--K", 30, *flags, "-o", "out.png") == 0
    said = capsys.readouterr().out
    assert "estimated by Video Depth Anything, vits on cpu (Apache-2.0)" in said
    assert said.count("FLUX.1 [dev] Non-Commercial License") == 2

    options = {"author_seeds": "true", "steps": "1", "dtype": "fp32"}
    deblurrer = load_engine("deblur", "genfocus", options, "cpu", Deblurrer)
    sharp = deblurrer.deblur(resize_picture(read_sharp(photo), (80, 48)), 0, lambda: None)
    depth = best_here("cpu", {"input_size": "28"}).estimate(Clip(range(1), lambda _: sharp, None), lambda: None)[0]
    bokehnet = load_engine("bokeh", "bokehnet", options, "cpu", BokehRenderer)
    assert isinstance(bokehnet, BokehNet)
    defocus = np.clip(np.abs(30 * (1 / depth - 1 / depth[47, 79])) / 100, 0, 1)  # as published
    assert 0 == defocus[47, 79] < defocus.mean()
    drawn = bokehnet.render_map(sharp, defocus, 0, lambda: None)
    assert np.array_equal(read_sharp(Path("out.png")), drawn)
    seen = [images for images, guidance in seen_by_flux if guidance == 1.0]
    assert len(seen) == 2, "once from the script, once from here"
    image, guide = seen[0]
    assert torch.equal(image[0], image_to_tensor(sharp) * 2 - 1), "the sharpened photograph, in [-1, 1]"
    assert guide.shape == (1, 3, 48, 80) and np.allclose(guide[0], defocus, atol=1e-6), "the map as it is, in [0, 1]"


def test_seeds_choose_the_noise(photo: Path, weights: Path):
    def made(*flags: object) -> np.ndarray:
        options = ("--no_deblur", "--steps", 1, "--engine_opt", f"weights={weights}", "--overwrite")
        assert refocus(photo, *options, *flags, "-o", "out.png") == 0
        return read_sharp(Path("out.png"))

    first = made()
    assert np.array_equal(first, made("--seed", 0))
    assert difference(first, made("--seed", 1)).max() > 3
    assert np.array_equal(made("--author_seeds"), made("--author_seeds", "--seed", 1))


# --- the photograph and its depth ----------------------------------------------------------------------------------------


def test_a_turned_photograph_is_focused_as_it_is_shown_and_resized(photo: Path):
    """The file lies on its side: what is shown is what the depth map and the pixel speak of."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    stored = np.rot90(read_sharp(photo), 1)
    Image.fromarray(np.ascontiguousarray(stored)).save("photo.jpg", exif=exif, quality=98, subsampling=0)
    cv2.imwrite("map.png", (halves() * 1000).astype(np.uint16))
    more = ("--depth", "map.png", "--long_side", 144, "--K", 8)
    assert refocus("photo.jpg", "--focus_px", "10,20", *more, *LENS, "-o", "out.png") == 0
    assert refocus("photo.jpg", *more[:-1], 0, *LENS, "-o", "plain.jpg") == 0
    before, after = read_sharp(Path("plain.jpg")), read_sharp(Path("out.png"))
    assert after.shape == (96, 144, 3)
    changed = difference(before, after)
    assert changed[:, 100:].mean() > 2 * changed[:, :44].mean() + 2


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--focus_px", "72,0", *LENS), 2, "0,0 to 71,47"),
        (("--focus_px", "middle", *LENS), 2, "for example 410,220"),
        (("--K", "-1", *LENS), 2, "--K must be finite and >= 0"),
        (("--K", "nan", *LENS), 2, "--K must be finite and >= 0"),
        (("--engine", "camera"), 2, "bokehnet or lens"),
        (("--long_side", "8", *LENS), 2, "at least 16"),
        (("--depth", "nowhere", *LENS), 2, "nowhere, which is not there"),
        (("--depth", "vda", *LENS), 2, "pipeline weights metric_video_depth_anything_vits.pth --download"),
        (("--engine_opt", "bladez=5", *LENS), 2, "no engine at work has it; there are blades"),
        ((), 2, "pipeline weights FLUX.1-dev deblurNet.safetensors bokehNet.safetensors --download"),
        (("-o", "out.gif", *LENS), 2, "-o must end in"),
        (("-o", "photo.png", *LENS), 2, "the photograph itself"),
        (("-o", "there.png", *LENS), 2, "--overwrite"),
        (("-o", "no/out.png", *LENS), 2, "a folder that exists"),
    ],
)
def test_one_line_for_what_cannot_be(photo: Path, flags: tuple[str, ...], code: int, message: str, capsys):
    Path("there.png").touch()
    output = () if "-o" in flags else ("-o", "out.png")
    assert refocus(photo, *flags, *output) == code
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not Path("out.png").exists() and Path("there.png").read_bytes() == b""


def test_what_is_no_photograph_or_has_no_depth(photo: Path, capsys):
    Path("photo.depth.npz").unlink()
    assert refocus(photo, "--depth", "given", *LENS, "-o", "out.png") == 2
    assert "photo.depth.npz" in capsys.readouterr().err
    photo.write_bytes(photo.read_bytes()[:200])
    assert refocus(photo, "--K", 0, *LENS, "-o", "out.png") == 1
    assert "photo.png does not decode" in capsys.readouterr().err
