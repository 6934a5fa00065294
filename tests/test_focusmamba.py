"""FocusMamba: shapes, its filter bank on known pictures, samples, losses, resuming, and self-supervision."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from finished_scenes import shared_scenes

from model.data.focus_dataset import FocusDataset
from model.data.sampling import ClipSettings
from model.data.scene_manifest import find_scenes
from model.evaluate import main as evaluate
from model.evaluation.eval_clips import scene_clips
from model.evaluation.photographs import find_photographs
from model.focusmamba import VARIANTS, FocusMamba, FocusMambaConfig, FocusMambaError, variant
from model.focusmamba import augment as augmentation
from model.focusmamba.augment import NOTHING
from model.focusmamba.bank import OCTAVES, FilterBank, blur, noise_level
from model.focusmamba.data import FocusClips, build_data, collate
from model.focusmamba.losses import FocusLoss, FocusLossWeights, bins_term, render_term, temporal_term
from model.focusmamba.measure import focus_distance_m
from model.focusmamba.settings import FocusDataSettings
from model.focusmamba.task import FocusMambaTask
from model.train import main as train
from pipeline.errors import StoppedError, UsageError
from pipeline.media.depth_files import encode_npz
from pipeline.media.images import encode_png
from pipeline.media.warping import backward_warp
from pipeline.optics import Aperture, Lens, focus_map, linear_to_srgb, render_lens_blur, srgb_to_linear
from pipeline.optics.labels import focus_from_radius, signed_label_px
from pipeline.photographs import PhotographRequest, write_photographs

TINY = FocusMambaConfig(channels=16, heads=2, head_dim=8, blocks=1, stem_channels=8, middle_channels=8)
SETTINGS = (
    '[task]\nname = "focusmamba"\n[model]\nvariant = "focus_nano"\nchannels = 16\nhead_dim = 8\nblocks = 1\nstem_channels = 8\n'
    "middle_channels = 8\n"
    "[data]\nclip_frames = 2\ncrop_width = 32\ncrop_height = 32\n[loss]\nvariance_from = 0.0\nrender_from = 0.0\n"
    "[run]\nsteps = 4\nbatch_size = 1\nmicro_batch_size = 1\nthreads = 1\nvalidate_every = 4\nsave_every = 1\nval_clips = 1\n"
    "val_frames = 1\n"
)


def config(folder: Path) -> Path:
    path = folder / "focus.toml"
    path.write_text(SETTINGS)
    return path


@pytest.mark.parametrize(("height", "width"), [(4, 4), (30, 41)])
def test_any_size_gives_maps_of_that_size_and_a_state_of_constant_size(height: int, width: int):
    net = FocusMamba(TINY).eval()
    out, state = net(torch.rand(2, 3, height, width))
    again, later = net(torch.rand(2, 3, height, width), state)
    for one in (out, again):
        assert one.magnitude_px.shape == one.log_variance.shape == one.behind.shape == (2, 1, height, width)
        assert bool((one.magnitude_px >= 0).all() and (one.magnitude_px < TINY.max_radius_px).all())
    assert state.scan_states.shape == later.scan_states.shape and state.map_samples.shape == (2, 2, 128, 128)


def test_the_state_changes_the_next_map_and_a_network_without_it_ignores_it():
    torch.manual_seed(0)
    net = FocusMamba(TINY).eval()
    torch.nn.init.normal_(net.cue.last.weight)
    first, second = torch.rand(2, 1, 3, 32, 32)
    _, state = net(first)
    assert not torch.equal(net(second, state)[0].log_magnitude, net(second)[0].log_magnitude)
    single = FocusMamba(replace(TINY, enable_tsp=False, enable_cue=False)).eval()
    _, state = single(first)
    assert torch.equal(single(second, state)[0].log_magnitude, single(second)[0].log_magnitude)


def test_an_open_gate_keeps_the_last_map_and_a_first_frame_has_none():
    torch.manual_seed(0)
    net = FocusMamba(TINY).eval()
    first, second = torch.rand(2, 1, 3, 32, 32)
    with torch.no_grad():
        closed = net(first)[0].log_magnitude
        net.head.last.bias[-4:] = 40.0
        net.head.last.weight[-4:] = 0.0
        out, state = net(first)
        kept, _ = net(second, state)
        fresh, _ = net(second)
    assert torch.equal(out.log_magnitude, closed), "there is nothing to keep yet"
    assert float((kept.log_magnitude - out.log_magnitude).abs().max()) < 1e-4
    assert float((fresh.log_magnitude - out.log_magnitude).abs().max()) > 1e-3


def test_the_bins_share_a_label_between_two_neighbours():
    largest = float(np.log1p(63))
    place = torch.full((1, 1, 2, 2), 2.25 * largest / 4)  # of 5 bins
    right = torch.full((1, 5, 2, 2), -30.0)
    right[:, 2], right[:, 3] = np.log(0.75), np.log(0.25)
    best = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert float(bins_term(right, place, largest)) == pytest.approx(best, abs=1e-5)
    assert float(bins_term(torch.zeros(1, 5, 2, 2), place, largest)) == pytest.approx(np.log(5), abs=1e-5)
    assert float(bins_term(right, 0 * place, largest)) > 10
    beyond = torch.full((1, 5, 2, 2), -30.0)
    beyond[:, 4] = 0
    assert float(bins_term(beyond, 0 * place + 9, largest)) == pytest.approx(0, abs=1e-5), "the last bin is open"


def test_the_noise_of_a_textured_picture_is_read():
    grey = torch.rand(2, 1, 24, 24).repeat_interleave(5, -1).repeat_interleave(5, -2) * 0.5 + 0.2
    grey = blur(grey, 2.0)
    quiet, loud = (float(noise_level(grey + sigma * torch.randn(grey.shape)).mean()) for sigma in (0.002, 0.02))
    assert quiet == pytest.approx(0.8 * 0.002, rel=0.2) and loud == pytest.approx(0.8 * 0.02, rel=0.1)


def test_a_frame_and_its_photograph_change_colour_alike():
    frame = torch.rand(1, 3, 24, 24) * 0.3
    light = srgb_to_linear(frame)
    photo = linear_to_srgb(blur(light, 2.0))
    rng = np.random.Generator(np.random.PCG64(4))
    one, other = augmentation.recoloured(torch.cat([frame, photo]), rng).chunk(2)
    assert not torch.allclose(one, frame, atol=0.02)
    assert torch.allclose(srgb_to_linear(other), blur(srgb_to_linear(one), 2.0), atol=1e-4), "still its blur"


def test_what_the_network_cannot_work_with_is_said():
    net = FocusMamba(TINY)
    for frame, message in (
        (torch.rand(1, 1, 8, 8), r"frame must be \(B, 3, H, W\)"),
        (torch.rand(1, 3, 3, 8), "at least 4x4"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide bytes by 255"),
    ):
        with pytest.raises(FocusMambaError, match=message):
            net(frame)
    _, state = net(torch.rand(1, 3, 8, 8))
    with pytest.raises(FocusMambaError, match=r"state.scan_states must be \(1, 2, 4"):
        net(torch.rand(2, 3, 8, 8), state)
    with pytest.raises(FocusMambaError, match="variant must be one of focus_nano, focus_small, focus_base"):
        variant("focus_huge")
    with pytest.raises(FocusMambaError, match="channels must be a multiple of 8, got 20"):
        replace(TINY, channels=20)
    assert FocusMambaConfig.from_dict(VARIANTS["focus_base"].to_dict()) == VARIANTS["focus_base"]


def test_the_bank_reads_the_blur_of_a_step_edge_and_forgets_exposure():
    def edge(sigma: float, gain: float) -> torch.Tensor:
        light = torch.full((1, 3, 48, 96), 0.1) * gain
        light[..., 48:] = 0.6 * gain
        return linear_to_srgb(blur(light, sigma) if sigma else light)

    bank = FilterBank()
    read = {}
    for sigma in (0.0, 1.5, 3.0):
        read[sigma] = bank(edge(sigma, 1.0))[0, :, 12, 23:25].mean(1)
        darker = bank(edge(sigma, 0.5))[0, :, 12, 23:25].mean(1)
        assert float((darker - read[sigma]).abs().max()) < 0.06
    for sigma in (1.5, 3.0):
        for number, s in enumerate((1.0, 2.0, 4.0)):
            # energies are averaged over a window, where the blurred edge is the wider one: a little below the ridge's ratio
            ridge = 0.5 * np.log(1 + s**2 / sigma**2)
            assert 0.5 * ridge < float(read[sigma][OCTAVES + number]) + 0.7 <= ridge + 0.01
    for plane in (0, 1, OCTAVES, OCTAVES + 1, OCTAVES + 2):
        assert read[0.0][plane] > read[1.5][plane] > read[3.0][plane]


def test_signed_label_and_focus_map_are_the_label_formula():
    lens = Lens(f_m=0.05, f_number=2.0, focus_m=3.0)
    depth = torch.tensor([[[0.5, 2.0, 3.0, 6.0, 1000.0]]])
    signed = signed_label_px(depth, lens, 10.0, 4.0)
    assert signed.tolist()[0][0] == pytest.approx([-4.0, -1.0417, 0.0, 1.0417, 2.0771], abs=1e-3)
    max_coc_m = 2 * 4.0 / 10.0 / 1000
    assert torch.allclose(focus_from_radius(signed, max_coc_m, 10.0), focus_map(depth, lens, max_coc_m), atol=1e-6)


def test_the_loader_gives_the_side_with_the_label():
    sample = FocusDataset(find_scenes(shared_scenes(), "train"))[0]
    behind = sample["depth_m"] > sample["focus_m"]
    seen = sample["signed_px"].abs() > 1e-3
    assert torch.equal((sample["signed_px"] > 0)[seen], behind[seen])
    again = focus_from_radius(sample["signed_px"], float(sample["max_coc_m"]), float(sample["px_per_mm"]))
    assert float((again - sample["focus_map"]).abs().max()) < 1e-3  # float16


def clips():
    return scene_clips(find_scenes(shared_scenes(), "train"))


def test_sample_n_is_the_same_every_time_and_its_label_follows_size_and_lens():
    settings = ClipSettings(clip_frames=2, crop_width=32, crop_height=32, seed=3)
    everything = augmentation.AugmentSettings(
        relens=1,
        pull=1,
        refocus=1,
        occlude=1,
        resize=1,
        min_resize=1.3,
        max_resize=1.3,
        noise=1,
        motion=1,
        sharpen=1,
        h264=1,
        jpeg=0,
    )
    source = FocusClips(clips(), settings, everything)
    one, again = source[5], source[5]
    assert torch.equal(one.photos, again.photos) and torch.equal(one.signed_px, again.signed_px)
    assert one.photos.shape == (2, 3, 32, 32) and one.flow.shape == (1, 2, 32, 32)
    assert one.map_radius_px == pytest.approx(
        1.3 * FocusClips(clips(), settings, augmentation.NOTHING)[5].map_radius_px
    )
    assert not torch.equal(one.photos, source[6].photos)
    drawn = [augmentation.draw_opening(np.random.Generator(np.random.PCG64(n))).blades for n in range(60)]
    assert set(drawn) == {0, 6, 7, 8, 9}, "the pentagon is kept for the test"


def test_compression_noise_and_motion_change_the_photograph_and_keep_its_shape():
    photos = torch.rand(2, 3, 32, 32) * 0.5 + 0.25
    rng = np.random.Generator(np.random.PCG64(0))
    for changed in (
        augmentation.jpeg(photos, 70),
        augmentation.h264(photos, 23),
        augmentation.motion_blurred(photos, 5.0, 0.3),
        augmentation.sharpened(photos, 0.5, 1.0),
    ):
        assert changed.shape == photos.shape and not torch.equal(changed, photos)
    flat = torch.full((1, 3, 64, 64), 0.5)
    noisy = augmentation.noisy(flat, 4 / 255, 0.5, rng)
    assert float(noisy.std()) == pytest.approx(4 / 255, rel=0.05)
    assert torch.allclose(augmentation.motion_blurred(flat, 6.0, 1.0), flat, atol=1e-5)
    with pytest.raises(ValueError, match=r"augment.noise must be a probability in \[0, 1\], got 2"):
        augmentation.AugmentSettings(noise=2)


def test_change_along_the_flow_is_held_against_the_labels_own():
    before = torch.rand(1, 1, 16, 16)
    now = torch.roll(before, 2, -1)
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = -2  # what is here now was two pixels further left
    trusted = torch.zeros(1, 1, 16, 16)
    trusted[..., 3:-3] = 1
    assert torch.allclose(backward_warp(before, flow)[..., 3:-3], now[..., 3:-3], atol=1e-5)
    assert float(temporal_term(now, before, now, before, flow, trusted)) < 1e-5
    assert float(temporal_term(now + 0.3, before, now, before, flow, trusted)) == pytest.approx(0.3, abs=1e-4)


def test_every_term_of_the_loss_is_there_in_its_time_and_moves_the_network():
    settings = ClipSettings(clip_frames=2, crop_width=32, crop_height=32)
    batch = collate([FocusClips(clips(), settings, augmentation.NOTHING)[0]])
    batch = replace(
        batch, signed_px=8 * batch.signed_px, map_radius_px=8 * batch.map_radius_px
    )  # enough for a side to show
    torch.manual_seed(0)
    net = FocusMamba(TINY)
    loss = FocusLoss(FocusLossWeights(), steps=10, max_radius_px=64.0)

    def outputs():
        state, found = None, []
        for t in range(2):
            out, state = net(batch.photos[:, t], state)
            found.append(out)
        return found

    early, late = loss(outputs(), batch, 0), loss(outputs(), batch, 9)
    assert set(early.values) == {"magnitude", "bins", "focus_map", "gradient", "side", "temporal"}
    assert set(late.values) == {*early.values, "variance", "render"}
    for name, value in late.values.items():
        net.zero_grad()
        value.backward(retain_graph=True)
        norm = sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)
        assert norm > 0, name
    with pytest.raises(UsageError, match=r"loss\.render must be finite and >= 0, got -1"):
        FocusLossWeights(render=-1)


def test_rerendering_alone_finds_the_radius_without_a_label():
    torch.manual_seed(0)
    frame = torch.rand(1, 3, 40, 40)
    truth = torch.full((1, 1, 40, 40), 2.0)
    truth[..., 20:] = 3.5
    photo = render_lens_blur(frame, truth)
    guess = torch.full((1, 1, 1, 2), 1.0, requires_grad=True)  # one radius for each half
    optimiser = torch.optim.Adam([guess], lr=0.15)

    def error() -> float:
        return float((guess.detach() - torch.tensor([2.0, 3.5])).abs().mean())

    before = error()
    for _ in range(25):
        optimiser.zero_grad()
        radius = guess.clamp(min=0).repeat_interleave(20, -1).expand(1, 1, 40, 40)
        render_term(radius, frame, photo, [Aperture()]).backward()
        optimiser.step()
    assert before == pytest.approx(1.75) and error() < 0.5


def test_focus_distance_follows_from_radii_and_depth():
    depth = np.linspace(1.0, 9.0, 600, dtype=np.float32).reshape(20, 30)
    radius = 7.0 * np.abs(1 / depth - 1 / 2.5)
    assert focus_distance_m(radius, depth) == pytest.approx(2.5, rel=0.03)


def test_ray_traced_photographs_carry_the_blur_of_their_lens(tmp_path: Path):
    request = PhotographRequest(
        scene_id="bear_00007", family="bear", seed=7, split="train", width=144, height=80, num_frames=1, num_sets=1, samples=24
    )  # fmt: skip
    assert write_photographs(tmp_path, request)
    (clip,) = find_photographs(tmp_path).clips
    sample = clip.read(0)
    signed = signed_label_px(sample.depth_m, clip.lens, clip.px_per_mm, float("inf"))[None]
    rendered = render_lens_blur(sample.frame[None], signed, order=sample.depth_m[None])[0]
    assert float((rendered - sample.bokeh).abs().mean()) < 0.6 * float((sample.frame - sample.bokeh).abs().mean())
    assert clip.max_radius_px is None, "the label saturates, the photograph does not"
    with pytest.raises(UsageError, match="holds no ray-traced photographs"):
        find_photographs(tmp_path / "none")
    (tmp_path / "bear_00007" / "bokeh_renders" / ".done").unlink()
    with pytest.raises(UsageError, match="bear_00007: "):
        find_photographs(tmp_path)


def test_photographs_of_the_earlier_layout_are_read(tmp_path: Path):
    folder = tmp_path / "night_003"
    for name in ("frames", "depth", "set_00"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("frames/frame_0000.png", "set_00/photo_0000.png"):
        (folder / name).write_bytes(encode_png(rng.integers(0, 256, (16, 32, 3)).astype(np.uint8)))
    (folder / "depth" / "depth_0000.npz").write_bytes(encode_npz("depth", np.full((16, 32), 2.0, np.float16)))
    lens = {"f_m": 0.05, "f_number": 2.0, "focus_m": 3.0}
    record = {"schema": 1, "request": {"num_frames": 1}, "px_per_mm": 32 / 36, "lenses": [lens]}
    (folder / "photographs.json").write_text(json.dumps(record))
    (clip,) = find_photographs(tmp_path).clips
    assert (clip.name, clip.lens, clip.max_radius_px) == ("night_003 photographs 0", Lens(**lens), None)
    assert clip.read(0).bokeh.shape == (3, 16, 32)


def test_a_resumed_run_is_an_uninterrupted_one_and_can_be_evaluated(tmp_path: Path, capsys, monkeypatch):
    shared = ["--config", str(config(tmp_path)), "--set", f"data.root={shared_scenes()}", "--set", "run.log_every=1"]
    assert train([*shared, "--set", f"run.out_dir={tmp_path / 'whole'}"]) == 0
    original = FocusMambaTask.losses

    def stopping(self, batch, step):
        if step == 2:
            raise StoppedError("a signal")
        yield from original(self, batch, step)

    part = [*shared, "--set", f"run.out_dir={tmp_path / 'part'}"]
    monkeypatch.setattr(FocusMambaTask, "losses", stopping)
    assert train(part) == 75
    monkeypatch.setattr(FocusMambaTask, "losses", original)
    assert train(part) == 0
    weights = [next((tmp_path / run / "checkpoints").glob("*4/model.safetensors")) for run in ("whole", "part")]
    tensors = [safetensors.torch.load_file(path) for path in weights]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    capsys.readouterr()
    assert (
        evaluate([str(tmp_path / "whole"), "--split", "test", "--data_root", str(shared_scenes()), "--max_frames", "2"])
        == 0
    )
    report = json.loads((weights[0].parent / "evaluation_test.json").read_text())
    rows = set(report["scores"])
    assert {"focusmamba", "focusmamba, frame by frame", "constant", "Zhuo-Sim, noise 2"} <= rows
    assert report["scores"]["focusmamba"]["mae_px"] > 0 and report["scores"]["constant"]["temporal_px"] >= 0
    assert (weights[0].parent / "evaluation_test.png").exists()


def test_several_folders_are_trained_on_and_the_first_is_measured_on(tmp_path: Path):
    data = FocusDataSettings(root=f"{shared_scenes()}, {tmp_path}")
    assert data.roots == [shared_scenes(), tmp_path]
    clip = data.clip(0)
    one = build_data([shared_scenes()], "train", "val", None, replace(clip, crop_width=32, crop_height=32), NOTHING)
    both = build_data(
        [shared_scenes()] * 2, "train", "val", None, replace(clip, crop_width=32, crop_height=32), NOTHING
    )
    assert len(both.source) == 2 * len(one.source) and len(both.clips) == len(one.clips)
    with pytest.raises(UsageError):
        build_data(data.roots, "train", "val", None, clip, NOTHING)


def test_wrong_settings_are_named(tmp_path: Path, capsys):
    shared = ["--config", str(config(tmp_path)), "--set", f"data.root={shared_scenes()}"]
    for override, message in (
        ("model.variant=huge", "variant must be one of focus_nano"),
        ("data.crop_width=30", "at least 32"),
        ("augment.jpeg=3", "augment.jpeg must be a probability"),
        ("data.photographs=/nowhere", "holds no ray-traced photographs"),
        ("loss.side=-1", "loss.side must be finite and >= 0"),
    ):
        assert train([*shared, "--set", override, "--set", f"run.out_dir={tmp_path / 'x'}"]) == 2
        assert message in capsys.readouterr().err
