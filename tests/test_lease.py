"""Leases: who may take one over, clocks that jump, namespaces, disks without hard links, and writes behind a lost lease."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from pipeline.errors import InputError, LeaseHeldError, LeaseLostError, UsageError
from pipeline.storage import files
from pipeline.storage import holder as identity
from pipeline.storage.files import remove_leftovers, write_bytes, write_json
from pipeline.storage.holder import boot_id, current_job_id, gone, pid_namespace, this_process
from pipeline.storage.journal import Journal
from pipeline.storage.lease import Lease, LeaseTimes, glance, held, read_lease

SHORT = LeaseTimes(expires_s=0.8)  # a beat every 40 ms, watched for 100 ms
ELSEWHERE = {"host": "elsewhere", "boot_id": "other", "pid_namespace": "pid:[1]", "pid": 1, "token": "theirs"}


def _foreign(path: Path, age_s: float = 0.0, **facts: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ELSEWHERE | facts))
    os.utime(path, (time.time() - age_s,) * 2)


def test_lease_is_exclusive_and_released(tmp_path: Path):
    with (
        Lease(tmp_path / "x.lease"),
        pytest.raises(LeaseHeldError, match=f"pid {os.getpid()}"),
        Lease(tmp_path / "x.lease"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with Lease(tmp_path / "x.lease"):
        pass


HERE = {"host": os.uname().nodename, "boot_id": boot_id(), "pid_namespace": pid_namespace(), "restart": "0"}


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        ({"host": "elsewhere", "boot_id": "other", "pid": 1, "job_id": None}, False),
        ({"host": "elsewhere", "boot_id": "other", "pid": 1, "job_id": "7_3.0"}, True),  # our job, requeued elsewhere
        ({"host": "elsewhere", "boot_id": "other", "pid": 1, "job_id": "7_4.0"}, False),
        ({**HERE, "pid": 2**22 + 5, "process_start": "1"}, True),  # no such process
        ({**HERE, "pid": os.getpid(), "process_start": "not mine"}, True),  # the pid was recycled
        ({**HERE, "pid": os.getpid(), "process_start": identity.process_start(os.getpid())}, False),
        ({**HERE, "pid": os.getpid(), "process_start": identity.UNKNOWN}, False),
        # Another container on this machine: its pid says nothing here, however dead that number is.
        ({**HERE, "pid_namespace": "pid:[1]", "pid": 2**22 + 5}, False),
        ({**HERE, "pid_namespace": "pid:[1]", "pid": 1, "job_id": "7_3.0"}, False),  # a second container of our job
        ({**HERE, "pid_namespace": "pid:[1]", "pid": 1, "job_id": "7_3.0", "restart": "1"}, True),
        ({**HERE, "boot_id": "other", "pid": os.getpid()}, False),  # a clone with our host's name
        ({}, False),  # torn: nobody knows, so wait
        ({"pid": "garbage", **HERE}, False),
    ],
)
def test_who_is_surely_gone(holder, expected, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert current_job_id() == "7_3.0"
    assert gone(holder) is expected


def test_live_worker_of_the_same_job_is_not_robbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with Lease(tmp_path / "x.lease"), pytest.raises(LeaseHeldError), Lease(tmp_path / "x.lease"):
        pass


def test_silent_lease_is_taken_over_and_its_holder_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.lease"
    first = Lease(path, times=SHORT)
    with first:
        first._stop.set()  # its heart stands still
        first._thread.join()
        with pytest.raises(LeaseHeldError), Lease(path, times=SHORT):
            pass
        time.sleep(0.9)
        monkeypatch.setattr(identity, "boot_id", lambda: "another machine")
        with Lease(path, times=SHORT) as second:
            with pytest.raises(LeaseLostError, match="taken over"):
                first.check()
            second.check()
            first.__exit__(None, None, None)
            second.check()  # whoever lost a lease does not release its successor's
    assert list(tmp_path.iterdir()) == []


def test_heartbeat_keeps_the_lease_young(tmp_path: Path):
    path = tmp_path / "x.lease"
    with Lease(path, times=SHORT):
        os.utime(path, (time.time() - 300,) * 2)
        deadline = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 100


@pytest.mark.parametrize("offset_s", [-7200.0, 7200.0, -86400.0 * 400])
def test_clock_that_is_wrong_robs_nobody_alive(tmp_path: Path, offset_s: float):
    """A holder on a host whose clock is hours off beats on; then it falls silent."""
    path, stop = tmp_path / "x.lease", threading.Event()
    _foreign(path, -offset_s)

    def beat() -> None:
        while not stop.wait(0.02):
            os.utime(path, (time.time() + offset_s,) * 2)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(LeaseHeldError, match="host elsewhere"), Lease(path, times=SHORT):
            pass
    finally:
        stop.set()
        heart.join()
    with Lease(path, times=SHORT) as lease:
        lease.check()


def test_watching_begins_with_the_first_glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of many silent leases each one is watched while the others are worked on."""
    path, times = tmp_path / "x.lease", LeaseTimes(expires_s=600)
    _foreign(path, 700)
    token, beat = glance(path)[0]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + times.watch_s + 1)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("there was nothing to wait for"))
    with Lease(path, times=times):
        assert read_lease(path)["token"] != token and beat


