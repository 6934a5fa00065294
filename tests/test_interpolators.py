"""The engines that make a frame between two: what they are given, what they refuse, and whether the instant counts."""

import numpy as np
import pytest
from conftest import texture

from pipeline.engines import engines_of, load_engine
from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.engines.interpolation.splat import fill, splat
from pipeline.errors import InputError, UsageError
from pipeline.measures import psnr
from pipeline.media.convert import image_to_unit, unit_to_image

CHEAP = ("mean", "nearest", "flow")


def shifted(by_px: float, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A soft texture, moved to the right."""
    import cv2

    soft = cv2.GaussianBlur(texture(size[0], size[1] + 64, seed=5), (0, 0), 1.5)
    moved = cv2.warpAffine(
        soft, np.float32([[1, 0, by_px], [0, 1, 0]]), soft.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=1
    )
    return np.ascontiguousarray(moved[:, 32:-32])


def level_psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return psnr(made, truth, 255)


def engine(name: str, **options: str) -> Interpolator:
    return load_engine("interpolate", name, options, "cpu", Interpolator)


def between(name: str, first: np.ndarray, last: np.ndarray, t: float = 0.5) -> np.ndarray:
    made = engine(name).interpolate(Context(frames=(first, last), indices=(0, 1), target=t), lambda: None)
    return unit_to_image(made, first)


def test_the_engines_are_found_by_their_role():
    assert set(CHEAP) <= set(engines_of("interpolate"))
    assert "mean" not in engines_of("bokeh")


def test_offsets_presence_and_t_follow_from_the_numbers():
    frame = texture(32, 32)
    context = Context(frames=(frame, None, frame, frame), indices=(0, 6, 7, 9), target=8)
    assert context.offsets == (-8, -2, -1, 1)
    assert context.present == (True, False, True, True)
    assert context.t == 0.5
    assert Context(frames=(frame, frame, None), indices=(3, 7, 8), target=4).t == 0.25


@pytest.mark.parametrize(
    ("frames", "target", "said"),
    [
        ((None, texture(32, 32)), 0.5, "at least two frames, got 1"),
        ((texture(32, 32), texture(32, 48)), 0.5, "of one size and type, got 32x32 uint8 and 48x32 uint8"),
        ((texture(32, 32), texture(32, 32).astype(np.uint16)), 0.5, "uint16"),
        ((texture(32, 32), texture(32, 32)), 1.0, r"t in \(0, 1\)"),
        ((texture(32, 32), texture(32, 32)), 1.5, "strictly between two given frames"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(frames, target, said):
    with pytest.raises(InputError, match=said):
        Context(frames=frames, indices=(0, 1), target=target)


@pytest.mark.parametrize("name", CHEAP)
def test_nothing_moves_where_nothing_moved(name):
    frame = texture(64, 96, seed=2)
    assert np.abs(between(name, frame, frame.copy(), 0.3).astype(int) - frame).max() <= 1


@pytest.mark.parametrize("deep", [False, True])
def test_flow_finds_the_instant_and_not_the_middle(deep):
    first, last = shifted(0), shifted(8)
    if deep:
        first, last = first.astype(np.uint16) * 257, last.astype(np.uint16) * 257
    for t in (0.25, 0.5, 0.75):
        made, truth = between("flow", first, last, t), shifted(8 * t)
        assert made.dtype == first.dtype
        got = (image_to_unit(made) * 255).astype(np.uint8)[:, 12:-12]
        wrong = shifted(8 * (t + 0.125))[:, 12:-12]
        assert level_psnr(got, truth[:, 12:-12]) > max(34, level_psnr(got, wrong) + 5)


def test_flow_shows_what_only_one_frame_saw():
    """A square passes over a texture: what it uncovers is in the second frame alone, what it covers in the first."""

    def scene(at: int) -> np.ndarray:
        picture = texture(96, 128, seed=9) // 2 + 60
        picture[32:64, at : at + 32] = texture(32, 32, seed=4) // 3
        return picture

    truth = scene(46)
    made = between("flow", scene(40), scene(52))
    assert level_psnr(made, truth) > level_psnr(between("mean", scene(40), scene(52)), truth) + 6
    uncovered = np.s_[34:62, 40:46]
    assert level_psnr(made[uncovered], truth[uncovered]) > 25


def test_nearest_takes_the_nearer_frame_and_mean_weighs_by_the_instant():
    first, last = np.full((16, 16, 3), 40, np.uint8), np.full((16, 16, 3), 80, np.uint8)
    assert between("nearest", first, last, 0.5).max() == 40
    assert between("nearest", first, last, 0.6).min() == 80
    assert (between("mean", first, last, 0.25) == 50).all()


def test_levels_are_rounded_not_truncated():
    first, last = np.full((16, 16, 3), 40, np.uint8), np.full((16, 16, 3), 43, np.uint8)
    assert (between("mean", first, last, 0.6) == 42).all()


def test_a_flow_preset_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="preset must be one of ultrafast, fast, medium, got 'slow'"):
        engine("flow", preset="slow")


def test_splat_carries_values_and_weights():
    values = np.zeros((4, 5, 1), np.float32)
    values[1, 1] = 3
    flow = np.zeros((4, 5, 2), np.float32)
    flow[1, 1] = (1.5, 1)
    weight = np.zeros((4, 5), np.float32)
    weight[1, 1] = 2
    carried, arrived = splat(values, flow, weight)
    assert carried[2, 2, 0] == carried[2, 3, 0] == pytest.approx(3)
    assert arrived[2, 2] == arrived[2, 3] == pytest.approx(1)
    assert arrived.sum() == pytest.approx(2)


def test_holes_are_filled_from_around():
    values = np.full((32, 48, 2), 7, np.float32)
    known = np.ones((32, 48), np.float32)
    known[8:20, 10:30] = 0
    values[8:20, 10:30] = -100
    assert np.allclose(fill(values, known), 7, atol=1e-3)
