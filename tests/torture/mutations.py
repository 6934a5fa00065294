"""How inputs are damaged: bytes, JSON, npz archives, PNG chunks, and what stands in a file's place. All from one seed."""

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HUGE = "9" * 5000
NASTY_JSON = (
    "null", "true", "0", "-1", "1e999", "-1e999", "NaN", "Infinity", "1e-320", HUGE, f"-{HUGE}", "1" + "0" * 400, '""', '"x"',
    '"\\ud800"', '"../../etc/passwd"', '"' + "A" * 100_000 + '"', "[]", "{}", "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "[[[[[]]]]]", "1000000000000", "2147483648", "0.5", '"nan"', "[null]", '{"": null}', "[" + "0," * 50_000 + "0]",
)  # fmt: skip
NASTY_TEXT = (
    "",
    "\x00",
    "\ufeff",
    "{",
    "[",
    '"',
    "'",
    "=",
    "\n" * 1000,
    "é" * 10,
    "\ud83d",
    HUGE,
    "inf",
    "nan",
    "[[[[",
    "# " * 9,
)
NASTY_SHAPES = (
    "(0,)", "(1,)", "(-1, 32)", "(32, -1)", "(4294967296, 4294967296)", "(99999999999, 2)",
    "(32, 32, 32, 32, 32)", "()", "(32, 32, 3)",
    f"({HUGE}, 1)", "(True, 32)", "(32.0, 32)", "'''", "(32, 32", "{}", "[32, 32]", "None",
)  # fmt: skip
NASTY_DTYPES = (
    "<f2",
    "<f8",
    "<c16",
    "|O",
    "|b1",
    "<U9",
    "<M8[s]",
    "|V8",
    "<f16",
    ">f2",
    "",
    "<f999999",
    "[('a', '<f2')]",
    "<i8",
)


