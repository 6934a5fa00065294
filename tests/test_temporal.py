"""Windows, flow-aligned averaging, flicker, and the crossfade of depth chunks."""

import numpy as np
import pytest
from conftest import moving_frames, texture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.flow import flow_pair, warp
from pipeline.phases.temporal import (
    average_aligned,
    chunk_ranges,
    crossfade_chunks,
    flicker,
    gradient_energy,
    shared_windows,
    window_starts,
    windows_of,
)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 24, 25, 82, 84])
def test_windows_cover_every_frame(count: int):
    starts = window_starts(count)
    for frame in range(count):
        assert windows_of(frame, starts)
    if count > 16:
        assert all(start + 16 <= count for start in starts), "every window is full"


def test_inner_frames_belong_to_two_windows():
    starts = window_starts(64)
    assert {len(windows_of(frame, starts)) for frame in range(8, 56)} == {2}
    assert shared_windows(20, 20, starts) == 2
    assert shared_windows(20, 22, starts) == 2
    assert shared_windows(15, 16, starts) == 1
    assert shared_windows(0, 40, starts) == 0


def test_flow_follows_a_pan():
    first, second = moving_frames(2, size=(160, 96), noise=0)
    there, back = flow_pair(first, second)
    inner = (slice(16, -16), slice(16, -16))
    assert np.abs(np.median(there.vectors[inner][..., 0]) + 1) < 0.1, (
        "the view moves right, so things move left by 1 px"
    )
    assert there.trusted[inner].mean() > 0.95 and back.trusted[inner].mean() > 0.95


def test_flow_is_not_trusted_where_something_new_appears():
    first = texture(96, 160)
    second = first.copy()
    second[30:60, 50:100] = texture(96, 160, seed=9)[30:60, 50:100]
    there, _ = flow_pair(first, second)
    assert there.trusted[36:54, 58:92].mean() < 0.3
    assert there.trusted[70:, :].mean() > 0.9


def test_flow_does_not_depend_on_threads():
    import cv2

    first, second = moving_frames(2, size=(160, 96))
    vectors = []
    for _ in range(2):
        cv2.setNumThreads(1)
        vectors.append(flow_pair(first, second)[0].vectors)
    assert np.array_equal(*vectors)


def averaged(frames, outputs):
    flows = {}
    count = len(frames)
    for a in range(count):
        for b in range(a + 1, min(count, a + 3)):
            flows[a, b], flows[b, a] = flow_pair(frames[a], frames[b])
    results = []
    for t in range(count):
        near = [s for s in range(max(0, t - 2), min(count, t + 3)) if s != t]
        results.append(average_aligned(outputs[t], 2.0, [(outputs[s], flows[t, s], 2.0) for s in near]))
    return results, flows


def test_averaging_reduces_flicker_and_keeps_detail():
    """Outputs that flicker, as per-frame diffusion does: the frame's own content plus a smooth random change."""
    import cv2

    frames = moving_frames(10, size=(160, 96), noise=1.0)
    rng = np.random.default_rng(0)
    outputs = []
    for frame in frames:
        change = cv2.resize(rng.normal(0, 12, (12, 20, 1)).astype(np.float32), (160, 96))[..., None]
        outputs.append(np.clip(frame + change, 0, 255).astype(np.uint8))
    results, flows = averaged(frames, outputs)
    before = np.mean([flicker(outputs[t], outputs[t - 1], flows[t, t - 1]) for t in range(1, 10)])
    after = np.mean([flicker(results[t], results[t - 1], flows[t, t - 1]) for t in range(1, 10)])
    assert after < 0.6 * before
    for result, output in zip(results, outputs, strict=True):
        assert gradient_energy(result) >= 0.95 * gradient_energy(output)


