"""Figures of focus maps and classical estimates, on pictures made by hand."""

import math

import cv2
import numpy as np
import pytest

from model.evaluation import focus_metrics as figures
from model.evaluation.focus_baselines import NAMES, FocusBaselines, MonotoneFit
from pipeline.optics.estimate import laplacian_energy, laplacian_gradient_ratio, zhuo_sim_radius


def bars(sigma: float, gain: float = 1.0) -> np.ndarray:
    """Vertical bars, blurred: (64, 128, 3) float32."""
    picture = np.zeros((64, 128), np.float32)
    for x in range(0, 128, 32):
        picture[:, x : x + 16] = 0.6 * gain
    picture += 0.2 * gain
    return np.repeat((cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture)[..., None], 3, axis=2)


def test_scores_fall_with_blur_and_the_ratio_does_not_mind_contrast():
    sigmas = (0, 1.0, 2.0, 4.0)
    for score in (laplacian_energy, laplacian_gradient_ratio):
        values = [float(score(bars(sigma))[32, 32]) for sigma in sigmas]
        assert values == sorted(values, reverse=True)
    assert float(laplacian_energy(bars(1.0, 0.5))[32, 32]) < float(laplacian_energy(bars(1.0))[32, 32]) - 1
    half, full = (float(laplacian_gradient_ratio(bars(1.0, gain))[32, 32]) for gain in (0.5, 1.0))
    assert half == pytest.approx(full, abs=0.05)


@pytest.mark.parametrize("sigma", [1.5, 2.5])
def test_zhuo_sim_reads_pixels_at_edges(sigma: float):
    # The radius of the disc that spreads light as much as the Gaussian does.
    radius = zhuo_sim_radius(bars(sigma))
    assert float(np.median(radius[8:-8, 24:104])) == pytest.approx(2 * math.sqrt(sigma**2 - 0.75**2), rel=0.25)
    assert float(np.median(zhuo_sim_radius(bars(0))[8:-8, 24:104])) < 0.9
    assert zhuo_sim_radius(np.full((16, 16, 3), 0.5, np.float32)).min() > 8, "without an edge nothing is in focus"


def test_a_fit_falls_and_finds_the_curve():
    score = np.linspace(0, 1, 4000, dtype=np.float32).reshape(40, 100)
    fit = MonotoneFit.of([score], [6 * (1 - score)])
    assert float(np.abs(fit(score) - 6 * (1 - score)).max()) < 0.1
    rising = MonotoneFit.of([score], [6 * score])
    assert float(np.ptp(rising(score))) < 1e-6, "sharper can never mean more blur"
    with pytest.raises(ValueError, match="at least one"):
        MonotoneFit.of([score[:0]], [score[:0]])


def test_all_methods_answer_under_their_names():
    photos = [bars(sigma) for sigma in (0, 1.0, 2.0, 3.0)]
    truth = [np.full((64, 128), 2 * sigma, np.float32) for sigma in (0, 1.0, 2.0, 3.0)]
    answers = FocusBaselines.fit(photos, truth).answers(photos[2])
    assert tuple(answers) == NAMES
    assert float(answers["constant"].radius_px.max()) == pytest.approx(3.0)
    assert abs(float(np.median(answers["Laplacian/gradient ratio"].radius_px)) - 4.0) < 1.5


def test_figures_of_a_perfect_and_of_a_wrong_map():
    truth = np.linspace(0, 6, 600, dtype=np.float32).reshape(20, 30)
    right = figures.radius_figures(truth, truth, 4.0) | figures.focus_figures(truth, truth)
    assert right["mae_px"] == right["map_mae"] == 0
    assert right["close"] == right["auroc"] == right["iou"] == 1 and right["spearman"] == pytest.approx(1)
    wrong = figures.radius_figures(6 - truth, truth, 4.0) | figures.focus_figures(6 - truth, truth)
    assert wrong["auroc"] == 0 and wrong["spearman"] == pytest.approx(-1) and wrong["iou"] == 0
    shifted = figures.radius_figures(truth + 1, truth, 4.0)
    assert shifted["mae_px"] == pytest.approx(1) and shifted["mse_px2"] == pytest.approx(1, abs=1e-5)


def test_auroc_counts_ties_half_and_needs_both_kinds():
    flags = np.array([True, False, True, False])
    assert figures.auroc(np.zeros(4), flags) == 0.5
    assert figures.auroc(np.array([3.0, 1.0, 2.0, 2.5]), flags) == 0.75
    assert math.isnan(figures.auroc(np.zeros(4), np.ones(4, bool)))


def test_side_bands_and_calibration():
    signed = np.array([[-3.0, -2.0, 0.2, 2.0, 3.0]])
    assert figures.side_auroc(np.array([[0.1, 0.2, 0.5, 0.8, 0.9]]), signed) == 1
    assert math.isnan(figures.side_auroc(np.full((1, 5), 0.5), np.abs(signed)))
    depth = np.full((40, 60), 8.0, np.float32)
    depth[:, :30] = 2.0
    band = figures.occlusion_band(depth)
    assert band[20, 29] and band[20, 36] and not band[20, 10] and not band[20, 45]
    plane = np.repeat(np.linspace(2, 4, 60, dtype=np.float32)[None], 40, axis=0)
    assert not figures.occlusion_band(plane).any()
    rng = np.random.default_rng(0)
    errors, sigma = rng.normal(0, 2.0, 20000), np.full(20000, 2.0)
    assert figures.calibration_error(errors, sigma) < 0.01 < 0.2 < figures.calibration_error(errors, sigma / 3)
    flat = figures.textureless(np.concatenate([np.full((30, 30, 3), 0.4), rng.random((30, 30, 3))], axis=1))
    assert flat[15, 10] and not flat[15, 50]
