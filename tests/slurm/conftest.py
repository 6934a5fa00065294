"""The cluster that the scenarios share, and an operator who works on it."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from brake import Brake
from conftest import REPOSITORY, Project, write_scene

from pipeline.cluster.plan import Run
from slurm.cluster import HOW_TO_INSTALL, Cluster, ClusterSettings, missing_programs

PATIENCE_S = 240  # for jobs on a machine that others use too
CREDENTIAL_S = 2.5  # two whole seconds at least
NEEDED = os.environ.get("BOKEHFLOW_NEED_SLURM") == "1"  # set by `make test-slurm`

FRAMES_SHARP, PICTURES = "frames_sharp/*.png", "bokeh_renders/*/bokeh_*.png"  # where a brake may hold
RENDERED = "long/bokeh_renders/set_*/*.png"
ALL_RENDERED = 4 * 16  # of one scene with --num_sets 4

PROFILE = """
[cluster]
max_gpus = {max_gpus}
target_minutes = 60
signal_s = {signal_s}
setup = []
[phase.deblur]
partition = "gpu"
gpus = 1
mem_gb = {mem_gb}
hours = {hours}
cpus = 2
[phase.depth]
partition = "gpu"
gpus = 1
mem_gb = 2
hours = {hours}
cpus = 2
[phase.render]
partition = "gpu"
gpus = 1
mem_gb = 2
hours = {hours}
cpus = 2
[phase.cpu]
partition = "cpu"
mem_gb = 2
hours = 0.5
cpus = 2
"""


def require_slurm() -> None:
    lacking = missing_programs()
    if lacking:
        reason = f"not installed: {', '.join(lacking)}; {HOW_TO_INSTALL}"
        pytest.fail(reason) if NEEDED else pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster():
    """Three nodes with a fake GPU each; arrays of at most 4 elements; a partition that takes no jobs."""
    partitions = (("gpu", "Default=YES"), ("cpu", ""), ("closed", "State=INACTIVE"))
    with running(ClusterSettings(max_array_size=4, partitions=partitions)) as made:
        yield made


@contextlib.contextmanager
def running(settings: ClusterSettings):
    """A cluster below a short path that munge's own user can enter, which pytest's folders are not."""
    require_slurm()
    with tempfile.TemporaryDirectory(prefix="bokehflow-slurm-") as folder:
        made = Cluster(Path(folder), settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()


class Operator:
    """Types commands in the repository's root, against a project in a folder of its own."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.cluster = cluster
        self.root = root
        self.raw, self.out, self.logs = root / "data", root / "output", root / "logs"
        self.brake = Brake(root / "brake")
        self.profile = self.write_profile()
        self._seen_waiting: dict[str, float] = {}
        for folder in (self.raw, self.logs):
            folder.mkdir(exist_ok=True)

    @property
    def roots(self) -> list[str]:
        return ["--raw_root", str(self.raw), "--out_root", str(self.out), "--logs", str(self.logs)]

    @property
    def environment(self) -> dict[str, str]:
        """Whatever starts in it, on a node too, is under the operator's brake once that is set."""
        return {**self.brake.environment, **self.cluster.environment}

    def write_profile(self, *, max_gpus: int = 0, signal_s: int = 30, mem_gb: float = 2, hours: float = 0.5) -> Path:
        path = self.root / "profile.toml"
        path.write_text(PROFILE.format(max_gpus=max_gpus, signal_s=signal_s, mem_gb=mem_gb, hours=hours))
        return path

    def sbatch(self, script: str, *flags: str) -> str:
        """`sbatch jobs/SCRIPT ...`; returns the job's id."""
        where = ["--partition", "cpu", "--mem", "2G", "--cpus-per-task", "2", "--output", str(self.logs / "%x_%j.log")]
        argv = ["sbatch", *where, f"jobs/{script}", *self.roots, "--profile", str(self.profile), *flags]
        done = subprocess.run(argv, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=True)
        found = re.search(r"job (\d+)", done.stdout)
        assert found, done.stdout
        return found[1]

    def bash(self, script: str, *flags: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """The same script on the login node."""
        argv = ["bash", f"jobs/{script}", *self.roots, "--profile", str(self.profile), *flags]
        environment = {**self.environment, **(environment or {})}
        return subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)

    def python(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, *argv], cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def script(self, name: str, *flags: str) -> str:
        return self.python(f"scripts/{name}.py", *self.roots, *flags).stdout

    def take_over(self, prepared: Path) -> None:
        """Go on with a copy of a project that others made ready."""
        self.raw.rmdir()
        self.raw.symlink_to(prepared / "data")
        shutil.copytree(prepared / "output", self.out)

    def index(self) -> None:
        self.script("01_validate_dataset")

    def status(self) -> dict:
        return json.loads(self.python("-m", "pipeline", "status", "--json", *self.roots).stdout)

    def states(self, phase: str) -> dict[str, str]:
        return {scene: row[phase]["state"] for scene, row in self.status()["scenes"].items()}

    def tasks(self, name: str = "") -> list[tuple[str, str]]:
        """(job or element, state) of queued and running jobs whose name begins so."""
        text = self.cluster.command("squeue", "-h", "-r", "-o", "%F_%K %j %T")
        rows = [line.split() for line in text.splitlines()]
        return [(job.removesuffix("_N/A"), state) for job, called, state in rows if called.startswith(name)]

    def wait_for(self, name: str, state: str = "RUNNING") -> str:
        """Wait until a task of that name is in that state; returns its id."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [job for job, now in self.tasks(name) if now == state]
            return bool(found)

        self.cluster.wait_until(there, PATIENCE_S, f"no {name} task became {state}\n{self.logs_text()}")
        return found[0]

    def release(self) -> None:
        """Cut short the two minutes that a requeued job waits, all but the first seconds.

        Slurm tells credentials apart by the second: a job that starts again within the one in which its last start was
        revoked is killed as "Job credential revoked".
        """
        waiting = self.cluster.command("squeue", "-h", "-r", "-t", "PENDING", "-o", "%F_%K %j %r")
        rows = [line.split() for line in waiting.splitlines()]
        jobs = [row[0] for row in rows if row[2] == "BeginTime" and not row[1].startswith("gate")]
        now = time.monotonic()
        self._seen_waiting = {job: self._seen_waiting.get(job, now) for job in jobs}
        for job, since in self._seen_waiting.items():
            if now - since > CREDENTIAL_S:
                job = job.removesuffix("_N/A")
                self.cluster.command("scontrol", "update", f"jobid={job}", "starttime=now", check=False)

    def wait_idle(self) -> None:
        """Wait until nothing is queued."""

        def idle() -> bool:
            tasks = self.tasks()
            self.release()
            return not tasks

        self.cluster.wait_until(idle, PATIENCE_S, f"the queue did not empty\n{self.logs_text()}", every_s=1.0)

    def runs(self) -> list[Run]:
        """Oldest first."""
        return [Run.load(path.parent) for path in sorted((self.logs / "runs").glob("*/run.json"))]

    def records(self, run: Run, phase: str) -> list[dict]:
        lines = [path.read_text() for path in sorted(run.folder.glob(f"{phase}_*/*.jsonl"))]
        return [json.loads(line) for text in lines for line in text.splitlines()]

    def events(self, phase: str) -> list[str]:
        """What was noted of a phase's tasks, in all runs: "start", "end", "step"."""
        return [event["event"] for run in self.runs() for event in self.records(run, phase)]

    def logs_text(self) -> str:
        texts = [f"--- {path}\n{path.read_text()[-1500:]}" for path in sorted(self.logs.rglob("*.log"))]
        outs = [f"--- {path}\n{path.read_text()[-1500:]}" for path in sorted(self.logs.rglob("*.out"))]
        return "\n".join([*texts, *outs])[-12000:]

    def finished(self, pattern: str) -> dict[Path, tuple[int, int]]:
        """Finished files: path -> (inode, time of writing), which a resumed task must leave alone."""
        found = (path for path in self.out.glob(pattern) if not path.name.startswith("."))
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    def wait_held(self, processes: int = 1) -> list[int]:
        """Wait until so many processes have come to the brake; returns their ids."""
        self.cluster.wait_until(
            lambda: len(self.brake.held()) >= processes, PATIENCE_S, f"not held at the brake\n{self.logs_text()}"
        )
        return self.brake.held()

    def wait_ended(self, phase: str, elements: int = 1) -> None:
        """Wait until an attempt of so many elements of the newest run's phase has come to its end."""

        def ended() -> bool:
            texts = [path.read_text() for path in self.runs()[-1].folder.glob(f"{phase}_*/*.jsonl")]
            return sum('"event": "end"' in text for text in texts) >= elements

        self.cluster.wait_until(ended, PATIENCE_S, f"{phase} did not end\n{self.logs_text()}")

    def wait_for_files(self, pattern: str, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.finished(pattern)) < count:
            assert time.monotonic() < deadline, f"no {count} files {pattern}\n{self.logs_text()}"
            time.sleep(0.02)


