"""The argument parser of every command, so that a flag is spelled the same everywhere: --dry_run, or --dry-run."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import UsageError


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, with help that keeps its lines and shows defaults; every flag is taken with hyphens too, as --dry-run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **settings})

    def parse_known_args(  # type: ignore[override]  # its overloads say the same at length
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_underscored(text) for text in given], namespace)


def _underscored(text: str) -> str:
    name, equals, value = text.partition("=")
    if not name.startswith("--") or " " in name:
        return text
    return "--" + name[2:].replace("-", "_") + equals + value


def named_values(texts: Iterable[str], flag: str) -> dict[str, str]:
    """What a repeatable NAME=VALUE flag was given, by name; the last one counts.

    Raises:
        UsageError: one has no "="; the message names the flag.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes NAME=VALUE, got {text!r}")
        pairs[name] = value
    return pairs
