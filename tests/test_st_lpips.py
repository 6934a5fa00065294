"""ST-LPIPS from a file in the package's layout."""

import math
from pathlib import Path

import pytest
import torch

from model.evaluation.distances import load_distances
from model.evaluation.st_lpips import StLpips, load_st_lpips, load_trunk
from pipeline.errors import UsageError


def written(trunk: str, folder: Path) -> tuple[StLpips, Path]:
    """Random weights under the names that the package's files have."""
    torch.manual_seed(0)
    made = StLpips(trunk)
    for head in made.heads:
        head.copy_(torch.rand_like(head))
    stored = {}
    for name, value in made.state_dict().items():
        if name.startswith("heads."):
            name = f"lin{name.removeprefix('heads.')}.model.1.weight"
        elif name in ("shift", "scale"):
            name = f"scaling_layer.{name}"
        stored[name] = value
    path = folder / "checkpoints" / f"{trunk}_shift_tolerant.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(stored, path)
    return made, path


def test_a_file_of_the_package_is_read(tmp_path: Path):
    made, path = written("alex", tmp_path)
    assert "net.slice2.4.filt" in torch.load(path, weights_only=True), "the layers are numbered as there"
    loaded = load_st_lpips("alex", str(tmp_path))
    assert isinstance(loaded, StLpips) and not any(p.requires_grad for p in loaded.parameters())
    first, second = (torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (1, 2))
    found = loaded(first, second)
    assert torch.equal(found, made(first, second)) and (found > 0).all()
    assert torch.equal(loaded(first, first), torch.zeros(2))
    expected = torch.zeros(2)
    for head, a, b in zip(made.heads, made.features(first), made.features(second), strict=True):
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        expected += ((a - b) ** 2 * head).sum(1).mean((1, 2))
    assert torch.allclose(found, expected, rtol=1e-4)


def test_a_gradient_comes_back_from_flat_places(tmp_path: Path):
    made, _ = written("alex", tmp_path)
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    made(flat, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert bool(flat.grad.isfinite().all())


def test_missing_and_foreign_files(tmp_path: Path):
    text = load_st_lpips("alex", str(tmp_path))
    assert isinstance(text, str) and "ST-LPIPS is off: alex_shift_tolerant.pth is not there" in text
    _, path = written("alex", tmp_path)
    with pytest.raises(UsageError, match="is not ST-LPIPS on vgg"):
        load_trunk(path, "vgg")


def test_an_evaluation_measures_it_where_the_weights_are_and_says_so_where_not(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(tmp_path))
    absent = load_distances(None, "cpu")
    assert "st_lpips" not in absent.known and any(note.startswith("ST-LPIPS is off") for note in absent.notes)
    made, _ = written("alex", tmp_path)
    found = load_distances(None, "cpu").known["st_lpips"]
    first, second = torch.rand(2, 1, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    assert found(first, first) == 0 and found(first, second) == float(made(first * 2 - 1, second * 2 - 1)) > 0
    assert math.isnan(found(first[..., :31], second[..., :31])), "too small for the trunk's strides"