def script_processes(name: str, root: Path) -> list[int]:
    """Processes of a phase's script that work below a folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if len(words) > 1 and words[1].endswith(name) and any(word.startswith(str(root)) for word in words):
                found.append(int(folder.name))
    return found


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path):
    """An operator with an empty project; whatever the scenario left in the queue is cancelled."""
    made = Operator(cluster, tmp_path)
    yield made
    for job, _ in made.tasks():
        cluster.command("scancel", job.partition("_")[0], check=False)
    cluster.wait_until(lambda: not made.tasks(), 60, "cancelled jobs did not leave the queue")


@pytest.fixture(scope="session")
def three_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("three"))
    for number in range(3):
        write_scene(project.raw, f"scene_{number}", 16, seed=number)
    assert project.run(1) == 0
    return project.root


@pytest.fixture
def tiny(operator: Operator, three_scenes: Path) -> Operator:
    """Three indexed scenes of 16 small frames."""
    operator.take_over(three_scenes)
    return operator


@pytest.fixture(scope="session")
def renderable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Projects ready to render: "one" has the scene "long", "pair" has "long_0" and "long_1"; 16 frames each."""
    root = tmp_path_factory.mktemp("renderable")
    for name, scenes in (("one", ("long",)), ("pair", ("long_0", "long_1"))):
        project = Project(root / name)
        for scene in scenes:
            write_scene(project.raw, scene, 16)
        flags = ("--engine", "none", "--no_temporal_avg")
        for phase, more in ((1, ()), (2, flags), (3, ()), (4, ()), (4, ("--confirm",))):
            assert project.run(phase, *more) == 0
    return root