def test_watching_can_be_stopped(tmp_path: Path):
    _foreign(tmp_path / "x.lease", 700)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Lease(tmp_path / "x.lease", stop):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x.lease"]


def test_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """FAT, some network and FUSE file systems: exclusive creation takes the link's place."""

    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "x.lease"
    with Lease(path) as lease, pytest.raises(LeaseHeldError, match=f"pid {os.getpid()}"), Lease(path):
        pass
    assert list(tmp_path.iterdir()) == [] and lease
    path.touch()  # killed between creation and text: nobody knows whose it is
    with pytest.raises(LeaseHeldError, match="600 s of silence"), Lease(path):
        pass
    os.utime(path, (time.time() - 5,) * 2)
    with Lease(path, times=SHORT) as lease:
        lease.check()
    # Two takers at once: the second finds a fresh lease in its place and leaves it alone.
    _foreign(path, 700)
    taker = Lease(path)
    with Lease(path, times=SHORT) as winner:
        taker._take_aside("theirs")
        winner.check()


def test_lease_that_was_away_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A slow taker has the fresh lease of a second worker in its hands; until it goes on a third one does all the work."""
    path, rename = tmp_path / "x.lease", os.rename
    _foreign(path, 700)
    slow = Lease(path)
    second = Lease(path, times=SHORT)
    done = []

    def between(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        second.__enter__()  # takes the silent lease over, as the slow one is about to
        rename(source, target)
        with Lease(path) as third:
            third.check()
            done.append("by the third")

    monkeypatch.setattr(os, "rename", between)
    slow._take_aside("theirs")
    with pytest.raises(LeaseLostError):
        second.check()
    second.__exit__(None, None, None)
    assert done and list(tmp_path.iterdir()) == []


def test_drafts_of_killed_workers_are_swept_and_live_ones_are_not(tmp_path: Path):
    path = tmp_path / "x.lease"
    dead, alive, other = (tmp_path / f".{name}.tmp" for name in ("x.lease.a", "x.lease.b", "y.lease.a"))
    for draft in (dead, other):
        draft.write_text(json.dumps({**HERE, "pid": 2**22 + 5, "process_start": "1"}))
    alive.write_text(json.dumps(this_process("b")))
    with Lease(path):
        assert not dead.exists() and alive.exists() and other.exists()
    assert held(path) is None


def test_draft_that_was_swept_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = os.link, []

    def link(source: Path, target: Path) -> None:
        if not calls:
            source.unlink()
        calls.append(1)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with Lease(tmp_path / "x.lease") as lease:
        lease.check()
    assert len(calls) == 2


@pytest.mark.parametrize("text", ["0", "never", "1e9", "nan"])
def test_lease_times_are_checked(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("BOKEHFLOW_LEASE_EXPIRES_S", text)
    with pytest.raises(UsageError, match="BOKEHFLOW_LEASE_EXPIRES_S must be"):
        Lease(tmp_path / "x.lease")


def test_link_in_a_leases_place_is_refused(tmp_path: Path):
    path, away = tmp_path / "x.lease", tmp_path / "away"
    away.write_text(json.dumps({**HERE, "pid": 2**22 + 5, "process_start": "1"}))  # a lease, and its holder is dead
    for target in ("nothing", "x.lease", "away"):
        path.symlink_to(target)
        os.utime(path, (0, 0), follow_symlinks=False)
        with pytest.raises(InputError, match=f"x.lease is a link to {target}; nothing was touched"), Lease(path):
            pass
        assert {entry.name for entry in tmp_path.iterdir()} == {"x.lease", "away"}
        path.unlink()


def test_lease_that_became_a_link_is_lost(tmp_path: Path):
    path = tmp_path / "x.lease"
    with Lease(path) as lease:
        path.rename(tmp_path / "away")
        path.symlink_to("away")
        with pytest.raises(LeaseLostError):
            lease.check()
    assert path.is_symlink() and (tmp_path / "away").exists()


# --- namespaces ------------------------------------------------------------------------------------------------------

UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]


def _can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.parametrize("proc", [["--mount-proc"], []], ids=["own /proc", "outer /proc"])
def test_holder_in_another_pid_namespace_is_not_taken_for_dead(proc: list[str], tmp_path: Path):
    """Its pid does not exist here, and ours does not exist there; both must wait for silence."""
    if not _can_unshare():
        pytest.skip("unshare makes no user and PID namespaces here")
    path = tmp_path / "x.lease"
    code = (
        "import sys, time; from pathlib import Path; from pipeline.storage.lease import Lease; import os;"
        "from pipeline.errors import LeaseHeldError\n"
        "try:\n  with Lease(Path(sys.argv[1])):\n    print('got', os.getpid(), flush=True); sys.stdin.read()\n"
        "except LeaseHeldError:\n  print('held', flush=True)\n"
    )
    command = [*UNSHARE, *proc, sys.executable, "-c", code, str(path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with Lease(path):
        inside = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert inside.stdout == "held\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline().startswith("got ")
        with pytest.raises(LeaseHeldError), Lease(path):
            pass
        process.stdin.close()
        process.wait(30)
    assert not path.exists()


# --- writes behind a lease -------------------------------------------------------------------------------------------


def test_write_is_refused_right_before_the_rename(tmp_path: Path):
    target = tmp_path / "frame_0001.png"
    write_bytes(target, b"the successor's")
    with Lease(tmp_path / "x.lease") as lease:
        lease.path.write_text(json.dumps(ELSEWHERE))
        for write in (lambda: write_bytes(target, b"ours", lease.check), lambda: write_json(target, {}, lease.check)):
            with pytest.raises(LeaseLostError, match="host elsewhere"):
                write()
        lease.path.unlink()
        with pytest.raises(LeaseLostError, match="is gone"):
            write_bytes(target, b"ours", lease.check)
    assert target.read_bytes() == b"the successor's" and list(tmp_path.iterdir()) == [target]


def test_taker_in_the_gap_between_fence_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped after the fence, before the rename: the successor swept the temporary file, so the rename finds nothing."""
    target, real = tmp_path / "out" / "frame_0001.png", os.replace
    target.parent.mkdir()
    with Lease(tmp_path / "x.lease") as lease:

        def replace(source: Path, destination: Path) -> None:
            monkeypatch.setattr(os, "replace", real)
            lease.path.write_text(json.dumps(ELSEWHERE))
            assert remove_leftovers(target.parent) == 1
            write_bytes(target, b"the successor's")
            real(source, destination)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(LeaseLostError):
            write_bytes(target, b"ours", lease.check)
    assert target.read_bytes() == b"the successor's"


