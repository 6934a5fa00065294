"""Everything worth measuring on a GPU that is at hand for minutes, in the order of its worth; what `make gpu` runs.

    make gpu GPU_MINUTES=13                           # on a bare machine with a GPU and torch; no network
    python benchmarks/gpu.py --cpu --out /tmp/rehearsal --minutes 30   # the same measurements at small sizes, to prove they run

Special: each measurement is a program of its own with a time box, and its result is on disk before the next begins. A second
run into the same folder takes what is done as done and spends its minutes on the rest, what failed or ran out of time
tried again in their turn. A measurement starts only if a quarter of its box is left, and ends when the minutes are over.

In the folder: NAME.json and NAME.log of every measurement, `results.json` with state, seconds and figures of all, and
`results.md`, the table for docs/benchmarks.md with the card's name.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parent.parent
LEAST_SHARE = 0.25  # of its box, below which a measurement is not begun
REHEARSAL = 5  # times a box: it is a GPU's, and the rehearsing CPU is often shared
State = Literal["done", "failed", "out of time", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One program.

    Args:
        name: of its files.
        box_s: seconds it may take.
        gpu, cpu: arguments after the interpreter, on a GPU and in the rehearsal; {json} is where figures go.
    """

    name: str
    box_s: float
    gpu: tuple[str, ...]
    cpu: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a measurement; `said` is the end of its log where it is not done."""

    name: str
    state: State
    wall_s: float = 0.0
    said: str = ""


def measurements() -> list[Measurement]:
    """The most telling first: right at all, then the frame, its parts, training, and the large published networks."""

    def bench(name: str, box_s: float, script: str, gpu: str, cpu: str) -> Measurement:
        start = (f"benchmarks/{script}.py", "--json", "{json}")
        return Measurement(name=name, box_s=box_s, gpu=(*start, *gpu.split()), cpu=(*start, *cpu.split()))

    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_recurrence.py")
    frames = "--device cuda --bf16 --sizes 1280x720 1920x1088"
    return [
        Measurement(
            name="checks", box_s=90,
            gpu=(*pytest, "tests/test_fixed_shapes.py", "tests/test_fused.py", "tests/test_triton.py", "-m", "gpu or not slow"),
            cpu=(*pytest, "-m", "not gpu and not slow", "-k", "reference_backend or cannot_run"),
        ),
        bench("recurrence", 60, "recurrence", "--device cuda --crop 256 --repeat 5", "--crop 32 --repeat 1"),
        bench(
            "captured", 90, "captured",
            "--device cuda --sizes 1280x720 1920x1088 --what renderer renderer_plain small nano", "--quick",
        ),
        bench("small", 60, "bokehflow", f"{frames} --variants small", "--variants demo --sizes 64x48 --repeat 1"),
        bench("nano", 45, "bokehflow", f"{frames} --variants nano", "--variants demo --sizes 64x48 --repeat 1"),
        bench(
            "training", 60, "bokehflow", "--device cuda --bf16 --backward --variants nano small --sizes 256x256 512x512",
            "--backward --variants demo --sizes 64x48 --repeat 1",
        ),
        bench("base", 60, "bokehflow", f"{frames} --variants base", "--variants demo --sizes 64x48 --repeat 1"),
        bench(
            "lift", 60, "lift", "--device cuda --bf16 --sizes 512x288 1280x720 --frames 14",
            "--variants nano --sizes 64x64 --frames 4 --repeat 1 --forward_only",
        ),
        bench(
            "focusmamba", 45, "focusmamba", "--device cuda --size 1280x720 --frames 20 --variants focus_nano focus_small",
            "--size 64x48 --frames 1 --variants focus_nano",
        ),
        bench("vda", 90, "vda", "--device cuda --windows 3 --micro_batch 1 8", "--quick --windows 1 --micro_batch 1"),
        bench("flux", 120, "genfocus", "--device cuda --repeat 1", "--quick --repeat 1"),
        bench("sdxl", 90, "sdxl", "--device cuda --repeat 1", "--quick --repeat 1"),
    ]  # fmt: skip


def run_all(
    todo: Sequence[Measurement], out: Path, minutes: float, on_cpu: bool, device: str, only: Sequence[str] = ()
) -> list[Outcome]:
    """Run what is not done yet, writing every outcome as it comes.

    Args:
        todo: in order.
        out: folder of the results; made if absent.
        minutes: for all of it, from now.
        on_cpu: the rehearsal's arguments.
        device: what the table calls the machine; results of another device are measured again.
        only: names to run; all if empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * minutes
    outcomes = _known(out, todo, device)
    for measurement in todo:
        left = ends - time.monotonic()
        skipped = bool(only) and measurement.name not in only
        if outcomes[measurement.name].state == "done" or skipped or left < LEAST_SHARE * measurement.box_s:
            continue
        outcomes[measurement.name] = _run(
            measurement, out, min(left, measurement.box_s * (REHEARSAL if on_cpu else 1)), on_cpu
        )
        _write(out, list(outcomes.values()), device)
    _write(out, list(outcomes.values()), device)
    return list(outcomes.values())


