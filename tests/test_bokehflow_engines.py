"""--engine bokehflow in phases 3 and 5: with tiny random networks, whole and interrupted, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, tree

import model.weights
from model.bokehflow import BokehFlow, BokehFlowConfig, LensBatch
from model.bokehflow.checkpoint import model_bytes
from model.focusmamba import FocusMamba, FocusMambaConfig
from model.focusmamba.checkpoint import CONVENTIONS
from model.focusmamba.checkpoint import FAMILY as FOCUS_FAMILY
from model.training.network_file import network_bytes
from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer, BokehRequest, Clip, StreamingDepth
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import tensor_to_image
from pipeline.media.depth_files import read_depth, read_npz
from pipeline.media.images import read_sharp
from pipeline.optics import Lens
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene

TINY = BokehFlowConfig(
    channels=16, heads=1, head_dim=8, depth_blocks=1, bokeh_blocks=1, fusion_every=1, stem_channels=16,
    aperture_dim=8, max_radius_px=854.0,  # of what the tiny scene is labelled with, nothing is beyond
)  # fmt: skip


def network(seed: int = 0, config: BokehFlowConfig = TINY) -> BokehFlow:
    torch.manual_seed(seed)
    net = BokehFlow(config).eval()
    with torch.no_grad():  # what starts at zero says nothing of a state or a lens
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def saved(folder: Path, seed: int = 0, config: BokehFlowConfig = TINY) -> Path:
    path = folder / f"net_{seed}.safetensors"
    path.write_bytes(model_bytes(config, network(seed, config).state_dict(), 7, {}))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("network"))


def flags(checkpoint: Path, *more: str) -> list[str]:
    given = [f"checkpoint={checkpoint}", *more]
    return ["--engine", "bokehflow", "--device", "cpu", *(word for one in given for word in ("--engine_opt", one))]


def calibrate(project: Project) -> None:
    """With lenses that blur."""
    assert project.run(4, "--lens_prior", "visible") == 0, project.text
    assert project.run(4, "--confirm") == 0, project.text


def request(**change) -> BokehRequest:
    """A slope through a wide lens, at a scale where its largest radius is 4 px."""
    depth = np.repeat(np.linspace(8, 1, 48, dtype=np.float32)[:, None], 64, axis=1)
    lens = Lens(f_m=0.05, f_number=1.4, focus_m=2.0)
    coc_m = lens.f_m**2 / (lens.f_number * 2.0) * np.abs(depth - 2.0) / depth
    values = {
        "sharp": np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8),
        "focus_map": (1 - np.clip(coc_m / coc_m.max(), 0, 1)).astype(np.float16),
        "depth_m": depth, "lens": lens, "max_coc_m": float(coc_m.max()), "px_per_mm": 8 / float(coc_m.max() * 1000),
        "seed": 0,
    }  # fmt: skip
    return BokehRequest(**(values | change))


def renderer(checkpoint: Path, **options: str) -> BokehRenderer:
    return load_engine("bokeh", "bokehflow", {"checkpoint": str(checkpoint), **options}, "cpu", BokehRenderer)


def test_a_scene_through_both_phases_is_told_and_validated(scene_project: Project, checkpoint: Path):
    scene_project.run_upto(2)
    assert scene_project.run(3, *flags(checkpoint)) == 0, scene_project.text
    calibrate(scene_project)
    assert scene_project.run(5, "--num_sets", "2", *flags(checkpoint)) == 0, scene_project.text
    assert scene_project.run(6) == 0, scene_project.text
    scene = Scene(scene_project.out, "tiny")
    metadata = scene.read_metadata()
    assert metadata["engine"]["name"] == "bokehflow"
    assert metadata["engine"]["options"] == {"precision": "fp32", "over_limit": "refuse"}
    assert metadata["licences"]["bokeh"] == metadata["licences"]["depth"] == "as the checkpoint"
    record = DoneRecord.read(scene.depth_dir)
    assert record is not None and set(record.fields["engine"]["weights"]) == {"checkpoint"}
    assert str(checkpoint) not in json.dumps([metadata, record.fields]), "no place of a file in what is fingerprinted"
    # The network's own pictures, at its own depth with a state over the frames, and from the stored depth without one.
    net, state = network(), None
    lens = LensBatch.of(Lens(f_m=0.05, f_number=2.0, focus_m=2.0), 80 / 36)
    with torch.inference_mode():
        for frame in range(3):
            picture = torch.from_numpy(read_sharp(scene.sharp_path(frame))).permute(2, 0, 1)[None] / 255
            out, state = net(picture, lens, state)
            np.testing.assert_array_equal(
                read_depth(scene.depth_path(frame)), out.depth_m[0, 0].numpy().astype(np.float16)
            )
            depth = torch.from_numpy(read_depth(scene.depth_path(frame)).astype(np.float32))[None, None]
            drawn, label = scene.lens_sets()[1].lens, read_npz(scene.focus_path(1, frame), "focus_map")
            assert float((1 - label).max()) * metadata["max_radius_px"] > 1, "there is blur to be seen"
            one = LensBatch.of(drawn, metadata["px_per_mm"], metadata["max_radius_px"])
            seen, _ = net(picture, one, None, depth_m=depth)
            np.testing.assert_array_equal(read_sharp(scene.bokeh_path(1, frame)), tensor_to_image(seen.bokeh[0]))


def test_what_is_missing_is_made_again_to_the_same_bytes(scene_project: Project, checkpoint: Path):
    scene_project.run_upto(2)
    network_phases = {3: flags(checkpoint), 5: ["--num_sets", "2", *flags(checkpoint)]}
    assert scene_project.run(3, *network_phases[3]) == 0, scene_project.text
    calibrate(scene_project)
    assert scene_project.run(5, *network_phases[5]) == 0, scene_project.text
    scene = Scene(scene_project.out, "tiny")
    before = tree(scene.dir)
    kept = (scene.depth_path(3), scene.bokeh_path(0, 2))
    stamps = [path.stat().st_mtime_ns for path in kept]
    for path in (scene.depth_path(9), scene.depth_path(10), scene.depth_path(17)):
        path.unlink()
    for path in (scene.bokeh_path(0, 3), scene.bokeh_path(1, 3), scene.bokeh_path(1, 12)):
        path.unlink()
    for phase, args in network_phases.items():
        assert scene_project.run(phase, *args) == 0, scene_project.text
    assert tree(scene.dir) == before
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_other_weights_are_another_result_and_another_place_is_not(
    scene_project: Project, checkpoint: Path, tmp_path: Path
):
    scene_project.run_upto(2)
    assert scene_project.run(3, *flags(checkpoint)) == 0
    moved = tmp_path / "run" / "model.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(checkpoint.read_bytes())
    assert scene_project.run(3, *flags(moved.parent)) == 0, scene_project.text
    assert "1 skipped" in scene_project.text
    assert scene_project.run(3, *flags(saved(tmp_path, seed=1))) != 0
    assert "engine.weights.checkpoint" in scene_project.text


def test_depth_goes_on_in_the_middle_of_a_scene(checkpoint: Path):
    pictures = np.random.default_rng(1).integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
    engine = load_engine("depth", "bokehflow", {"checkpoint": str(checkpoint)}, "cpu", StreamingDepth)
    clip = Clip(range(5), lambda number: pictures[number], None)
    whole = engine.estimate(clip, lambda: None)
    np.testing.assert_array_equal(np.stack(list(engine.stream(clip, lambda: None, 3))), whole[3:])
    alone = engine.estimate(Clip(range(3, 5), lambda number: pictures[number], None), lambda: None)
    assert (alone != whole[3:]).any(), "the frames before count, or nothing had to be replayed"


def test_a_picture_depends_on_no_other(checkpoint: Path):
    engine = renderer(checkpoint)
    first = engine.render(request(), lambda: None)
    engine.render(request(sharp=np.zeros((48, 64, 3), np.uint8)), lambda: None)
    np.testing.assert_array_equal(engine.render(request(), lambda: None), first)
    assert (engine.render(request(depth_m=request().depth_m[::-1]), lambda: None) != first).any(), "depth is looked at"


def test_a_sharp_frame_stays_as_it_is(checkpoint: Path):
    sharp = request().sharp
    asked = request(focus_map=np.full((48, 64), 0.9, np.float16))
    np.testing.assert_array_equal(renderer(checkpoint).render(asked, lambda: None), sharp)


def test_blur_beyond_the_network_is_refused_or_clipped(tmp_path: Path):
    small = saved(tmp_path, config=replace(TINY, max_radius_px=2 * 854 / (request().px_per_mm * 36)))
    with pytest.raises(InputError, match=r"radii up to 2\.0 px .* asks for 4\.0 px .*over_limit=clip"):
        renderer(small).render(request(), lambda: None)
    with torch.inference_mode():
        made = renderer(small, over_limit="clip").render(request(), lambda: None)
    assert made.shape == (48, 64, 3)
    inside = request(max_coc_m=request().max_coc_m / 2)  # the label saturates earlier, and so does the picture
    np.testing.assert_array_equal(renderer(small).render(inside, lambda: None), made)


def test_what_cannot_be_used(scene_project: Project, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scene_project.run_upto(2)
    focus = tmp_path / "focus.safetensors"
    config = FocusMambaConfig(channels=16, heads=1, head_dim=8, blocks=1)
    focus.write_bytes(
        network_bytes(FOCUS_FAMILY, config.to_dict(), CONVENTIONS, FocusMamba(config).state_dict(), 1, {})
    )
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:-10])
    for path, said in (
        (focus, "is a focusmamba network; this needs one of bokehflow"),
        (damaged, "truncated or damaged"),
        (tmp_path / "nothing", "is neither a model.safetensors nor a checkpoint or run folder"),
    ):
        assert scene_project.run(3, *flags(path)) != 0
        assert said in scene_project.text
    with pytest.raises(UsageError, match="precision bf16 is for CUDA devices, got cpu"):
        renderer(checkpoint, precision="bf16")
    with pytest.raises(UsageError, match="precision must be one of auto, bf16, fp32, got 'half'"):
        renderer(checkpoint, precision="half")
    with pytest.raises(UsageError, match="over_limit must be refuse or clip"):
        renderer(checkpoint, over_limit="ignore")
    thin = replace(request().lens, coc_model="thin_lens")
    with pytest.raises(InputError, match=r"learned of lenses by the model 'contract'.*'thin_lens'"):
        renderer(checkpoint).render(request(lens=thin), lambda: None)
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UsageError, match=r"bokehflow_nano\.safetensors is missing"):
        load_engine("bokeh", "bokehflow", {}, "cpu", BokehRenderer)


def test_without_a_checkpoint_it_is_the_one_that_comes_with_the_code(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / model.weights.SHIPPED["bokehflow"]).write_bytes(checkpoint.read_bytes())
    shipped = load_engine("bokeh", "bokehflow", {}, "cpu", BokehRenderer)
    named = renderer(checkpoint)
    assert shipped.info.weights == named.info.weights
    assert (shipped.info.licence, named.info.licence) == ("Apache-2.0", "as the checkpoint")
    np.testing.assert_array_equal(shipped.render(request(), lambda: None), named.render(request(), lambda: None))
