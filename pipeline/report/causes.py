"""Equal findings of many scenes as one line: what a person has to read grows with the causes, not with the scenes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A number that is a word of its own: not the digits of a fingerprint, nor of a name such as set01.
_NUMBER = re.compile(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?(?![A-Za-z0-9])")
_SELF = "…"  # stands for a scene's own name in what is said of it


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Findings that differ in numbers and in the scene's name alone.

    Args:
        texts: what was found, with a range where its numbers differ.
        members: (scene, its own words), in the order in which they came.
    """

    texts: tuple[str, ...]
    members: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def scenes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(who for who, _ in self.members))

    @property
    def alike(self) -> bool:
        """Whether every scene says exactly `texts`, so that names tell the whole."""
        return all(texts == self.texts for _, texts in self.members)


def by_cause(found: Iterable[tuple[str, Sequence[str]]]) -> tuple[Cause, ...]:
    """Group findings; the cause with most of them first, then in the order in which they came.

    Args:
        found: (scene, what was found there): all of it together makes one cause.
    """
    groups: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
    for who, texts in found:
        key = tuple(_NUMBER.sub("#", _without_name(text, who)) for text in texts)
        groups.setdefault(key, []).append((who, tuple(texts)))
    causes = [Cause(texts=_common(members), members=tuple(members)) for members in groups.values()]
    return tuple(sorted(causes, key=lambda cause: -len(cause.members)))


def _without_name(text: str, who: str) -> str:
    if len(who) < 3 or who.isdigit():  # a scene called 1 is no reason to forget every 1
        return text
    return re.sub(rf"(?<![\w-]){re.escape(who)}(?![\w-])", _SELF, text)


def _common(members: list[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """The words of all, numbers as ranges."""
    if all(texts == members[0][1] for _, texts in members):
        return members[0][1]
    return tuple(
        _ranges([_without_name(texts[line], who) for who, texts in members]) for line in range(len(members[0][1]))
    )


def _ranges(texts: list[str]) -> str:
    columns = list(zip(*(_NUMBER.findall(text) for text in texts), strict=True))
    ends = iter([(min(column, key=float), max(column, key=float)) for column in columns])

    def span(_: re.Match[str]) -> str:
        low, high = next(ends)
        return low if float(low) == float(high) else f"{low} to {high}"

    return _NUMBER.sub(span, texts[0])
