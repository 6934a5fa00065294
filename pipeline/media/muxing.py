"""Which sound tracks go along, and what a container's refusal means in words."""

import errno
from pathlib import Path
from typing import Any

import av

from pipeline.errors import PipelineError
from pipeline.media.containers import url_of

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file system takes no file so large",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "the disk cannot be written to",
}


def readable_sounds(container: Any) -> tuple[list[Any], list[str]]:
    """The sound tracks of an input that can be copied, and a line on each that cannot (phones add tracks of their own)."""
    good, dropped = [], []
    for number, stream in enumerate(container.streams.audio, start=1):
        context = stream.codec_context
        # FFmpeg knows a track's parameters or nothing of it; without a decoder it knows no sample rate either.
        if context is None or not context.sample_rate:
            dropped.append(f"sound track {number} is left out: its codec is not known here")
        else:
            good.append(stream)
    return good, dropped


def refused_sounds(path: Path, sounds: list[Any]) -> str | None:
    """Why a container cannot hold these sounds, found by trying each alone on an empty file; None when it can."""
    for stream in sounds:
        try:
            with av.open(url_of(path), "w") as out:
                out.add_stream_from_template(stream)
                out.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            if getattr(error, "errno", None) in _DISK:
                return None
            return f"{path.suffix} cannot hold {stream.codec_context.name} sound ({error})"
    return None


def write_failure(error: Exception, path: Path, sounds_refused: str | None, source: Path) -> PipelineError:
    """What to tell when writing a video failed: the disk, the sound, or what FFmpeg says."""
    code = getattr(error, "errno", None)
    if code in _DISK:
        return PipelineError(f"{path} cannot be written: {_DISK[code]}; make room or choose another place with -o")
    if sounds_refused:
        return PipelineError(
            f"{sounds_refused}, which {source} has; choose an output in .mkv, which takes every codec, or --no_audio"
        )
    return PipelineError(f"{path} cannot be written: {error}; an output in .mkv takes most")
