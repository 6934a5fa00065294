"""A SLURM cluster of several nodes on one machine: real daemons, no cgroups, no systemd, no accounting database.

    python tests/slurm/cluster.py start /tmp/cluster     prints the SLURM_CONF to export
    python tests/slurm/cluster.py stop /tmp/cluster

Debian's `slurm-wlm` and `munge` are enough. Every node is a slurmd of its own on a port of its own; fake GPUs are
/dev/null. There is no `sacct`, as on some sites, and MaxArraySize is small, so that arrays must be cut.

What this is not: a place to measure speed. All nodes share this machine's cores.
"""

import argparse
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "slurm-wlm munge"
HOW_TO_INSTALL = f"apt-get install --no-install-recommends {PACKAGES}   (as root)"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "sinfo")
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={first_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool/%n
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
MaxArraySize={max_array_size}
FirstJobId={first_job}
SlurmctldTimeout=10
SlurmdTimeout=8
KillWait=30
MinJobAge=120
InactiveLimit=0
Waittime=0
BatchStartTimeout=20
MessageTimeout=20
SchedulerParameters=defer_batch,sched_interval=2,bf_interval=2,batch_sched_delay=1,sched_min_interval=100000
SchedulerType=sched/backfill
PriorityType=priority/basic
{more}
{nodes}
{partitions}
"""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What the test cluster looks like.

    Args:
        nodes: how many slurmd.
        max_array_size: caps the array *index*: 11 allows 0-10.
        gpus: fake GPUs per node; 0 for a cluster without.
        partitions: name -> further slurm.conf fields.
        more: further lines of slurm.conf.
    """

    nodes: int = 3
    max_array_size: int = 11
    gpus: int = 1
    partitions: tuple[tuple[str, str], ...] = (("gpu", "Default=YES"), ("cpu", ""))
    more: str = ""


def missing_programs() -> list[str]:
    """Which of SLURM's and munge's programs this machine lacks."""
    return [name for name in PROGRAMS if _find(name) is None]


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SYSTEM_FOLDERS))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """Daemons below one folder. `start`, `stop`, and the accidents that tests need.

    Raises:
        RuntimeError: a daemon did not come up; the message ends with its log.
    """

    def __init__(self, root: Path, settings: ClusterSettings | None = None) -> None:
        self.root = root
        self.settings = settings or ClusterSettings()
        self.node_names = [f"n{number}" for number in range(1, self.settings.nodes + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """What points SLURM's clients at this cluster."""
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        for folder in ("state", "spool"):
            (self.root / folder).mkdir(exist_ok=True)
        self._start_munge()
        self._write_conf()
        self._daemon("slurmctld", "-i")
        for name in self.node_names:
            self.start_node(name)
        self.wait_until(lambda: self.idle_nodes() == len(self.node_names), 60, "the nodes did not become idle")

    def stop(self) -> None:
        """Stop everything that was started: jobs that still run, and the daemons by their pid files. Safe to call twice."""
        _kill_trees(_steps(f"SLURM_CONF={self.root / 'slurm.conf'}"))
        for pid_file in (*self.root.glob("slurmd.*.pid"), self.root / "slurmctld.pid", self.root / "munge/munged.pid"):
            _stop_pid(pid_file)

    def start_node(self, name: str) -> None:
        (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
        self._daemon("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """A node dies: its slurmd and everything that runs under it are gone without a word."""
        pid = int((self.root / f"slurmd.{name}.pid").read_text())
        jobs = self.command("squeue", "-h", "-w", name, "-o", "%A").split()
        os.kill(pid, signal.SIGKILL)
        _kill_trees(_steps(f"SLURM_CONF={self.root / 'slurm.conf'}", jobs))

    def command(self, *argv: str, check: bool = True) -> str:
        """The output of a SLURM command on this cluster."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.25) -> None:
        """Poll until the condition holds.

        Raises:
            RuntimeError: it did not within the time; with the queue and the ends of the daemons' logs.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                queue = self.command("squeue", "--all", "--long", check=False)
                nodes = self.command("sinfo", "--long", "--Node", check=False)
                logs = (self.root / "slurmctld.log", *sorted(self.root.glob("slurmd.*.log")))
                log = "\n".join(f"{path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs)
                raise RuntimeError(f"{what} within {timeout_s:.0f} s\n{queue}\n{nodes}\n{log}")
            time.sleep(every_s)

    def idle_nodes(self) -> int:
        """How many nodes wait for work."""
        return self.command("sinfo", "-h", "-N", "-p", self.settings.partitions[0][0], "-t", "idle", check=False).count(
            "\n"
        )

    def _daemon(self, program: str, *flags: str) -> None:
        path = _find(program)
        assert path, f"{program} is not installed"
        environment = {**os.environ, **self.environment}
        done = subprocess.run([path, *flags], env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(flags)} did not start: {done.stdout}{done.stderr}")

    def _start_munge(self) -> None:
        """munged refuses folders that others could write to, and wants them to belong to the user it runs as."""
        folder = self.root / "munge"
        folder.mkdir(exist_ok=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        owner = "munge" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            for path in (folder, key):
                shutil.chown(path, owner, owner)
        folder.chmod(0o755)
        flags = [f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
        flags += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed", "--num-threads=2"]
        path = _find("munged")
        assert path, "munged is not installed"
        user = owner if os.getuid() == 0 else None
        done = subprocess.run([path, *flags], user=user, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"munged did not start: {done.stderr}")

    def _write_conf(self) -> None:
        host = socket.gethostname().split(".")[0]
        ctld_port, *ports = _free_ports(1 + self.settings.nodes)
        gres = f" Gres=gpu:{self.settings.gpus}" if self.settings.gpus else ""
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=400000{gres}"
            for name, port in zip(self.node_names, ports, strict=True)
        ]
        everywhere = ",".join(self.node_names)
        partitions = [
            f"PartitionName={name} Nodes={everywhere} MaxTime=24:00:00 DefaultTime=10 State=UP OverSubscribe=NO {more}"
            for name, more in self.settings.partitions
        ]
        text = _CONF.format(
            host=host,
            root=self.root,
            user=pwd.getpwuid(os.getuid()).pw_name,
            ctld_port=ctld_port,
            first_port=ports[0],
            more=self.settings.more,
            max_array_size=self.settings.max_array_size,
            # Several clusters may run at once, and processes are told apart by their job's id.
            first_job=1000 * random.randrange(1, 60000),
            nodes="\n".join(nodes),
            partitions="\n".join(partitions),
        )
        (self.root / "slurm.conf").write_text(text)
        lines = [f"NodeName={name} Name=gpu File=/dev/null" for name in self.node_names] if self.settings.gpus else []
        (self.root / "gres.conf").write_text("\n".join(lines) + "\n")


def _stop_pid(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience_s
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _steps(variable: str, jobs: Sequence[str] = ()) -> list[int]:
    """The slurmstepd processes of one cluster, of some jobs or all; their titles read `slurmstepd: [JOB.STEP]`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            if not title.startswith("slurmstepd: [") or (jobs and title[13:].partition(".")[0] not in jobs):
                continue
            if variable in (folder / "environ").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(folder.name))
    return found


def _kill_trees(pids: Sequence[int]) -> None:
    """Processes and all below them, from the top: a slurmstepd that outlived its task would report the task's end."""
    below = [process for pid in pids for process in _descendants(pid)]
    for process in (*pids, *below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, queue = [], [pid]
    while queue:
        queue += (new := children.get(queue.pop(), []))
        found += new
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("start", "stop"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=1)
    args = parser.parse_args()
    if lacking := missing_programs():
        print(f"error: not installed: {', '.join(lacking)}; {HOW_TO_INSTALL}", file=sys.stderr)
        return 1
    cluster = Cluster(args.folder.resolve(), ClusterSettings(nodes=args.nodes, gpus=args.gpus))
    if args.command == "stop":
        cluster.stop()
        return 0
    cluster.start()
    print("".join(f"export {name}={value}\n" for name, value in cluster.environment.items()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
