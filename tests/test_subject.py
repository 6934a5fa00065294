"""The subject's mask from a small ONNX network, written here byte by byte in the form of IS-Net: it marks what is red."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_sdxl
from conftest import load_script, texture
from PIL import Image

from pipeline.errors import InputError, UsageError
from pipeline.refocus.subject import SubjectNetwork


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def number(key: int, value: int) -> bytes:
    return varint(key << 3) + varint(value)


def part(key: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(key << 3 | 2) + varint(len(data)) + data


def tensor(name: str, shape: tuple[int, ...], values: list[float]) -> bytes:
    dims = b"".join(number(1, side) for side in shape)
    return dims + number(2, 1) + part(8, name) + part(9, struct.pack(f"<{len(values)}f", *values))


def value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(part(1, number(1, side)) for side in shape)
    return part(1, name) + part(2, part(1, number(1, 1) + part(2, dims)))


def write_onnx(path: Path, weights: list[float], side: int = 1024) -> Path:
    """sigmoid(1 x 1 convolution): a mask of one channel, or of as many as there are weights / 3."""
    out = len(weights) // 3
    conv = part(1, "picture") + part(1, "w") + part(2, "raw") + part(4, "Conv")
    sigmoid = part(1, "raw") + part(2, "mask") + part(4, "Sigmoid")
    graph = part(1, conv) + part(1, sigmoid) + part(2, "g") + part(5, tensor("w", (out, 3, 1, 1), weights))
    graph += part(11, value("picture", (1, 3, side, side))) + part(12, value("mask", (1, out, side, side)))
    path.write_bytes(number(1, 8) + part(8, number(2, 13)) + part(7, graph))
    return path


RED = [60.0, -30.0, -30.0]


def test_what_the_network_marks_is_the_subject(tmp_path: Path):
    picture = np.full((40, 60, 3), 128, np.uint8)
    picture[10:30, 15:45] = (255, 0, 0)
    found = SubjectNetwork(write_onnx(tmp_path / "net.onnx", RED)).mask(picture)
    truth = picture[..., 0] == 255
    assert found.shape == (40, 60) and (found & truth).sum() / (found | truth).sum() > 0.9


def test_files_that_are_no_mask_network(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no file"):
        SubjectNetwork(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UsageError, match="is no ONNX network"):
        SubjectNetwork(tmp_path / "text.onnx")
    two = SubjectNetwork(write_onnx(tmp_path / "two.onnx", RED * 2))
    with pytest.raises(InputError, match=r"must give a finite mask \(1, 1, H, W\) first, got \(1, 2, 1024, 1024\)"):
        two.mask(texture(20, 20))


def test_focus_follows_the_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(tiny_sdxl.write_weights(tmp_path / "weights")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = np.full((48, 64, 3), 128, np.uint8)
    picture[:, 48:] = (255, 0, 0)
    Image.fromarray(picture).save(photos / "photo.jpg", quality=98)
    disparity = np.full((48, 64), 20000, np.uint16)
    disparity[:, 48:] = 65535
    cv2.imwrite(str(photos / "photo.png"), disparity)
    flags = ["--test_data_dir", str(photos), "--output_dir", str(tmp_path / "out"), "--organization", "pngdepth"]
    network = str(write_onnx(tmp_path / "net.onnx", RED))
    assert load_script("bokehdiff")([*flags, "--device", "cpu", "--mask_network", network]) == 0
    assert "in focus is disparity 1.000" in capsys.readouterr().out
    assert load_script("bokehdiff")([*flags, "--device", "cpu", "--overwrite"]) == 0
    assert "in focus is disparity 0.305" in capsys.readouterr().out, "the middle, without a network"
