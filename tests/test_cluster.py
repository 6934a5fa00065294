"""Plans, packing, causes and the local run: what needs no SLURM. The scenarios on a real one are in tests/slurm/."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from brake import Brake
from conftest import REPOSITORY, Project, tree, write_scene

from pipeline.cluster.commands import submit
from pipeline.cluster.estimate import pack, seconds_per_frame, spread
from pipeline.cluster.failures import TaskStates, element_cause, unfinished
from pipeline.cluster.fit import check_fits, detect_profile
from pipeline.cluster.plan import Plan, Run, Stage, StalePlanError, new_run_folder
from pipeline.cluster.profile import CPU, Profile, Resources, array_phases, known_profiles, load_profile
from pipeline.cluster.request import Request
from pipeline.cluster.request import parse as parse_request
from pipeline.cluster.scheduler import Partition, SchedulerError, Slurm, minutes
from pipeline.cluster.stage_status import make_plans
from pipeline.cluster.stage_status import stage_status as judge_stage
from pipeline.cluster.submit import chunks
from pipeline.cluster.worker import Records, _idle_attempts, run_element, still_indexed
from pipeline.errors import PipelineError, UsageError
from pipeline.phases.registry import phase_named
from pipeline.storage.completion import Journal
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex

FAST = "--engine none --no_temporal_avg"


def parse(argv: list[str]) -> Request:
    return parse_request("", argv)


def entry(scene_id: str, frames: int = 16) -> SceneEntry:
    return SceneEntry(scene_id=scene_id, source=scene_id, accepted=True, split="train", num_frames=frames)


def make_run(root: Path, scenes: tuple[str, ...] = ("a", "b"), **changes: object) -> Run:
    run = Run(
        folder=new_run_folder(root / "logs"),
        stages=(Stage.of(phase_named("deblur"), ("--engine", "none")),),
        scenes=scenes,
        raw_root=root / "data",
        out_root=root / "output",
        logs=root / "logs",
        profile=load_profile("generic"),
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def make_plan(run: Run, *elements: tuple[str, ...], number: int = 0, **changes: object) -> Plan:
    resources = Resources(partition="gpu", gpus=1, mem_gb=4)
    path = run.folder / f"deblur_{number}.json"
    plan = Plan(path=path, phase="deblur", round=number, elements=elements, resources=resources)
    return replace(plan, **changes).save()  # type: ignore[arg-type]


# Plans


def test_a_run_and_its_plans_survive_the_disk(tmp_path: Path):
    run = make_run(tmp_path)
    run.save()
    assert Run.load(run.folder) == run
    plan = make_plan(run, ("a",), ("b",))
    assert Plan.load(plan.path, plan.digest) == plan
    assert run.plans("deblur") == [plan] and run.plans("depth") == []
    assert run.command("deblur", ("a",))[-4:] == ["--engine", "none", "--scene", "a"]


def test_a_plan_is_never_rewritten(tmp_path: Path):
    run = make_run(tmp_path)
    run.save()
    make_plan(run, ("a",))
    with pytest.raises(PipelineError, match="never rewritten"):
        make_plan(run, ("b",))


def test_a_plan_that_was_edited_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path)
    run.save()
    plan = make_plan(run, ("a",))
    plan.path.write_text(plan.path.read_text().replace('"a"', '"b"'))
    with pytest.raises(StalePlanError, match="not the one that was submitted"):
        Plan.load(plan.path, plan.digest)
    with pytest.raises(SystemExit) as stopped:
        run_element(str(plan.path), plan.digest, 0)
    assert stopped.value.code == 2 and "make a new one: python -m pipeline resume --raw_root" in capsys.readouterr().err


def test_a_plan_older_than_the_index_names_the_scenes(tmp_path: Path):
    run = make_run(tmp_path)
    with pytest.raises(StalePlanError, match=r"there is no .*scene_index.json any more"):
        still_indexed(run, ("a",))
    index = SceneIndex(raw_root="data", settings={}, entries={"a": entry("a")})
    run.out_root.mkdir()
    index.save(run.out_root / "scene_index.json")
    assert still_indexed(run, ("a",)) == ("a",)
    with pytest.raises(
        StalePlanError, match="no longer accepts b; plan again with the scenes there are: python -m pipeline resume"
    ):
        still_indexed(run, ("a", "b"))


# Packing and estimates


def test_chunks_cover_every_element_once():
    assert chunks(5, 4) == [(0, 4), (4, 1)]
    assert chunks(4, 4) == [(0, 4)]
    assert chunks(0, 4) == []
    assert sum(count for _, count in chunks(2503, 1001)) == 2503


def test_packing_fills_tasks_to_the_target():
    entries = [entry(f"s{number:02d}", 100) for number in range(10)]
    assert pack(entries, 9.0, 60, 0) == [tuple(f"s{n:02d}" for n in range(k, min(k + 4, 10))) for k in (0, 4, 8)]
    assert [len(one) for one in pack(entries, None, 60, 0)] == [1] * 10, "nothing measured: one scene a task"
    assert [len(one) for one in pack(entries, 9.0, 60, 3)] == [3, 3, 3, 1]
    assert [len(one) for one in pack(entries, 1e6, 60, 0)] == [1] * 10, "longer than the target: alone"


def test_spread_balances_frames():
    entries = [entry("long", 90), entry("a", 30), entry("b", 30), entry("c", 30)]
    assert sorted(spread(entries, 2)) == [("a", "b", "c"), ("long",)]
    assert spread(entries[:1], 4) == [("long",)]


def test_seconds_per_frame_come_from_done_records(scene_project: Project):
    scene_project.run_upto(2)
    index = SceneIndex.load(scene_project.out / "scene_index.json")
    entries = list(index.accepted.values())
    rate = seconds_per_frame(scene_project.out, entries, "deblur")
    record = json.loads((scene_project.out / "tiny" / "frames_sharp" / ".done").read_text())
    assert rate == pytest.approx(record["wall_s"] / 18)
    assert seconds_per_frame(scene_project.out, entries, "render") is None


# Profiles


@pytest.mark.parametrize("name", ["generic", "isambard", "local"])
def test_shipped_profiles_load(name: str):
    assert name in known_profiles()
    profile = load_profile(name)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    assert {*array_phases(), CPU} <= set(profile.phases)


SHORT = "".join(f"[phase.{name}]\nhours = {1 / 60 if name == 'depth' else 1}\n" for name in (*array_phases(), CPU))


def test_the_defaults_are_the_documented_ones():
    generic, isambard = load_profile("generic"), load_profile("isambard")
    wanted = {"deblur": (48, 4), "depth": (64, 6), "render": (80, 8)}
    for phase, (memory, hours) in wanted.items():
        assert (generic.phases[phase].mem_gb, generic.phases[phase].hours) == (memory, hours)
        assert isambard.phases[phase].partition == "workq"
    assert isambard.max_gpus == 32 and isambard.phases[CPU].gpus == 1, "a job there must ask for a GPU"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cluster]\nmax_gpus = 1\n", r"there is no \[phase.cpu\]"),
        ("[phase.deblur]\nhuors = 3\n", "huors"),
        ("[phase.deblur]\nhours = 0\n", "hours must be positive, got 0"),
        (SHORT, r"\[phase.depth\] hours must be longer than signal_s, got 60 s"),
        ("[clutser]\nmax_gpus = 1\n", "unknown section 'clutser'"),
        ("[phase.deblur\n", "profile .*bad.toml"),
    ],
)
def test_bad_profiles_name_the_field(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_profile(str(path))


def test_an_unknown_profile_lists_those_there_are():
    with pytest.raises(UsageError, match=r"no profile 'slurmy'.*generic, isambard, local"):
        load_profile("slurmy")


def partition(name: str, gpus: int = 4, max_minutes: int | None = 1440) -> Partition:
    return Partition(name=name, gpus=gpus, cpus=64, mem_gb=250, max_minutes=max_minutes)


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        (
            [partition("batch")],
            "sends deblur to partition 'gpu', which this cluster does not have; its partitions: batch",
        ),
        ([partition("gpu", gpus=0), partition("cpu")], "1 GPU a task, and its nodes have none"),
        ([partition("gpu", max_minutes=60), partition("cpu")], "4 h, and its limit is 1 h"),
        ([partition("gpu")], "sends cpu to partition 'cpu'"),
    ],
)
def test_a_profile_that_does_not_fit_says_what_to_change(partitions: list[Partition], message: str):
    offered = {one.name: one for one in partitions}
    with pytest.raises(UsageError, match=f"{message}.*choose another --profile or edit jobs/profiles/generic.toml"):
        check_fits(load_profile("generic"), offered, ("deblur", CPU))


def test_profiles_are_recognised_by_partitions():
    assert detect_profile({"workq": partition("workq")}) == "isambard"
    assert detect_profile({"gpu": partition("gpu"), "cpu": partition("cpu")}) == "generic"
    with pytest.raises(UsageError, match=r"no profile fits this cluster's partitions \(batch\).*BOKEHFLOW_PROFILE"):
        detect_profile({"batch": partition("batch")})


@pytest.mark.parametrize(
    ("text", "expected"), [("1-00:00:00", 1440), ("04:30:00", 270), ("30:00", 30), ("infinite", None)]
)
def test_slurm_times(text: str, expected: int | None):
    assert minutes(text) == expected


# What a status of thousands of scenes reads


@pytest.mark.parametrize(("phase", "num_sets"), [("deblur", 0), ("depth", 0), ("render", 3)])
def test_names_by_folder_are_the_paths(phase: str, num_sets: int):
    scene = Scene(Path("output"), "bear")
    made = phase_named(phase).outputs
    by_folder = scene.output_names(made, 20, num_sets)
    paths = {folder / name for folder, names in by_folder.items() for name in names}
    assert paths == set(scene.outputs(made, 20, num_sets))


def test_a_journals_head_is_read_alone(tmp_path: Path):
    path = tmp_path / "deblur.jsonl"
    assert Journal.head(path) is None
    Journal(path).begin({"phase": "deblur"})
    assert Journal.head(path) == Journal(path).fields == {"phase": "deblur"}
    for torn in ("", '{"fields": {"pha', '["no object"]', "\xff"):
        path.write_text(torn, encoding="latin-1")
        assert Journal.head(path) is None


# Why something is unfinished


@pytest.mark.parametrize(
    ("events", "state", "cause"),
    [
        ([], None, "lost"),
        ([], "CANCELLED", "cancelled"),
        ([("step", {"exit": 127})], None, "environment"),
        ([("start", {})], "TIMEOUT", "timeout"),
        ([("start", {})], "NODE_FAIL", "node"),
        ([("start", {})], "OUT_OF_MEMORY", "memory"),
        ([("start", {})], "RUNNING", "queued"),
        ([("start", {})], None, "lost"),
        ([("start", {}), ("step", {"exit": 137})], None, "memory"),
        ([("start", {}), ("end", {"cause": "memory"}), ("step", {"exit": 137})], None, "memory"),
        ([("start", {}), ("end", {"cause": "scenes_failed"}), ("step", {"exit": 3})], "FAILED", "scenes_failed"),
        ([("start", {}), ("end", {"cause": "error"}), ("step", {"exit": 1})], "FAILED", "error"),
        ([("start", {}), ("end", {"cause": "done"}), ("step", {"exit": 0})], "COMPLETED", "held"),
        ([("start", {}), ("end", {"cause": "requeued"})], "PENDING", "queued"),
        ([("start", {}), ("end", {"cause": "requeued"})], None, "stopped"),
        ([("start", {}), ("end", {"cause": "requeued"}), ("start", {})], "NODE_FAIL", "node"),
        ([("start", {}), ("step", {"exit": 137}), ("start", {})], "CANCELLED", "cancelled"),
    ],
)
def test_the_cause_of_an_unfinished_element(tmp_path: Path, events: list, state: str | None, cause: str):
    run = make_run(tmp_path)
    run.save()
    plan = make_plan(run, ("a",), ("b",))
    plan.note_job("7", 0, 2)
    for event, facts in events:
        Records(plan.records / "1.jsonl").note(event, **facts)

    class Told(TaskStates):
        def queued(self, plan: Plan, number: int) -> str | None:
            assert number == 1
            return "7_1" if state in ("RUNNING", "PENDING") else None

        def ended(self, array: str, task: str) -> str | None:
            assert (array, task) == ("7", "7_1")
            return state

    assert element_cause(plan, 1, Told(None)) == (cause, "7_1")


def test_retries_are_by_cause_and_bounded(tmp_path: Path):
    run = make_run(tmp_path, ("lost", "memory", "failed"))
    run.save()
    for number in range(5):
        retried = {
            scene: one.retry for scene, one in unfinished(run.plans("deblur"), run.scenes, TaskStates(None)).items()
        }
        tries = {0: {}, 1: {"lost": True, "memory": True, "failed": False}}
        assert retried == tries.get(number, {"lost": number < 4, "memory": False, "failed": False}), number
        factor = 1.0 if number == 0 else 2.0
        plan = make_plan(run, ("lost",), ("memory",), ("failed",), number=number, memory_factor=factor)
        Records(plan.records / "0.jsonl").note("start")
        Records(plan.records / "1.jsonl").note("end", cause="memory", exit=137)
        Records(plan.records / "2.jsonl").note("end", cause="scenes_failed", exit=3)


def test_out_of_memory_is_planned_with_more(tmp_path: Path):
    run = make_run(tmp_path, ("a", "b"))
    run.save()
    plan = make_plan(run, ("a",), ("b",))
    Records(plan.records / "0.jsonl").note("end", cause="memory", exit=137)
    entries = {scene: entry(scene) for scene in run.scenes}
    found = judge_stage(run, "deblur", list(entries.values()), None)
    again, more = make_plans(run, "deblur", found, entries, None)
    assert again.scenes == ["b"] and again.resources.mem_gb == 48 and again.round == 1
    assert more.scenes == ["a"] and more.resources.mem_gb == 96 and more.memory_factor == 2 and more.round == 2


def test_attempts_without_progress_are_counted():
    def starts(*marks: int) -> list[dict]:
        return [{"event": "start", "progress": [mark, 0]} for mark in marks]

    assert _idle_attempts(starts(0), [5, 0]) == 0
    assert _idle_attempts(starts(5, 5, 5), [5, 0]) == 3
    assert _idle_attempts(starts(0, 5, 5), [5, 0]) == 2


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"JobState": "COMPLETING", "Reason": "None", "ExitCode": "0:15"}, True),
        ({"JobState": "CANCELLED"}, True),
        ({"JobState": "COMPLETING", "Reason": "TimeLimit"}, False),
        ({"JobState": "COMPLETING", "Reason": "None", "PreemptTime": "2026-01-01T00:00:00"}, False),
        ({"JobState": "RUNNING"}, False),
        ({}, False),
    ],
)
def test_a_cancelled_job_is_told_from_a_preempted_one(facts: dict[str, str], expected: bool):
    asked: list[tuple[str, ...]] = []

    class Told(Slurm):
        def job_facts(self, job: str) -> dict[str, dict[str, str]]:
            return {job: facts} if facts else {}

        def ask(self, *argv: str) -> str:
            asked.append(argv)
            return ""

    assert Told().requeue("7_1") is not expected
    assert asked == ([] if expected else [("scontrol", "requeue", "7_1")])


# On this machine


def local(project: Project, what: str, *flags: str) -> int:
    return int(submit(parse([what, "--local", *project.args(*flags)])))


def test_a_local_run_gives_the_same_bytes(project: Project, tmp_path: Path):
    """The plan's tasks are the scripts themselves: no difference to typing them one after the other.

    A scene a task in phases 2 and 3, both scenes in one task in phase 5.
    """
    for number in range(2):
        write_scene(project.raw, f"scene_{number}", 16, seed=number)
    assert local(project, "1-4", "--workers", "2", "--deblur_args", FAST) == 0
    assert project.run(4, "--confirm") == 0
    assert local(project, "5-6", "--scenes_per_task", "2", "--render_args", "--num_sets 2") == 0
    other = Project(tmp_path / "typed")
    other.raw = project.raw
    for phase, flags in ((1, ()), (2, FAST.split()), (3, ()), (4, ()), (4, ("--confirm",)), (5, ("--num_sets", "2"))):
        assert other.run(phase, *flags) == 0
    for scene in ("scene_0", "scene_1"):
        assert tree(project.out / scene) == tree(other.out / scene)


def test_too_few_scenes_stop_a_run_that_names_what_failed(project: Project, capsys: pytest.CaptureFixture[str]):
    """One of two scenes has no depth: it is named, the other is done, and half is less than --min_yield."""
    write_scene(project.raw, "good", 16)
    write_scene(project.raw, "poor", 16, depth=False)
    assert project.run(1) == 0 and project.run(2, *FAST.split()) == 0
    assert local(project, "depth") == 3
    shown = capsys.readouterr()
    assert "depth: 1 of 2 scenes done" in shown.out and "poor: " in shown.out
    assert "depth finished 1 of 2 scenes, less than --min_yield 0.9" in shown.err
    assert (project.out / "good" / "depth_maps" / ".done").exists()


def test_a_stopped_local_run_passes_it_on_and_resumes(project: Project):
    """SIGINT to the command: tasks stop at a safe point, exit 75, and the same command goes on."""
    write_scene(project.raw, "scene", 16)
    for phase in (1, 2, 3, 4):
        assert project.run(phase, *(FAST.split() if phase == 2 else ())) == 0
    assert project.run(4, "--confirm") == 0
    command = [sys.executable, "-m", "pipeline.cluster", "render", "--local", *project.args("--num_sets", "2")]
    brake = Brake(project.root / "brake")
    brake.set("bokeh_renders/*/bokeh_*.png", 4)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=brake.environment, **pipes)
    brake.wait()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    pictures = project.out / "scene" / "bokeh_renders"
    assert process.returncode == 75, out + err
    before = {path: path.stat().st_mtime_ns for path in pictures.glob("set_*/bokeh_*.png")}
    assert 4 <= len(before) < 32
    assert not list((project.out / "scene" / ".pipeline").glob("*.lease")), "the lease is released"
    assert local(project, "render", "--num_sets", "2") == 0
    assert before.items() <= {path: path.stat().st_mtime_ns for path in pictures.glob("set_*/bokeh_*.png")}.items()


# Bad input, before anything is submitted


def test_flags_are_checked_by_the_scripts_themselves(project: Project):
    with pytest.raises(UsageError, match=r"02_deblur.py does not take --reahc 3: .*unrecognized arguments"):
        local(project, "deblur", "--reahc", "3")


def test_a_flag_of_one_phase_must_say_which(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(["1-4", "--reach", "3"])
    assert '--deblur_args "--reach 3"' in capsys.readouterr().err


def test_without_an_index_it_says_so(project: Project):
    with pytest.raises(UsageError, match=r"01_validate_dataset.py"):
        local(project, "deblur")


@pytest.mark.parametrize("flags", [("--min_yield", "2"), ("--workers", "-1"), ("--scenes_per_task", "-2")])
def test_numbers_out_of_range(flags: tuple[str, str]):
    with pytest.raises(UsageError, match=flags[0]):
        parse(["deblur", *flags])


def test_without_slurm_it_says_how_to_go_on(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    write_scene(project.raw, "scene", 16)
    assert project.run(1) == 0
    with pytest.raises(SchedulerError, match="no sinfo here; run this on a login node, or add --local"):
        submit(parse(["deblur", *project.args()]))


def test_a_full_quota_leaves_nothing_half_said(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The run's folder cannot be written: one line, exit 1, and nothing was started."""
    import errno

    from pipeline.cluster.__main__ import main
    from pipeline.storage import files

    write_scene(project.raw, "scene", 16)
    assert project.run(1) == 0

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files, "_write_all", full)
    assert main(["deblur", "--local", *project.args()]) == 1
    shown = capsys.readouterr()
    assert "Disk quota exceeded" in shown.err and "processes here" not in shown.out
    assert not list((project.logs / "runs").glob("*/*.json"))


def test_counted_questions_start_at_nothing():
    assert Slurm().questions == 0
