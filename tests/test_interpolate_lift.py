"""LIFT as an interpolation engine: it gives what the network gives, encodes a frame once, and refuses what it cannot make."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_script, texture
from PIL import Image

from model.errors import CheckpointError
from model.lift.config import LiftConfig
from model.lift.network import LiftNet, LiftOutput
from model.lift.task import CONVENTIONS
from model.training.network_file import network_bytes
from pipeline.engines import load_engine
from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.engines.interpolation.tiles import interpolate_tiled
from pipeline.errors import UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.weights.digest import file_sha256

SMALL = LiftConfig(
    frames_before=3, frames_after=2, c1=4, c2=4, c4=8, c8=8, c16=8, dim=16, heads=2, layers=1, dropout=0.0,
    flow8=8, flow8_blocks=1, flow4=8, flow4_blocks=1, synthesis=4, refine=8, refine_blocks=1, refine_tail=4,
    t_min=0.25, t_max=0.75, prior="classical", warp_features=True, refine_on="blend",
)  # fmt: skip
FILM = [texture(48, 64, seed=number) for number in range(8)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def lively(config: LiftConfig) -> LiftNet:
    """Random weights everywhere: a fresh network makes the mean of its neighbours, and its context changes nothing."""
    torch.manual_seed(0)
    net = LiftNet(config).eval()
    for parameter in net.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def saved(folder: Path, config: LiftConfig = SMALL, family: str = "lift") -> tuple[LiftNet, Path]:
    """A network and the folder of its run."""
    net = lively(config)
    step = folder / "checkpoints" / "step_000007"
    step.mkdir(parents=True)
    data = network_bytes(family, config.to_dict(), CONVENTIONS, net.state_dict(), 7, {})
    (step / "model.safetensors").write_bytes(data)
    return net, folder


def engine(checkpoint: Path, **options: str) -> Interpolator:
    return load_engine("interpolate", "lift", {"checkpoint": str(checkpoint), **options}, "cpu", Interpolator)


def window(target: float, film: list, present: tuple[int, ...] | None = None) -> Context:
    """What scripts/interpolate.py gives for an instant of a film."""
    numbers = range(max(0, int(target) - 2), min(len(film), int(target) + 3))
    frames = tuple(film[n] if present is None or n in present else None for n in numbers)
    return Context(frames=frames, indices=tuple(numbers), target=target)


@torch.no_grad()
def directly(net: LiftNet, frames: list, offsets: list[float], t: float) -> np.ndarray:
    given = torch.stack([image_to_tensor(frame) for frame in frames])[None]
    present = torch.ones(1, len(frames), dtype=torch.bool)
    out = net(given, torch.tensor([offsets], dtype=torch.float32), present, torch.tensor([t]))
    return out.image[0].permute(1, 2, 0).numpy()


def never() -> None:
    """No signal came."""


def test_it_gives_what_the_network_gives(tmp_path: Path):
    net, run = saved(tmp_path / "run")
    lift = engine(run)
    assert lift.reach == (3, 2)
    file = run / "checkpoints" / "step_000007" / "model.safetensors"
    assert lift.info.weights == {"model.safetensors": file_sha256(file)}
    for place in (run, file, file.parent):
        made = engine(place).interpolate(window(3.25, FILM), never)
        assert np.allclose(made, directly(net, FILM[1:6], [-2.25, -1.25, -0.25, 0.75, 1.75], 0.25), atol=1e-5)
    masked = lift.interpolate(window(3.5, FILM, present=(1, 3, 4, 5)), never)
    assert np.allclose(masked, directly(net, [FILM[n] for n in (1, 3, 4, 5)], [-2.5, -0.5, 0.5, 1.5], 0.5), atol=1e-5)
    near = directly(net, FILM[3:5], [-0.5, 0.5], 0.5)
    assert np.abs(masked - near).max() > 1e-4, "the context counts"


def test_bfloat16_is_near_and_flows_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, run = saved(tmp_path / "run")
    exact = engine(run).interpolate(window(3.5, FILM), never)
    kinds = []
    original = LiftNet._make

    def seen(*args: object) -> LiftOutput:
        out = original(*args)
        kinds.append((out.flows_s4.dtype, out.blend.dtype))
        return out

    monkeypatch.setattr(LiftNet, "_make", seen)
    lift = engine(run, dtype="bf16")
    assert lift.options.dtype == "bf16"
    made = lift.interpolate(window(3.5, FILM), never)
    assert made.dtype == np.float32
    assert kinds == [(torch.float32, torch.float32)]
    assert 0 < np.abs(made - exact).max() < 0.05  # 8 bits of mantissa, over a network of random weights
    with pytest.raises(UsageError, match="dtype must be one of fp32, bf16, got 'fp16'"):
        engine(run, dtype="fp16")


def test_compiled_it_gives_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Traced as a compiler would have it, without the minutes of C++."""
    _, run = saved(tmp_path / "run")
    plain = torch.nn.Module.compile
    parts = []

    def traced(self: torch.nn.Module, **how: object) -> None:
        parts.append(type(self).__name__)
        plain(self, backend="eager", **how)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    compiled = engine(run, compile="true").interpolate(window(3.5, FILM), never)
    assert parts == ["Encoder", "TemporalTransformer", "FlowNet", "CoarseSynthesis", "Refinement"]
    assert np.allclose(compiled, engine(run).interpolate(window(3.5, FILM), never), atol=1e-5)
    assert len(parts) == 5, "only where it is asked for"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match=r"compile needs a C\+\+ compiler on the CPU"):
        engine(run, compile="true")