def test_write_whose_temporary_file_was_swept_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker that lost the scene may sweep once more before it notices; whoever holds the lease loses nothing by it."""
    real = os.replace

    def replace(source: Path, destination: Path) -> None:
        monkeypatch.setattr(os, "replace", real)
        assert remove_leftovers(tmp_path) == 1
        real(source, destination)

    with Lease(tmp_path / "x.lease") as lease:
        for fence in (lease.check, files.no_fence):
            monkeypatch.setattr(os, "replace", replace)
            write_bytes(tmp_path / "frame_0001.png", b"ours", fence)
            assert (tmp_path / "frame_0001.png").read_bytes() == b"ours"
            (tmp_path / "frame_0001.png").unlink()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "no folder" / "x", b"")


def test_journal_of_a_lost_lease_reaches_no_file_that_is_read(tmp_path: Path):
    first = Journal(tmp_path / "j.jsonl")
    first.begin({"a": 1})
    first.add("0000", {"x": 1})
    second = Journal(tmp_path / "j.jsonl")
    second.go_on()
    first.add("0001", {"x": "old work"})  # as if it was stopped after its fence
    second.add("0001", {"x": 2})
    assert Journal(tmp_path / "j.jsonl").facts == {"0000": {"x": 1}, "0001": {"x": 2}}
    with Lease(tmp_path / "x.lease") as lease:
        first.begin({"a": 1}, lease.check)
        lease.path.write_text(json.dumps(ELSEWHERE))
        with pytest.raises(LeaseLostError):
            first.add("0002", {})
    for journal in (first, second):
        journal.close()


def test_shared_file_sweeps_what_its_dead_writers_left_and_nobody_else_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bytes(tmp_path / "name", b"")
    here = files._here(os.getpid())
    dead = tmp_path / f".index.json.{here}-{2**22 + 5}-0.tmp"
    alive, elsewhere = tmp_path / f".index.json.{here}-{os.getppid()}-0.tmp", tmp_path / ".index.json.0123-7-0.tmp"
    other = tmp_path / f".other.json.{here}-{2**22 + 5}-0.tmp"
    old = tmp_path / ".index.json.4567-7-0.tmp"
    for path in (dead, alive, elsewhere, other, old):
        path.touch()
    os.utime(old, (time.time() - 700,) * 2)
    foreign = tmp_path / ".index.json.swp.tmp"
    foreign.touch()
    os.utime(foreign, (0, 0))
    files.write_shared(tmp_path / "index.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {
        "name", "index.json", alive.name, elsewhere.name, other.name, foreign.name
    }  # fmt: skip
    monkeypatch.setenv("BOKEHFLOW_LEASE_EXPIRES_S", "0.1")
    time.sleep(0.11)
    files.remove_abandoned(tmp_path / "index.json")
    assert not elsewhere.exists() and alive.exists() and other.exists() and foreign.exists()
