"""Metrics against plain float64 references that share no code with them; perceptual features against their definition."""

import importlib.machinery
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from scipy.signal import convolve2d

from model.evaluation.metrics import abs_rel, delta1, depth_temporal_error, mse, psnr, ssim, temporal_error
from model.evaluation.perceptual import (
    LPIPS_TAPS,
    PERCEPTUAL_TAPS,
    Lpips,
    VggFeatures,
    find_weights,
    load_lpips,
    load_vgg,
)
from pipeline.errors import UsageError
from pipeline.measures import psnr as array_psnr
from pipeline.measures import psnr_of_mse
from pipeline.media.convert import image_to_tensor, tensor_to_image


def image_pair(batch: int = 2, height: int = 24, width: int = 31, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(batch, 3, height, width, generator=generator)
    return first, (first + 0.1 * torch.randn(first.shape, generator=generator)).clamp(0, 1)


def ssim_reference(x: np.ndarray, y: np.ndarray) -> float:
    """The formula of Wang et al. 2004 by direct convolution in float64, one colour plane."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image):
        return convolve2d(image, window, mode="valid")

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2, mean(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    values = ((2 * mu_x * mu_y + c1) * (2 * cov + c2)) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return float(values.mean())


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_ssim_is_the_published_formula(scale):
    first, second = image_pair()
    first, second = 0.9 + scale * (first - 0.9), 0.9 + scale * (second - 0.9)  # 0.02: nearly flat and bright
    planes = [
        [ssim_reference(a.double().numpy(), b.double().numpy()) for a, b in zip(x, y, strict=True)]
        for x, y in zip(first, second, strict=True)
    ]
    expected = np.array(planes).mean(1)
    assert np.allclose(ssim(first.double(), second.double()).numpy(), expected, atol=1e-12)
    assert np.allclose(ssim(first, second).numpy(), expected, atol=2e-5)


def test_ssim_window_is_the_gaussian_of_scipy():
    """A different implementation of the same filter: correlate1d along both axes, cut to where the window is inside."""
    first, second = image_pair(1)
    offsets = np.arange(11) - 5
    taps = np.exp(-(offsets**2) / 4.5)
    taps /= taps.sum()
    x, y = first[0, 0].double().numpy(), second[0, 0].double().numpy()

    def mean(image):
        return correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    mu_x, mu_y = mean(x), mean(y)
    numerator = (2 * mu_x * mu_y + 1e-4) * (2 * (mean(x * y) - mu_x * mu_y) + 9e-4)
    denominator = (mu_x**2 + mu_y**2 + 1e-4) * (mean(x * x) - mu_x**2 + mean(y * y) - mu_y**2 + 9e-4)
    found = ssim(first[:, :1].double(), second[:, :1].double())
    assert found.item() == pytest.approx((numerator / denominator).mean(), abs=1e-12)


def test_ssim_of_equal_pictures_is_one_and_gradients_are_right():
    first, second = image_pair(1, 12, 13)
    assert ssim(first, first).item() == pytest.approx(1, abs=1e-6)
    assert torch.autograd.gradcheck(
        lambda x: ssim(x, second[:, :1].double()), first[:, :1].double().requires_grad_(), fast_mode=True
    )


def test_ssim_stays_in_float32_under_autocast_and_for_half_precision():
    first, second = image_pair(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ssim(first, second).item() == ssim(first, second).item()
        inside = ssim(first, second)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, ssim(first, second))
    assert ssim(first.bfloat16(), second.bfloat16()).dtype == torch.float32


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(torch.rand(1, 3, 10, 40), torch.rand(1, 3, 10, 40))
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.rand(1, 3, 12, 40), torch.rand(1, 3, 12, 41))


def test_psnr_is_the_definition_per_sample():
    first, second = image_pair(3)
    second[2] = first[2]
    expected = []
    for a, b in zip(first[:2].double().numpy(), second[:2].double().numpy(), strict=True):
        expected.append(20 * np.log10(1.0) - 10 * np.log10(np.mean((a - b) ** 2)))
    found = psnr(first, second)
    assert np.allclose(found[:2].numpy(), expected, rtol=1e-12)
    assert found[2].item() == math.inf
    assert psnr_of_mse(float(mse(first, second)[0])) == pytest.approx(expected[0], rel=1e-12)
    assert psnr_of_mse(0.0) == math.inf


def test_levels_and_numbers_have_one_psnr():
    """Of bytes and of the same image in [0, 1]; phases, ray tracer and networks call the same function."""
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(2))
    unit = psnr(*(image_to_tensor(image)[None].double() for image in (first, second)))
    levels = array_psnr(first, second, peak=255)
    assert levels == pytest.approx(unit.item(), rel=1e-6)
    assert levels == pytest.approx(10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2)), rel=1e-12)
    assert array_psnr(first, first, peak=255) == math.inf


def test_bytes_become_numbers_and_bytes_again():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    image[..., 1] = image[::-1, :, 0]
    tensor = image_to_tensor(image)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32
    assert tensor[1, 0, 3].item() == np.float32(image[0, 3, 1]) / np.float32(255)
    assert np.array_equal(tensor_to_image(tensor), image)
    assert tensor_to_image(torch.tensor([-0.2, 0.4999 / 255, 1.5]).view(3, 1, 1)).ravel().tolist() == [0, 0, 255]


def test_depth_measures_count_valid_pixels_only():
    truth = torch.tensor([[[[1.0, 2.0], [4.0, 5.0]]], [[[1.0, 2.0], [4.0, 5.0]]]])
    guess = torch.tensor([[[[1.1, 2.0], [8.0, 50.0]]], [[[2.0, 2.0], [4.0, 5.0]]]])
    valid = torch.tensor([[[[True, True], [True, False]]], [[[False] * 2, [False] * 2]]])
    rel, share = abs_rel(guess, truth, valid), delta1(guess, truth, valid)
    assert rel[0].item() == pytest.approx((0.1 + 0 + 1) / 3, abs=1e-7)
    assert share[0].item() == pytest.approx(2 / 3)
    assert rel[1].isnan() and share[1].isnan()
    with pytest.raises(ValueError, match="valid must be bool"):
        abs_rel(guess, truth, valid.float())


def test_temporal_error_sees_flicker_and_not_motion():
    truth = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 3, 8, 8) / 10
    assert temporal_error(truth + 0.25, truth).item() == pytest.approx(
        0, abs=1e-7
    )  # a constant offset does not flicker
    flicker = truth + 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1, 1)
    assert temporal_error(flicker, truth).item() == pytest.approx(0.2, abs=1e-6)
    with pytest.raises(ValueError, match="T >= 2"):
        temporal_error(truth[:, :1], truth[:, :1])


def test_depth_temporal_error_sees_unsteady_depth_and_not_a_wrong_scale():
    truth = torch.tensor([2.0, 3.0, 5.0]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 4, 4).clone()
    valid = torch.ones_like(truth, dtype=torch.bool)
    assert depth_temporal_error(1.7 * truth, truth, valid).item() == pytest.approx(0, abs=1e-6)
    unsteady = truth * torch.tensor([1.0, math.e**0.1, 1.0]).view(1, 3, 1, 1, 1)
    assert depth_temporal_error(unsteady, truth, valid).item() == pytest.approx(0.1, abs=1e-6)
    unsteady[0, 1, 0, 0] = 50.0  # sky in the middle frame spoils both of its changes, and is left out of both
    valid[0, 1, 0, 0] = False
    assert depth_temporal_error(unsteady, truth, valid).item() == pytest.approx(0.1, abs=1e-6)
    assert depth_temporal_error(truth, truth, ~valid & False).isnan()
    with pytest.raises(ValueError, match="T >= 2"):
        depth_temporal_error(truth[:, :1], truth[:, :1], valid[:, :1])


# --- VGG-16 and LPIPS -------------------------------------------------------------------------------------------------


def random_vgg(taps=LPIPS_TAPS) -> VggFeatures:
    torch.manual_seed(0)
    return VggFeatures(taps)


def test_vgg_has_torchvisions_names_and_shapes():
    names = {name: tuple(value.shape) for name, value in random_vgg().state_dict().items()}
    assert len(names) == 26  # 13 convolutions; the classifier is not part of it
    assert names["features.0.weight"] == (64, 3, 3, 3)
    assert names["features.28.weight"] == (512, 512, 3, 3) and names["features.28.bias"] == (512,)
    shapes = [tuple(f.shape[1:]) for f in random_vgg()(torch.rand(1, 3, 32, 48))]
    assert shapes == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vgg_loads_from_both_kinds_of_file(tmp_path: Path, suffix):
    from safetensors.torch import save_file

    source = random_vgg(PERCEPTUAL_TAPS)
    stored = {**source.state_dict(), "classifier.0.weight": torch.zeros(2)}  # torchvision's file has these too
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".pth":
        torch.save(stored, path)
    else:
        save_file(stored, path)
    image = torch.rand(1, 3, 32, 32)
    loaded = load_vgg(path)
    assert all(torch.equal(a, b) for a, b in zip(loaded(image), source(image), strict=True))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_wrong_weight_files_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no VGG-16 weights file"):
        find_weights(tmp_path / "absent.pth")
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    with pytest.raises(UsageError, match=r"is not VGG-16.*features.0.weight"):
        load_vgg(other)
    code = tmp_path / "code.pth"
    torch.save({"x": Path("executes when unpickled")}, code)
    with pytest.raises(UsageError, match="holds more than tensors"):
        load_vgg(code)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 40)
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_vgg(broken)


def test_lpips_without_its_package_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_lpips() == "LPIPS is left out: the package lpips is not installed"


def test_lpips_is_found_beside_an_installed_package_and_follows_the_definition(tmp_path: Path, monkeypatch):
    """With random weights in the two real file formats; the distance by hand from the same features."""
    vgg = random_vgg()
    generator = torch.Generator().manual_seed(1)
    channels = (64, 128, 256, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(channels)}
    folder = tmp_path / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    torch.save(linear, folder / "vgg.pth")
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    spec = importlib.machinery.ModuleSpec("lpips", None, is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path / "lpips"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    found = load_lpips(tmp_path / "vgg16.pth")
    assert isinstance(found, Lpips)
    first, second = image_pair(2, 32, 32)
    expected = np.zeros(2)
    for i, (a, b) in enumerate(zip(vgg(first), vgg(second), strict=True)):
        a, b = a.double().numpy(), b.double().numpy()
        a = a / (np.sqrt((a**2).sum(1, keepdims=True)) + 1e-10)
        b = b / (np.sqrt((b**2).sum(1, keepdims=True)) + 1e-10)
        weight = linear[f"lin{i}.model.1.weight"].double().numpy()
        expected += ((a - b) ** 2 * weight).sum(1).mean((1, 2))
    assert np.allclose(found(first, second).numpy(), expected, rtol=1e-4)
    assert torch.equal(found(first, first), torch.zeros(2))
