"""`python -m pipeline weights`: which published weights are here, which are not, and how they get here."""

import argparse

from pipeline.weights.download import download
from pipeline.weights.files import Condition, download_command, find_all, table, weights_folder
from pipeline.weights.registry import select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="engines or weights; all when none is named")
    parser.add_argument(
        "--weights",
        default="",
        metavar="DIR",
        help="folder to look in (default: $BOKEHFLOW_WEIGHTS, else the current one)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch what is missing: what is named, of an engine what its defaults need",
    )


def run(names: list[str], given: str, fetch: bool) -> str:
    """The table, after downloading when that was asked for.

    Raises:
        UsageError: an unknown name.
        PipelineError: a download failed.
    """
    folder = weights_folder(given)
    chosen = select(names)
    if fetch:
        download([entry for entry in chosen if entry.by_default or entry.title in names], folder)
    found = find_all(chosen, folder)
    lines = [table(found)]
    lacking = [item for item in found if item.condition is not Condition.THERE and item.weights.by_default]
    if lacking:
        titles = [item.weights.title for item in lacking]
        lines.append(f"\nfetch what the engines' defaults need: {download_command(titles, folder)}")
    return "\n".join(lines)