def test_offsets_are_in_the_unit_of_the_training(tmp_path: Path):
    net, run = saved(tmp_path / "run")
    lift = engine(run)
    dense = Context(frames=tuple(FILM[:5]), indices=(0, 1, 2, 4, 5), target=3)
    want = directly(net, FILM[:5], [-3, -2, -1, 1, 2], 0.5)
    assert np.allclose(lift.interpolate(dense, never), want, atol=1e-5)
    every_second = Context(frames=tuple(FILM[:5]), indices=(0, 2, 4, 6, 8), target=5)
    want = directly(net, FILM[:5], [-2.5, -1.5, -0.5, 0.5, 1.5], 0.5)
    assert np.allclose(lift.interpolate(every_second, never), want, atol=1e-5)
    wide = Context(frames=tuple(FILM[:7]), indices=tuple(range(7)), target=4.5)  # more than it reaches
    want = directly(net, FILM[2:7], [-2.5, -1.5, -0.5, 0.5, 1.5], 0.5)
    assert np.allclose(lift.interpolate(wide, never), want, atol=1e-5)


def test_a_frame_is_encoded_once_while_the_film_slides_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, run = saved(tmp_path / "run")
    lift, seen = engine(run), []
    encode = LiftNet.encode

    def counted(self: LiftNet, frame: torch.Tensor, *, neighbour: bool = True):
        seen.append(frame)
        return encode(self, frame, neighbour=neighbour)

    monkeypatch.setattr(LiftNet, "encode", counted)
    made, instants = [], [n + t for n in range(7) for t in (0.25, 0.75)]
    for instant in instants:
        made.append(lift.interpolate(window(instant, FILM), never))
    assert len(seen) == len(FILM)
    for picture, instant in zip(made[::5], instants[::5], strict=True):
        assert np.array_equal(picture, engine(run).interpolate(window(instant, FILM), never))
    back = lift.interpolate(window(4.25, FILM), never)  # somebody goes back: the fine features are made again
    assert np.array_equal(back, made[instants.index(4.25)])


def test_tiles_and_other_films_are_not_mixed_up(tmp_path: Path):
    _, run = saved(tmp_path / "run")
    lift, film = engine(run), [texture(40, 300, seed=number) for number in range(3)]
    context = window(0.5, film)
    tiled = interpolate_tiled(lift, context, 256, never)
    part = Context(frames=tuple(frame[:, 44:] for frame in film), indices=(0, 1, 2), target=0.5)
    assert np.array_equal(tiled[:, 260:], engine(run).interpolate(part, never)[:, 216:])
    other = window(0.5, film[::-1])  # the same numbers
    assert np.array_equal(lift.interpolate(other, never), engine(run).interpolate(other, never))


def test_an_instant_that_was_not_trained_is_refused(tmp_path: Path):
    lift = engine(saved(tmp_path / "run")[1])
    said = r"was trained to make frames for t in \[0\.25, 0\.75\], got t = 0\.125: take --factor 2"
    with pytest.raises(UsageError, match=said):
        lift.check_t(0.125)
    with pytest.raises(UsageError, match=said):
        lift.interpolate(window(3.125, FILM), never)
    middle = engine(saved(tmp_path / "middle", replace(SMALL, t_min=0.5, t_max=0.5))[1])
    middle.check_t(0.5)
    with pytest.raises(UsageError, match=r"at t = 0\.5 alone, got t = 0\.25"):
        middle.check_t(0.25)


def test_what_is_no_lift_network_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="give --checkpoint"):
        load_engine("interpolate", "lift", {}, "cpu", Interpolator)
    with pytest.raises(UsageError, match=r"neither a model\.safetensors nor a checkpoint or run folder"):
        engine(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a bokehflow network; the interpolator lift needs one of lift"):
        engine(saved(tmp_path / "foreign", family="bokehflow")[1])
    _, run = saved(tmp_path / "run")
    file = run / "checkpoints" / "step_000007" / "model.safetensors"
    net = lively(SMALL)
    other = replace(SMALL, dim=32).to_dict()
    file.write_bytes(network_bytes("lift", other, CONVENTIONS, net.state_dict(), 7, {}))
    with pytest.raises(CheckpointError, match="the weights are not those of its config"):
        engine(run)
    newer = SMALL.to_dict() | {"of_a_later_version": 1}
    file.write_bytes(network_bytes("lift", newer, CONVENTIONS, net.state_dict(), 7, {}))
    with pytest.raises(CheckpointError, match="unknown setting 'of_a_later_version'"):
        engine(run)


def test_the_script_takes_it_when_a_checkpoint_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    net, run = saved(tmp_path / "run")
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(FILM[:3]):
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    script = load_script("interpolate")
    how = ["--no_cuts", "--device", "cpu"]
    assert script(["in", "-o", "out", "--checkpoint", str(run), *how]) == 0
    assert "interpolator: lift, since a checkpoint was given" in capsys.readouterr().out
    made = np.asarray(Image.open(tmp_path / "out" / "frame_000001.png")).astype(int)
    want = directly(net, FILM[:3], [-0.5, 0.5, 1.5], 0.5) * 255
    assert np.abs(made - want).max() < 0.51
    assert script(["in", "-o", "eighths", "--factor", "8", "--checkpoint", str(run), *how]) == 2
    assert "got t = 0.125" in capsys.readouterr().err
    assert script(["in", "-o", "none", "--interpolator", "lift", *how]) == 2
    assert "the interpolator lift needs a network: give --checkpoint" in capsys.readouterr().err
