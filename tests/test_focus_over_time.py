"""FocusMamba over time: motion on the small grid, the running mean along it, and things put in front of the lens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.focusmamba import VARIANTS, FocusMamba, FocusMambaConfig, FocusMambaError
from model.focusmamba.augment import draw_focus
from model.focusmamba.bank import blur
from model.focusmamba.checkpoint import with_over_time
from model.focusmamba.motion import misfit, way_back
from model.focusmamba.occluders import LARGEST_RADIUS_PX, LEAST_RADIUS_PX, Scene, occluded
from model.focusmamba.steady import own_variance, steadied
from model.recurrent.motion import FRAME_SAMPLES, sample_frame
from pipeline.media.warping import backward_warp
from pipeline.optics import Aperture, Lens

TINY = FocusMambaConfig(channels=16, heads=2, head_dim=8, blocks=1, stem_channels=8, middle_channels=8)
SPEED = 5  # places a frame
FLAT_VARIANCE = torch.full((1, 1, FRAME_SAMPLES, FRAME_SAMPLES), math.log(0.25))  # of a radius, log px^2


def texture(seed: int) -> torch.Tensor:
    """(1, 3, 128, 128) sRGB whose details are a few pixels large."""
    draws = torch.rand(1, 3, FRAME_SAMPLES, FRAME_SAMPLES, generator=torch.Generator().manual_seed(seed))
    smooth = blur(draws, 2.0)
    return ((smooth - smooth.mean()) / (6 * smooth.std()) + 0.5).clamp(0, 1)


def flickering(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A true map, and what a network reads of it: frame after frame wrong in other places."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.full((1, 1, FRAME_SAMPLES, FRAME_SAMPLES), 1.0)
    truth[..., 64:] = 1.8
    noise = [torch.randn(truth.shape, generator=generator) for _ in range(count)]
    return truth, [(truth + 0.2 * blur(one, 3.0) / blur(one, 3.0).std()).clamp(min=0) for one in noise]


def test_motion_is_found_on_the_grid_and_undone():
    before = texture(1)
    now = torch.roll(before, (3, 5), (-2, -1))
    flow = way_back(now, before)
    inner = (..., slice(16, -16), slice(16, -16))
    assert torch.allclose(flow[:, 0][inner], torch.tensor(-5.0), atol=0.3)
    assert torch.allclose(flow[:, 1][inner], torch.tensor(-3.0), atol=0.3)
    left = misfit(now, backward_warp(before, flow))[inner].mean()
    assert left < 0.15 * misfit(now, before)[inner].mean()
    assert torch.equal(way_back(now.repeat(2, 1, 1, 1), before.repeat(2, 1, 1, 1))[1:], flow), "the same in any batch"


def joined(maps: list[torch.Tensor], frames: list[torch.Tensor]) -> list[torch.Tensor]:
    """The running mean of a film."""
    found = [maps[0]]
    remembered = torch.cat([maps[0], sample_frame(own_variance(maps[0], FLAT_VARIANCE))], 1)
    for number in range(1, len(maps)):
        one, variance = steadied(maps[number], FLAT_VARIANCE, frames[number], frames[number - 1], remembered)
        remembered = torch.cat([sample_frame(one), variance], 1)
        found.append(one)
    return found


def test_the_running_mean_follows_motion_and_is_steadier_and_no_less_right():
    truth, read = flickering(5)
    frames, truths, maps = ([torch.roll(one, SPEED * n, -1) for n, one in enumerate(film)] for film in (
        [texture(1)] * 5, [truth] * 5, read
    ))  # fmt: skip
    inner = (..., slice(32, -8))
    steady = joined(maps, frames)

    def wrong(ours: list[torch.Tensor], n: int, where: tuple[object, ...]) -> float:
        return float((ours[n] - truths[n]).abs()[where].mean())

    assert np.mean([wrong(steady, n, inner) for n in range(2, 5)]) < 0.8 * np.mean(
        [wrong(maps, n, inner) for n in range(2, 5)]
    )
    for n in range(1, 5):
        edge = (..., slice(64 + SPEED * n - 6, 64 + SPEED * n + 6))
        assert wrong(steady, n, edge) < wrong(maps, n, edge) + 0.02, "an edge that moves is not smeared"

    def flicker(ours: list[torch.Tensor]) -> float:
        moved = [torch.roll(one, SPEED, -1) for one in ours]
        return float(torch.stack([ours[n] - moved[n - 1] for n in range(2, 5)])[inner].abs().mean())

    assert flicker(steady) < 0.6 * flicker(maps)


def test_another_picture_drops_the_past_and_a_pull_of_the_focus_is_followed():
    truth, read = flickering(2)
    frame = texture(1)
    remembered = torch.cat([read[0], sample_frame(own_variance(read[0], FLAT_VARIANCE))], 1)
    # Half of the picture is new, and there the map is far from what it was.
    other = torch.cat([texture(2)[..., :64], frame[..., 64:]], -1)
    now = torch.cat([read[1][..., :64] + 1.5, read[1][..., 64:]], -1)
    kept, _ = steadied(now, FLAT_VARIANCE, other, frame, remembered)
    new, same = (kept - now).abs()[..., :48].mean(), (kept - now).abs()[..., 80:].mean()
    assert new < 0.05 and same > 0.05, "where the picture is the old one, the past still counts"
    pulled_map = read[1] + 0.4
    followed, _ = steadied(pulled_map, FLAT_VARIANCE, frame, frame, remembered)
    assert float((followed - pulled_map).mean().abs()) < 0.03, "not held back by what was"
    assert float((followed - (truth + 0.4)).abs().mean()) < 0.85 * float((pulled_map - (truth + 0.4)).abs().mean())


def test_the_ways_to_use_the_past_share_their_weights_and_differ_from_the_second_frame_on():
    torch.manual_seed(0)
    net = FocusMamba(TINY).eval()
    assert net.cue is not None
    torch.nn.init.normal_(net.cue.last.weight)
    first = torch.rand(1, 3, 32, 48)
    second = torch.roll(first, 4, -1)
    seen = {}
    for way in ("state", "aligned", "filter"):
        one = with_over_time(net, way)
        with torch.no_grad():
            opening, state = one(first)
            later, after = one(second, state)
        assert torch.equal(opening.log_magnitude, net(first)[0].log_magnitude), "a first frame has no past"
        assert state.map_samples.shape == after.map_samples.shape == (1, 2, FRAME_SAMPLES, FRAME_SAMPLES)
        seen[way] = later.log_magnitude
    assert not torch.equal(seen["state"], seen["aligned"]) and not torch.equal(seen["state"], seen["filter"])
    with torch.no_grad():
        fresh = net(second)[0].log_magnitude
    assert not torch.equal(seen["filter"], fresh) and float((seen["filter"] - fresh).abs().max()) < 1
    with pytest.raises(FocusMambaError, match="over_time must be one of state, aligned, filter, got 'mean'"):
        replace(VARIANTS["focus_nano"], over_time="mean")


def scene(frames: int, focus_m: list[float]) -> Scene:
    """A far wall, in focus."""
    wall = torch.rand(frames, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    lenses = [Lens(f_m=0.05, f_number=2.0, focus_m=one) for one in focus_m]
    return Scene(
        frames=wall,
        photos=wall.clone(),
        depth_m=torch.full((frames, 1, 96, 128), 6.0),
        signed_px=torch.zeros(frames, 1, 96, 128),
        lenses=lenses,
        px_per_mm=10.0,
        limit_px=48.0,
        aperture=Aperture(),
    )


def test_a_thing_before_the_lens_has_its_own_blur_and_the_wall_shows_through_its_rim():
    covered = 0
    for seed in range(6):
        given = scene(1, [6.0])
        frames, photos, signed = occluded(given, np.random.Generator(np.random.PCG64(seed)))
        inside = signed < 0
        covered += int(inside.any())
        if not inside.any():
            continue
        assert bool(
            (-signed[inside] >= 0.99 * LEAST_RADIUS_PX).all() and (-signed[inside] <= 1.1 * LARGEST_RADIUS_PX).all()
        )
        assert not torch.allclose(frames, given.frames, atol=0.02)
        # Beyond the reach of the blur nothing has changed; inside it, the photograph is neither the frame nor the wall.
        reach = int(float(-signed.min())) + 3
        grown = torch.nn.functional.max_pool2d(inside.float(), 2 * reach + 1, 1, reach) > 0
        rim = grown & ~inside
        border = torch.zeros_like(grown)
        border[..., reach:-reach, reach:-reach] = True
        untouched = ~grown & border
        if untouched.any():
            assert float((photos - given.photos).abs().amax(1, keepdim=True)[untouched].max()) < 1e-3
        assert float((photos - given.photos).abs().mean(1, keepdim=True)[rim].mean()) > 1e-3
        again = occluded(given, np.random.Generator(np.random.PCG64(seed)))
        assert torch.equal(photos, again[1]) and torch.equal(signed, again[2])
    assert covered > 3


def test_its_label_follows_a_focus_that_travels():
    given = scene(2, [6.0, 3.0])
    _, _, signed = occluded(given, np.random.Generator(np.random.PCG64(1)))
    first, second = (float(one[one < 0].min()) for one in signed)
    assert second > first, "a nearer focus blurs near things less"
    depth = torch.linspace(1, 9, 200).view(1, 10, 20)
    drawn = [draw_focus(np.random.Generator(np.random.PCG64(n)), depth) for n in range(50)]
    assert min(drawn) >= 1 and max(drawn) <= 9 and np.mean(drawn) > 5.5, "mostly far"
