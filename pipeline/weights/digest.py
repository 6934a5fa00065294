"""What weights contain, as one SHA-256, so that a fingerprint knows the weights and not where they lie.

Every byte is hashed: a sample would miss a flipped bit, and only a full digest can be compared with what others publish
(`sha256sum` prints the same). That reads a file once; the digest is kept in the user's cache, under digests/, and believed for
as long as the file's size, inode and both time stamps stay as they were.
"""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.storage.files import dump_json, write_shared
from pipeline.weights.files import Found, content_files, user_cache

_READERS = 4  # hashing releases the interpreter's lock; more would only make a disk seek


def _cache_path(path: Path) -> Path:
    return user_cache() / "digests" / f"{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, from the cache where the file has not changed since."""
    path = path.resolve()  # the hub's cache is full of links
    stat = path.stat()
    seen = [str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    cache = _cache_path(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(cache.read_bytes())
        if kept["seen"] == seen:
            return str(kept["sha256"])
    with path.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # without a cache it is only slower
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_shared(cache, dump_json({"seen": seen, "sha256": value}).encode())
    return value


def content_sha256(found: Found) -> str:
    """Of a file, its own SHA-256; of a folder, the SHA-256 of "digest  name" lines, names relative to the folder."""
    files = content_files(found.weights, found.path)
    if not found.weights.folders:
        return file_sha256(files[0])
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(file_sha256, files))
    names = [file.relative_to(found.path).as_posix() for file in files]
    lines = "".join(f"{value}  {name}\n" for value, name in zip(digests, names, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def verified_sha256(found: Found) -> str:
    """`content_sha256`, which must be the one that the registry knows, where it knows one.

    Raises:
        UsageError: it is another.
    """
    value = content_sha256(found)
    if found.weights.sha256 not in (None, value):
        raise UsageError(
            f"{found.path} is not what was published as {found.weights.title}: its SHA-256 is {value}, "
            f"it should be {found.weights.sha256}; get it again"
        )
    return value