def test_detail_is_kept_even_when_all_of_it_is_noise():
    frames = moving_frames(6, size=(160, 96), noise=0)
    rng = np.random.default_rng(1)
    outputs = [np.clip(frame + rng.normal(0, 25, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    results, _ = averaged(frames, outputs)
    for result, output in zip(results, outputs, strict=True):
        assert gradient_energy(result) >= 0.95 * gradient_energy(output)


def test_moving_object_leaves_no_ghost():
    """A bright square jumps over a still background: averaging must not leave traces of where it was."""
    background = texture(96, 160)
    frames = []
    for t in range(5):
        frame = background.copy()
        frame[30:60, 10 + 28 * t : 34 + 28 * t] = 250
        frames.append(frame)
    results, _ = averaged(frames, frames)
    assert np.abs(results[2].astype(int) - frames[2]).max() <= 25, "a ghost of the square would differ by 100 and more"


def test_averaging_without_neighbours_is_the_output():
    frame = texture(48, 64)
    assert np.array_equal(average_aligned(frame, 1.0, []), frame)


def test_warp_by_whole_pixels_is_exact():
    picture = texture(48, 64).astype(np.float32)
    vectors = np.zeros((48, 64, 2), np.float32)
    vectors[..., 0] = 3
    assert np.array_equal(warp(picture, vectors)[:, :-6], picture[:, 3:-3])


def test_flicker_is_none_when_nothing_can_be_compared():
    first, second = texture(48, 64, 1), texture(48, 64, 2)
    _, back = flow_pair(first, second)
    assert flicker(second, first, back) is None or back.trusted.mean() >= 0.01


# --- chunks ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(2, 300), st.integers(0, 150))
@settings(max_examples=200, deadline=None)
def test_chunks_cover_everything_once_or_twice(count: int, chunk: int, overlap: int):
    overlap = min(overlap, chunk // 2)
    ranges = chunk_ranges(count, chunk, overlap)
    times = np.zeros(count, int)
    for frames in ranges:
        assert 1 <= len(frames) <= chunk
        times[frames.start : frames.stop] += 1
    assert times.min() >= 1 and times.max() <= 2


def disagreeing(calls: list[range]):
    """A depth engine whose chunks disagree: each chunk is off by its own factor."""

    def estimate(frames: range) -> np.ndarray:
        calls.append(frames)
        return np.stack([np.full((2, 3), 10.0 + len(calls), np.float32) for _ in frames])

    return estimate


def test_crossfade_of_disagreeing_chunks_is_linear_and_complete():
    calls: list[range] = []
    out = dict(crossfade_chunks(20, disagreeing(calls), chunk=8, overlap=3))
    assert sorted(out) == list(range(20))
    assert [(c.start, c.stop) for c in calls] == [(0, 8), (5, 13), (10, 18), (15, 20)]
    values = np.array([out[frame][0, 0] for frame in range(20)])
    assert np.allclose(values[:5], 11) and np.allclose(values[8:10], 12)
    assert np.allclose(values[5:8], [11.25, 11.5, 11.75]), "weights of old and new sum to one and rise evenly"
    assert np.abs(np.diff(values)).max() <= 0.25 + 1e-6, "no jump where chunks meet"


def test_one_constant_survives_the_crossfade():
    out = dict(crossfade_chunks(50, lambda frames: np.full((len(frames), 2, 2), 7.0, np.float32), chunk=16, overlap=8))
    assert all(np.allclose(depth, 7, rtol=1e-6) for depth in out.values())


def test_a_pixel_known_to_one_chunk_only():
    def estimate(frames: range) -> np.ndarray:
        maps = np.full((len(frames), 1, 2), 5.0, np.float32)
        if frames.start == 0:
            maps[..., 0] = np.nan
        return maps

    out = dict(crossfade_chunks(12, estimate, chunk=8, overlap=4))
    assert np.isnan(out[3][0, 0]) and out[5][0, 0] == 5 and out[5][0, 1] == 5


def test_resume_runs_only_the_chunks_it_needs_and_gives_the_same():
    full_calls: list[range] = []
    full = dict(crossfade_chunks(40, lambda r: ramp(r, full_calls), chunk=10, overlap=4))
    calls: list[range] = []
    part = dict(crossfade_chunks(40, lambda r: ramp(r, calls), chunk=10, overlap=4, wanted={13, 14, 33}))
    assert sorted(part) == [13, 14, 33]
    assert all(np.array_equal(part[frame], full[frame]) for frame in part)
    assert len(calls) < len(full_calls)


def ramp(frames: range, calls: list[range]) -> np.ndarray:
    calls.append(frames)
    return np.stack([np.full((2, 2), frame + 0.1 * frames.start, np.float32) for frame in frames])


def test_memory_is_bounded_by_a_chunk():
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def estimate(frames: range) -> np.ndarray:
        nonlocal alive, most
        block = np.zeros((len(frames), 4, 4), np.float32).view(Counted)
        alive += 1
        most = max(most, alive)
        return np.asarray(block)

    for _ in crossfade_chunks(400, estimate, chunk=20, overlap=5):
        pass
    assert most <= 3


def test_overlap_longer_than_half_a_chunk_is_refused():
    with pytest.raises(ValueError, match=r"overlap must be in \[0, chunk / 2 = 5\], got 6"):
        chunk_ranges(100, 10, 6)


def test_estimator_that_returns_too_few_maps():
    with pytest.raises(ValueError, match="returned 3 maps for 4 frames"):
        list(crossfade_chunks(4, lambda frames: np.zeros((3, 2, 2), np.float32)))