def _known(out: Path, todo: Sequence[Measurement], device: str) -> dict[str, Outcome]:
    before: dict[str, Any] = {}
    if (out / "results.json").exists():
        stored = json.loads((out / "results.json").read_text())
        if stored["device"] == device:
            before = {row["name"]: row for row in stored["measurements"]}
    outcomes = {}
    for one in todo:
        row = before.get(one.name)
        fields = {key: row[key] for key in ("name", "state", "wall_s", "said")} if row else {}
        outcomes[one.name] = Outcome(**fields) if row else Outcome(one.name, "waiting")
    return outcomes


def _run(measurement: Measurement, out: Path, limit_s: float, on_cpu: bool) -> Outcome:
    """One program in a process group of its own, so that its children end with it."""
    target, log = out / f"{measurement.name}.json", out / f"{measurement.name}.log"
    arguments = [part.format(json=target) for part in (measurement.cpu if on_cpu else measurement.gpu)]
    target.unlink(missing_ok=True)
    started = time.monotonic()
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=limit_s)
            state: State = "done" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            state = "out of time"
    said = "" if state == "done" else log.read_text(errors="replace")[-400:].strip()
    return Outcome(measurement.name, state, time.monotonic() - started, said)


def _write(out: Path, outcomes: list[Outcome], device: str) -> None:
    rows = []
    for outcome in outcomes:
        figures = out / f"{outcome.name}.json"
        found = json.loads(figures.read_text()) if outcome.state != "waiting" and figures.exists() else None
        rows.append({**asdict(outcome), "figures": found})
    _replace(out / "results.json", json.dumps({"device": device, "measurements": rows}, indent=2) + "\n")
    lines = [f"On {device}:", "", "| measurement | state | seconds | figures |", "|---|---|---|---|"]
    for row in rows:
        figures_said = ", ".join(_flat(row["figures"])) or row["said"].splitlines()[-1:] or [""]
        said = figures_said if isinstance(figures_said, str) else figures_said[0]
        lines.append(f"| {row['name']} | {row['state']} | {row['wall_s']:.0f} | {said.replace('|', '/')} |")
    _replace(out / "results.md", "\n".join(lines) + "\n")


def _flat(value: Any, name: str = "") -> list[str]:
    """Numbers of nested figures as `name value`; lists of rows are named by their texts."""
    if isinstance(value, dict):
        texts = " ".join(part for part in value.values() if isinstance(part, str))
        kept = {key: part for key, part in value.items() if key not in ("shares", "device", "bf16", "backend", "what")}
        return [line for key, part in kept.items() for line in _flat(part, f"{name} {texts} {key}".strip())]
    if isinstance(value, list):
        return [line for part in value for line in _flat(part, name)]
    return [f"{name} {value:.4g}"] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _replace(path: Path, text: str) -> None:
    """Whole or as it was: a machine can be taken away at any moment."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _device(on_cpu: bool) -> str:
    if on_cpu:
        return f"CPU rehearsal, {platform.processor() or platform.machine()}"
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device is available; rehearse with --cpu")
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=13.0, help="for everything (default 13)")
    parser.add_argument("--out", type=Path, default=Path("output/gpu"), help="folder of the results")
    parser.add_argument("--cpu", action="store_true", help="small sizes on the CPU, to prove that everything runs")
    parser.add_argument("--only", nargs="+", default=[], help="names of measurements")
    args = parser.parse_args(argv)
    todo = measurements()
    if unknown := sorted(set(args.only) - {one.name for one in todo}):
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(one.name for one in todo)}")
    outcomes = run_all(todo, args.out.resolve(), args.minutes, args.cpu, _device(args.cpu), args.only)
    print((args.out / "results.md").read_text())
    return 0 if all(outcome.state in ("done", "waiting") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
