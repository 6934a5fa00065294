"""The campaign, and its closing table.

PYTHONPATH=tests python -m torture                            ten minutes, half for disturbances, half for fuzzing
PYTHONPATH=tests python -m torture --minutes 60 --seed 7
PYTHONPATH=tests python -m torture --rounds 1 --first 123     one round again; --inputs 0 for no fuzzing
PYTHONPATH=tests python -m torture --inputs 1 --first 4711    one mutated input again; --rounds 0 for no disturbances
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torture import fuzz, subjects
from torture.campaign import Campaign, Counts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it takes (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first round and input (default: 0)")
    parser.add_argument("--rounds", type=int, help="so many rounds of disturbances, however long they take")
    parser.add_argument("--inputs", type=int, help="so many mutated inputs, however long they take")
    parser.add_argument(
        "--subject", action="append", help="only this one: " + ", ".join(s.name for s in subjects.SUBJECTS)
    )
    parser.add_argument("--format", action="append", dest="formats", help="only this format; may be repeated")
    parser.add_argument("--keep", action="store_true", help="leave the working folder, with the rounds that failed")
    return parser.parse_args(argv)


def disturb(root: Path, args: argparse.Namespace, seconds: float, console: Console) -> Counts:
    chosen = tuple(s for s in subjects.SUBJECTS if not args.subject or s.name in args.subject)
    campaign = Campaign(root / "disturbed", args.seed, chosen)
    deadline = time.monotonic() + seconds
    number = args.first
    while time.monotonic() < deadline if args.rounds is None else number < args.first + args.rounds:
        known = len(campaign.counts.problems)
        campaign.run(number)
        for problem in campaign.counts.problems[known:]:
            console.print(problem, markup=False, soft_wrap=True)
        number += 1
    return campaign.counts


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when nothing was found, 1 otherwise."""
    args = parse(argv)
    console = Console(width=120, highlight=False)
    # Not in /tmp, which may be a RAM disk that knows no fsync.
    root = Path(tempfile.mkdtemp(prefix="torture_", dir="/var/tmp" if Path("/var/tmp").is_dir() else None))
    (root / "disturbed").mkdir()
    half_s = 30 * args.minutes
    clean = True
    try:
        if args.rounds != 0:
            counts = disturb(root, args, half_s, console)
            console.print(_table_of_rounds(counts))
            clean &= counts.clean
        if args.inputs != 0:
            found = fuzz.run(root / "fuzzed", args.seed, args.first, args.inputs, half_s, args.formats, console)
            console.print(found.table())
            clean &= found.clean
    finally:
        if args.keep:
            console.print(f"everything is in {root}")
        else:
            import shutil

            shutil.rmtree(root, ignore_errors=True)
    return 0 if clean else 1


def _table_of_rounds(counts: Counts) -> Table:
    table = Table(title=f"{counts.total} disturbances in {counts.rounds} rounds")
    columns = ("what was disturbed", "how", "")
    for column in columns:
        table.add_column(column)
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.disturbances.items()))
    by = ", ".join(f"{name} {count}" for name, count in sorted(counts.by_subject.items()))
    skipped = ", ".join(f"{name} {count}" for name, count in counts.skipped.items())
    table.add_row(by, kinds, f"skipped: {skipped}" if skipped else "")
    table.add_section()
    for name in ("compared", "differing", "done_twice", "orphans", "leftovers", "tracebacks", "outside"):
        table.add_row(
            "files compared" if name == "compared" else name.replace("_", " "), str(getattr(counts, name)), ""
        )
    table.add_row("other problems", str(len(counts.problems)), "")
    return table


if __name__ == "__main__":
    sys.exit(main())