def mutate(data: bytes, name: str, rng: random.Random) -> bytes:
    """Damage a sample in a way that suits its format, or like any bytes."""
    suffix = Path(name).suffix
    special: Callable[[bytes, random.Random], bytes] | None = None
    if suffix in (".json", ".done", ".lease") or name == ".done":
        special = mutate_json
    elif suffix in (".jsonl", ".jobs"):
        special = mutate_lines
    elif suffix == ".npz":
        special = mutate_npz
    elif suffix == ".npy":
        special = mutate_npy
    elif suffix == ".png":
        special = mutate_png
    elif suffix == ".safetensors":
        special = mutate_safetensors
    elif suffix in (".toml", ".txt"):
        special = mutate_text
    if special is not None and rng.random() < 0.75:
        try:
            return special(data, rng)
        except (ValueError, KeyError, IndexError, zipfile.BadZipFile, RecursionError):
            pass
    return mutate_bytes(data, rng)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        how = rng.randrange(8)
        at = rng.randrange(len(found) + 1)
        if how == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del found[at:]
        elif how == 2:
            found[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif how == 3:
            del found[at : at + rng.choice((1, 4, 100))]
        elif how == 4:
            found[at : at + 4] = rng.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f")
            )
        elif how == 5:
            piece = found[at : at + rng.choice((4, 64, 1000))]
            found[at:at] = piece * rng.choice((1, 2, 50))
        elif how == 6:
            found[at : at + 8] = rng.randbytes(8)
        else:
            found = bytearray(
                rng.choice((b"", b"\0", b"\n", b"PK\x03\x04", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n", bytes(found) * 2))
            )
    return bytes(found)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, double or rename values anywhere in the tree; numbers that no float holds go in as text."""
    value = json.loads(data)
    marks: dict[str, str] = {}
    for number in range(rng.choice((1, 1, 1, 2, 5))):
        mark = f"@@{number}@@"
        marks[f'"{mark}"'] = rng.choice(NASTY_JSON)
        value = _change(value, mark, rng)
    text = json.dumps(value)
    for mark, nasty in marks.items():
        text = text.replace(mark, nasty)
    return text.encode("utf-8", "surrogatepass")


def _change(value: Any, mark: str, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        how = rng.random()
        if how < 0.08:
            return {name: inner for name, inner in value.items() if name != key}
        if how < 0.12:
            return {**value, rng.choice(NASTY_TEXT): value[key]}
        return {**value, key: _change(value[key], mark, rng)}
    if isinstance(value, list) and value and rng.random() < 0.93:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:place] if rng.random() < 0.5 else [*value, *value]
        return [*value[:place], _change(value[place], mark, rng), *value[place + 1 :]]
    return mark


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    line = mutate_json(lines[place], rng) if rng.random() < 0.6 else mutate_bytes(lines[place], rng)
    return b"".join([*lines[:place], line, *([b"\n"] if rng.random() < 0.8 else []), *lines[place + 1 :]])


def npy_of(shape: str, dtype: str, order: str = "False", body: bytes = b"\0" * 2048) -> bytes:
    """An npy file with a header that says anything."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode("utf-8", "surrogatepass")
    text = text + b" " * (63 - (len(text) + 10) % 64) + b"\n"
    if len(text) < 65536:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + body


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    nasty = rng.random()
    shape = rng.choice(NASTY_SHAPES) if nasty < 0.7 else "(30, 36)"
    dtype = rng.choice(NASTY_DTYPES) if nasty > 0.4 else "<f2"
    return npy_of(
        shape, dtype, rng.choice(("False", "True", "1", "None", "'")), rng.choice((b"", b"\0" * 2048, b"\xff" * 9999))
    )


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Archives whose checksums are right and whose contents are not: other members, lying headers, bombs."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    how = rng.randrange(6)
    if how == 0:
        members[name] = b"\0" * rng.choice((0, 10_000_000, 300_000_000 if rng.random() < 0.05 else 1000))
    elif how == 1:
        members[rng.choice(("../../evil.npy", "/etc/x.npy", "depth", "depth.npy.npy", name + "\x01"))] = members.pop(
            name
        )
    elif how == 2:
        members = {f"{number}.npy": members[name] for number in range(rng.choice((2, 500)))}
    else:
        members[name] = mutate_npy(members[name], rng)
    buffer = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for key, content in members.items():
            archive.writestr(zipfile.ZipInfo(key), content, kind)
    made = bytearray(buffer.getvalue())
    if rng.random() < 0.3:  # sizes in the directory that are not those of the member
        at = made.rfind(b"PK\x01\x02")
        struct.pack_into("<I", made, at + 24, rng.choice((0, 1, 2**31, 2**32 - 1)))
    return bytes(made)


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks changed under checksums that are right again."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    place = rng.randrange(len(chunks))
    kind, body = chunks[place]
    if kind == b"IHDR" or rng.random() < 0.3:
        place, (kind, body) = 0, chunks[0]
        side = rng.choice((0, 1, 2, 31, 13000, 70000, 2**31 - 1))
        body = struct.pack(">II", side, rng.choice((side, 32, 1))) + bytes(
            (
                rng.choice((1, 2, 4, 8, 16, 3)),
                rng.choice((0, 2, 3, 4, 6, 7)),
                rng.choice((0, 0, 9)),
                0,
                rng.choice((0, 1)),
            )
        )
    elif rng.random() < 0.5:
        body = zlib.compress(b"\0" * rng.choice((0, 1000, 50_000_000 if rng.random() < 0.1 else 100)))
    else:
        body = mutate_bytes(body, rng)
    chunks[place] = (kind, body)
    if rng.random() < 0.2:
        chunks.insert(
            rng.randrange(len(chunks)), (rng.choice((b"iCCP", b"zTXt", b"eXIf", b"PLTE", b"tRNS", b"acTL")), body)
        )
    made = b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    return data[:8] + made


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], rng)
    claimed = rng.choice((len(header), len(header), len(header), 2**63 - 1, len(header) + 1))
    return claimed.to_bytes(8, "little") + header + data[8 + length :]


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    text = data.decode(errors="replace")
    words = text.split(" ")
    place = rng.randrange(len(words))
    words[place] = rng.choice((*NASTY_TEXT, *NASTY_JSON))
    return " ".join(words).encode("utf-8", "surrogatepass")


def put_in_place(path: Path, data: bytes, rng: random.Random) -> str:
    """Write a damaged file, or now and then something that is no file of the right kind. Returns what was put there."""
    path.unlink(missing_ok=True)
    how = rng.random()
    if how < 0.93:
        path.write_bytes(data)
        return "bytes"
    kind = rng.choice(("fifo", "folder", "device", "loop", "dangling", "empty"))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/random")))
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nothing")
    else:
        path.touch()
    return kind
