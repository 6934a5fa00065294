"""What a video file's own structure says of its length, so that a download that was cut off does not pass for a whole one.

Only the sizes that stand in front of each part are read, never the parts. What this is not: a demuxer.
"""

from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_UNKNOWN_SIZE = None


def url_of(path: Path) -> str:
    """The path for FFmpeg, which would take a colon in a bare name for a protocol."""
    return f"file:{path}"


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks by its own account; 0 for a whole file and for formats that do not say.

    MP4 and MOV (sizes of boxes), Matroska and WebM (size of the segment) and AVI (size of the RIFF chunk) say; MPEG streams
    do not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
            end = _end_of_boxes(file, size)
        elif head[:4] == _EBML:
            end = _end_of_segment(file)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = 8 + int.from_bytes(head[4:8], "little")
        else:
            end = _UNKNOWN_SIZE
    return max(0, end - size) if end is not None else 0


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """Where the last top-level box of ISO/IEC 14496-12 should end."""
    at = 0
    while at < size:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            return at + 8
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            return size  # to the end of the file, wherever that is
        if length < 8:
            return None  # no box: what follows is somebody else's
        at += length
    return at


def _end_of_segment(file: BinaryIO) -> int | None:
    """Where the Matroska segment should end (RFC 8794: element id, then a size with a length marker)."""
    file.seek(4)
    header_length = _vint(file)
    if header_length is None:
        return None
    file.seek(header_length, 1)
    if file.read(4) != _SEGMENT:
        return None
    length = _vint(file)
    return None if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A variable-length size; None where it is damaged or stands for an unknown one."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (7 - extra)) - 1)]) + file.read(extra), "big")
    return None if value == (1 << (7 * (extra + 1))) - 1 else value
