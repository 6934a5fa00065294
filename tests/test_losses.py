"""Each loss term against its formula in float64, and what happens to terms that cannot be computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bokehflow.losses import BokehLoss, LossWeights, scale_invariant_log
from model.evaluation.metrics import ssim
from model.evaluation.perceptual import VggFeatures
from pipeline.errors import UsageError


@pytest.fixture(autouse=True)
def no_cached_weights(tmp_path: Path, monkeypatch):
    """Whatever this machine's cache holds, the tests start without weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def example(frames: int = 3, size: int = 16):
    generator = torch.Generator().manual_seed(0)
    shape = (2, frames, 3, size, size)
    truth = torch.rand(shape, generator=generator)
    bokeh = (truth + 0.05 * torch.randn(shape, generator=generator)).clamp(0, 1)
    depth = 1 + 5 * torch.rand((2, frames, 1, size, size), generator=generator)
    guess = depth * torch.exp(0.2 * torch.randn(depth.shape, generator=generator))
    return bokeh, truth, guess, depth


def test_every_term_and_the_total_are_the_formulas():
    bokeh, truth, guess, depth = example()
    depth[0, 0, 0, :4] = 1000.0  # sky counts as the largest depth a network can say
    depth[1, 1, 0, :4] = float("nan")  # unknown
    loss = BokehLoss(LossWeights(perceptual=0.0))
    terms = loss(bokeh, truth, guess, depth)

    b, t = bokeh.double().numpy(), truth.double().numpy()
    log = np.log(guess.double().numpy()) - np.log(np.minimum(depth.double().numpy(), 100))
    depth_terms = []
    for frame in log.reshape(-1, 16 * 16):
        known = frame[np.isfinite(frame)]
        depth_terms.append((known**2).mean() - 0.5 * known.mean() ** 2)
    change = np.abs((b[:, 1:] - b[:, :-1]) - (t[:, 1:] - t[:, :-1])).mean()
    expected = {
        "l1": np.abs(b - t).mean(),
        "ssim": 1 - ssim(bokeh.double().flatten(0, 1), truth.double().flatten(0, 1)).mean().item(),
        "depth": float(np.mean(depth_terms)),
        "temporal": change,
    }
    assert set(terms.values) == set(expected)
    for name, value in expected.items():
        assert terms.values[name].item() == pytest.approx(value, rel=1e-5), name
    total = expected["l1"] + expected["ssim"] + 0.5 * expected["depth"] + 0.1 * expected["temporal"]
    assert terms.total.item() == pytest.approx(total, rel=1e-5)


def test_a_scale_error_costs_half_and_unknown_pixels_nothing():
    truth = torch.full((1, 4, 4), 2.0)
    everything = torch.ones_like(truth, dtype=torch.bool)
    assert scale_invariant_log(2 * truth, truth, everything).item() == pytest.approx(0.5 * np.log(2) ** 2, rel=1e-5)
    guess = (2 * truth).requires_grad_()
    nothing = scale_invariant_log(guess, torch.full_like(truth, float("nan")), ~everything)
    nothing.backward()
    assert nothing.item() == 0
    assert torch.equal(guess.grad, torch.zeros_like(truth))


def test_gradients_are_finite_and_right():
    truth = (1 + torch.rand(2, 3, 3)).double()
    valid = torch.rand(2, 3, 3) > 0.3
    guess = (1 + torch.rand(2, 3, 3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda d: scale_invariant_log(d, truth, valid), guess)
    bokeh, target, guess, depth = example()
    depth[0, 0, 0, 0, 0] = float("nan")
    bokeh.requires_grad_(), guess.requires_grad_()
    BokehLoss(LossWeights())(bokeh, target, guess, depth).total.backward()
    assert bokeh.grad.isfinite().all() and guess.grad.isfinite().all()
    assert guess.grad[0, 0, 0, 0, 0] == 0 and guess.grad.abs().sum() > 0


def test_the_temporal_term_includes_the_frame_before_the_clip():
    bokeh, truth, guess, depth = example(4)
    loss = BokehLoss(LossWeights())
    whole = loss(bokeh, truth, guess, depth).values["temporal"]
    first = loss(bokeh[:, :2], truth[:, :2], guess[:, :2], depth[:, :2]).values["temporal"]
    before = (bokeh[:, 1], truth[:, 1])
    second = loss(bokeh[:, 2:], truth[:, 2:], guess[:, 2:], depth[:, 2:], before).values["temporal"]
    assert (first + 2 * second).item() == pytest.approx(3 * whole.item(), rel=1e-5)  # 1 and 2 of 3 changes


def test_terms_that_cannot_be_computed_are_absent():
    bokeh, truth, guess, _ = example(1)
    loss = BokehLoss(LossWeights())
    assert set(loss(bokeh, truth, guess, None).values) == {"l1", "ssim"}
    assert "perceptual term is off" in loss.notice and "--perceptual_weights" in loss.notice


def test_asking_for_the_perceptual_term_without_weights_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match=r"was asked for \(weight 0.1\)"):
        BokehLoss(LossWeights(perceptual=0.1))
    with pytest.raises(UsageError, match="no VGG-16 weights file"):
        BokehLoss(LossWeights(perceptual_weights=str(tmp_path / "absent.pth")))
    assert BokehLoss(LossWeights(perceptual=0.0)).notice == ""


def test_the_perceptual_term_with_weights_from_a_file_and_from_the_cache(tmp_path: Path):
    torch.manual_seed(0)
    path = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    vgg = VggFeatures()
    torch.save(vgg.state_dict(), path)
    bokeh, truth, guess, depth = example(2)
    pairs = zip(vgg(bokeh.flatten(0, 1)), vgg(truth.flatten(0, 1)), strict=True)
    expected = np.mean([(a - b).abs().mean().item() for a, b in pairs])
    for weights in (LossWeights(), LossWeights(perceptual_weights=str(path)), LossWeights(perceptual=0.1)):
        loss = BokehLoss(weights)
        terms = loss(bokeh, truth, guess, depth)
        assert terms.values["perceptual"].item() == pytest.approx(expected, rel=1e-5)
        others = (
            terms.values["l1"] + terms.values["ssim"] + 0.5 * terms.values["depth"] + 0.1 * terms.values["temporal"]
        )
        assert (terms.total - others).item() == pytest.approx(0.1 * expected, rel=1e-3)
        assert loss.notice == ""


def test_losses_are_float32_under_autocast():
    bokeh, truth, guess, depth = example()
    loss = BokehLoss(LossWeights())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(bokeh, truth, guess, depth).total
    assert torch.equal(inside, loss(bokeh, truth, guess, depth).total)


@pytest.mark.parametrize(("name", "value"), [("l1", -1.0), ("depth", float("nan")), ("perceptual", -0.1)])
def test_impossible_loss_weights_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} must be finite and >= 0"):
        LossWeights(**{name: value})
    with pytest.raises(UsageError, match="must be > 0"):
        LossWeights(l1=0, ssim=0)
