"""What starting costs: processor time of commands that compute nothing, and whether they waited for PyTorch.

    python benchmarks/startup.py                                   this checkout, on its own data/ and output/
    python benchmarks/startup.py --root ../before --root .         two trees in one run, turn by turn
    python benchmarks/startup.py --project /scratch/davis --json startup.json

CPU seconds are user and system time of the process and its children, the median of --runs starts after one that is thrown
away; trees take turns, so that a busy machine is busy for both. Modules are counted by Python itself (-X importtime) and do
not depend on the machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
_IMPORT = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one command costs in one tree."""

    root: str
    command: str
    cpu_s: float
    cpu_min_s: float
    cpu_max_s: float
    modules: int
    torch: bool


def commands(project: Path) -> dict[str, list[str]]:
    """Name -> arguments of Python; run in the root of a tree, since scripts are found there."""
    roots = ["--raw_root", str(project / "data"), "--out_root", str(project / "output")]
    logs = ["--logs", str(project / "logs")]
    scene = json.loads((project / "output" / "scene_index.json").read_text())["scenes"]
    return {
        "status": ["-m", "pipeline", "status", *roots, *logs],
        "explain": ["-m", "pipeline", "explain", min(scene), "render", *roots],
        "phase 1, dry run": ["scripts/01_validate_dataset.py", "--dry_run", *roots, *logs],
        "cluster 1-4, dry run": ["-m", "pipeline.cluster", "1-4", "--local", "--dry_run", *roots, *logs],
        "gate, import": ["-c", "import pipeline.cluster.gate"],
        "Lens, import": ["-c", "from pipeline.optics import Lens"],
    }


def start(root: Path, arguments: Sequence[str]) -> tuple[float, str]:
    """Run Python in a tree; returns its user and system seconds, children included, and what it said on stderr.

    Raises:
        SystemExit: the command failed; with its last words.
    """
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(arguments)} in {root} ended with {process.returncode}:\n{words[-2000:]}")
    return usage.ru_utime + usage.ru_stime, words


def imports(root: Path, arguments: Sequence[str]) -> set[str]:
    """The modules that a command imports."""
    return set(_IMPORT.findall(start(root, ["-X", "importtime", *arguments])[1]))


def measure(roots: Sequence[Path], name: str, arguments: Sequence[str], runs: int) -> list[Cost]:
    """The cost of one command in every tree, the trees taking turns."""
    imported = {root: imports(root, arguments) for root in roots}
    taken: dict[Path, list[float]] = {root: [] for root in roots}
    for _ in range(runs):
        for root in roots:
            taken[root].append(start(root, arguments)[0])
    return [
        Cost(
            root=str(root),
            command=name,
            cpu_s=statistics.median(taken[root]),
            cpu_min_s=min(taken[root]),
            cpu_max_s=max(taken[root]),
            modules=len(imported[root]),
            torch="torch" in imported[root],
        )
        for root in roots
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action="append", metavar="TREE", help="a checkout; may be repeated")
    parser.add_argument("--project", type=Path, help="folder with data/ and output/ (default: the first checkout)")
    parser.add_argument("--runs", type=int, default=5, help="starts of each command (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    args.root = [root.resolve() for root in args.root or [REPOSITORY]]
    args.project = (args.project or args.root[0]).resolve()
    if not (args.project / "output" / "scene_index.json").is_file():
        parser.error(f"--project: there is no indexed dataset in {args.project}; run make demo there, or name another")
    if args.runs < 1:
        parser.error(f"--runs must be at least 1, got {args.runs}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    costs = [
        cost
        for name, arguments in commands(args.project).items()
        for cost in measure(args.root, name, arguments, args.runs)
    ]
    table = Table(title=f"Median of {args.runs} starts", box=None)
    for heading in ("command", "tree", "CPU s", "from", "to", "modules", "torch"):
        table.add_column(heading, justify="left" if heading in ("command", "tree", "torch") else "right")
    for cost in costs:
        seconds = (f"{value:.2f}" for value in (cost.cpu_s, cost.cpu_min_s, cost.cpu_max_s))
        table.add_row(cost.command, cost.root, *seconds, str(cost.modules), "yes" if cost.torch else "no")
    Console(width=140).print(table)
    if args.json:
        args.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
