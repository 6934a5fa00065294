"""Seeds that are the same in every process, on every node and in every year: from names, never from order or rank."""

import hashlib


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers.

    blake2b over the length-prefixed parts; Python's `hash()` differs from process to process and ("ab", "c") must not
    collide with ("a", "bc").

    Args:
        parts: what the seed stands for, e.g. scene id, set index, project seed.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest(), "big") >> 1
