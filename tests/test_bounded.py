"""Reading what somebody else wrote: pipes, bombs, lies in headers, and parsers that fail in ways of their own."""

import io
import os
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from pipeline.errors import InputError
from pipeline.media.depth_files import encode_npz
from pipeline.media.depth_readers import ArrayStack
from pipeline.storage.bounded import load_npy, load_npz, npy_header, one_line, open_regular, parsing, read_bounded


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


def _npz(members: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    buffer.seek(0)
    return buffer


def test_a_pipe_a_device_and_a_folder_are_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"{path} is {kind}"):
            read_bounded(path, 10)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="a device"):
        open_regular(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "nothing", 10)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be read"):
        read_bounded(tmp_path / "loop", 10)


def test_the_limit_is_on_the_bytes_that_are_there(tmp_path: Path):
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert read_bounded(tmp_path / "ten", 10) == b"0123456789"
    with pytest.raises(InputError, match="has 10 bytes, at most 9"):
        read_bounded(tmp_path / "ten", 9)
    with pytest.raises(InputError, match="at most 9"):
        read_bounded(Path("/proc/self/status"), 9)  # says 0 bytes, holds more


def test_npz_is_loaded_when_it_is_what_it_says():
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    loaded = load_npz(io.BytesIO(encode_npz("depth", array)), "depth", "x.npz", array.nbytes)
    assert loaded.dtype == np.float16 and (loaded == array).all()
    assert npy_header(io.BytesIO(_npy(array))) == ((3, 4), np.dtype(np.float16))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other.npy": _npy(np.zeros(2))}, "needs 'depth'"),
        ({"depth.npy": _npy(np.zeros((400, 400)))}, "at most 1024 are allowed"),  # the bomb: 1.3 MB from 2 KB
        ({"depth.npy": _header("{'descr': '<f2', 'fortran_order': False, 'shape': (99999999, 99999999), }")}, "at most 1024"),
        ({"depth.npy": b"\x93NUMPY\x01\x00\x20\x00" + b"(" * 32}, "damaged or of another form"),
        ({"depth.npy": b"\x93NUMPY\x01\x00\x20\x00" + b"'''" + b" " * 29}, "damaged or of another form"),
        ({"depth.npy": _npy(np.array([{"a": 1}], dtype=object))}, "must hold numbers, got dtype object"),
        ({"depth.npy": _npy(np.array(["text"]))}, "must hold numbers"),
        ({"depth.npy": b""}, "damaged"),
        ({"depth.npy": b"\x93NUMPY\x09\x00"}, "version"),
    ],
)  # fmt: skip
def test_npz_that_lies_is_refused_before_memory_is_asked_for(members: dict[str, bytes], message: str):
    with pytest.raises(InputError, match=message) as caught:
        load_npz(_npz(members), "depth", "x.npz", 1024)
    assert "x.npz" in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_that_expands_in_one_piece_is_refused_unread(method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "clip_depths.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("depths.npy", _npy(np.zeros((1, 2, 2), np.float32)))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("it was opened"))
    with path.open("rb") as file, pytest.raises(InputError, match=r"packed in another way than NumPy's"):
        load_npz(file, "depths", str(path), 1024)
    with pytest.raises(InputError, match=r"packed in another way than NumPy's"):
        ArrayStack(path, ("depths",))


def test_npy_with_a_truncated_body_or_an_absurd_shape():
    data = _npy(np.zeros((8, 8), np.float32))
    assert load_npy(io.BytesIO(data), "x.npy", 256).shape == (8, 8)
    for bad in (data[:-1], data[:90], data.replace(b"(8, 8)", b"(8,-8)")):
        with pytest.raises(InputError, match=r"x\.npy"):
            load_npy(io.BytesIO(bad), "x.npy", 256)


def test_parsing_names_the_file_whatever_the_parser_raises(tmp_path: Path):
    for error in (RecursionError("deep"), OverflowError("big"), KeyError("k"), UnicodeDecodeError("u", b"", 0, 1, "?")):
        with pytest.raises(InputError, match="the test /x is damaged"), parsing("the test", "/x"):
            raise error
    with pytest.raises(FileNotFoundError), parsing("the test", "/x"):
        raise FileNotFoundError
    with pytest.raises(InputError, match=r"^said already$"), parsing("the test", "/x"):
        raise InputError("said already")
    assert one_line(ValueError("a\n\x00b" * 1000)).startswith("ValueError: a b")
    assert len(one_line(ValueError("x" * 10**6))) < 250


def test_headers_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """Python 3.11 counts the depth of `ast`, with which NumPy parses them, for all threads together: files without fault
    were called damaged (SystemError: AST constructor recursion depth mismatch)."""
    inside, most = [0], [0]
    real = np.lib.format.read_array_header_1_0

    def watched(*args, **kwargs):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return real(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    data = _npy(np.arange(6.0))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_npy(io.BytesIO(data), "x.npy", 256), range(8)))
    assert most == [1] and all(np.array_equal(array, np.arange(6.0)) for array in found)


def test_nothing_reads_arrays_past_the_one_reader():
    """`numpy.load` in one thread disturbs headers that others parse, and trusts the sizes that a file declares."""
    past = [
        path.relative_to(REPOSITORY)
        for folder in ("pipeline", "model", "scripts", "jobs")
        for path in (REPOSITORY / folder).rglob("*.py")
        if re.search(r"\b(np|numpy)\.load\(", path.read_text())
    ]
    assert not past


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3)), np.array(2.5), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">u2")],
)
def test_arrays_come_back_as_numpy_reads_them(array: np.ndarray):
    found = load_npy(io.BytesIO(_npy(array)), "x.npy", 256)
    expected = np.load(io.BytesIO(_npy(array)))
    assert np.array_equal(found, expected) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous
    if array.size:
        with pytest.raises(InputError, match=r"damaged.*ends after"):
            load_npy(io.BytesIO(_npy(array)[:-1]), "x.npy", 256)
