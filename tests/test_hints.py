"""Commands that messages name: they repeat the roots, end their line, and can be pasted."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, SCRIPTS, Project, load_script, write_scene

from pipeline import run_all
from pipeline.__main__ import main as operator
from pipeline.phases.registry import phase_named

MAKERS = ("phase_command", "operator_command", "next_step", "command", "command_with", "download_command")
HINT = re.compile(r"\bpython (?:scripts/|-m (?:pipeline|model)).*$", re.MULTILINE)


def sources() -> list[Path]:
    return [path for folder in ("pipeline", "model", "scripts") for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants that are neither docstrings nor the name that a parser gives its command."""
    skipped = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".prog")
    }
    skipped |= {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node


def test_commands_in_messages_are_made_by_hints_and_end_their_line():
    wrong = []
    for path in sources():
        tree = ast.parse(path.read_text())
        for text in texts(tree):
            if re.search(r"python (scripts/|-m (pipeline|model)[\w.]* [\w-])", text.value):
                wrong.append(f"{path.name}:{text.lineno}: spelled out: {text.value}")
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
            for part, after in zip(node.values, node.values[1:], strict=False):
                called = isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Call) and part.value.func
                ends = isinstance(after, ast.Constant) and after.value.startswith("\n")
                if isinstance(called, ast.Name) and called.id in MAKERS and not ends:
                    wrong.append(f"{path.name}:{node.lineno}: text follows a command: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """A project below a folder whose name a shell would take apart."""
    made = Project(tmp_path / 'it\'s my "work"', capsys)
    made.raw = made.root / "raw films; $HOME"
    made.out = made.root / "made (1)"
    write_scene(made.raw, "tiny", 16)
    return made


def hints(text: str) -> list[list[str]]:
    return [shlex.split(found) for found in HINT.findall(text)]


def test_every_hint_of_a_whole_way_repeats_the_roots_and_can_be_pasted(odd: Project):
    text = ""
    write_scene(odd.raw, "flat", 16, depth=False)
    for number in SCRIPTS:
        if number == 5:
            assert odd.run(5) == 1  # nobody confirmed
            text += odd.text
            assert odd.run(4, "--confirm") == 0, odd.text
            text += odd.text
        assert odd.run(number, *(["--num_sets", "1"] if number == 5 else [])) in (0, 3), odd.text
        text += odd.text
    found = hints(text)
    assert len(found) >= 8
    named = {words[1] for words in found}
    assert {f"scripts/{SCRIPTS[number]}.py" for number in range(2, 6)} <= named
    for words in found:
        if words[1:4] == ["-m", "pipeline", "weights"]:
            continue
        for flag, root in (("--raw_root", odd.raw), ("--out_root", odd.out), ("--logs", odd.logs)):
            assert words[words.index(flag) + 1] == str(root), words
    pasted = next(found for found in HINT.findall(text) if "05_render" in found)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        pasted, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3) and "render: " in done.stdout, done.stderr


def run(project: Project, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    given = ["--index_args", "--workers 1", "--render_args", "--num_sets 1", "--validate_args", "--workers 1"]
    code = operator(["run", *project.args(*given, *flags)])
    return code, "".join(capsys.readouterr())


def test_all_phases_in_one_go_stop_at_the_question_and_go_on(odd: Project, capsys: pytest.CaptureFixture[str]):
    code, text = run(odd, capsys)
    assert code == 1 and "p95" in text and "coc_histogram.png" in text
    assert not (odd.out / "tiny" / "bokeh_renders").exists()
    assert "Next:" not in text, "the run itself takes the next step"
    again = next(words for words in hints(text) if "--yes" in words)
    assert operator(again[3:]) == 0
    text = "".join(capsys.readouterr())
    assert "deblur: 0 done, 1 skipped" in text and "validate: 1" in text
    assert (odd.out / "report" / "index.html").exists()
    before = {path: path.stat().st_mtime_ns for path in odd.out.rglob("*") if path.is_file()}
    code, text = run(odd, capsys)
    assert code == 0 and "render: 0 done, 1 skipped" in text, "nobody is asked twice"
    assert before == {path: path.stat().st_mtime_ns for path in odd.out.rglob("*") if path.is_file()}


def test_a_still_goes_through_and_the_question_takes_an_own_value(odd: Project, capsys, monkeypatch):
    write_scene(odd.raw, "still", 1)
    answers = iter(["perhaps", "250um"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    code, text = run(odd, capsys, "--index_args", "--min_frames 1 --workers 1", "--scene", "still")
    assert code == 0 and "'perhaps' is no length" in text
    assert '"max_coc": 0.00025' in (odd.out / "still" / "metadata.json").read_text()


def test_no_leaves_the_dataset_unconfirmed(odd: Project, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run(odd, capsys)[0] == 1
    assert '"confirmed_max_coc": null' in (odd.out / "coc_stats.json").read_text()


def test_a_run_stops_at_the_first_phase_that_fails_and_names_the_way_on(odd: Project, capsys):
    write_scene(odd.raw, "flat", 16, depth=False)
    code, text = run(odd, capsys, "--yes")
    assert code == 3 and "phase 3 ended with exit code 3" in text and "phase 4 of 6" not in text
    assert "--yes" in hints(text)[-1] and hints(text)[-1][:4] == ["python", "-m", "pipeline", "run"]
    estimate = next(words for words in hints(text) if "--depth_args" in words)
    assert estimate[3] == "run" and estimate[-1] == "--engine vda --engine_opt encoder=vits", (
        "told in phase 1, to go on with"
    )


def test_flags_that_a_phase_refuses_are_refused_before_the_first_begins(odd: Project, capsys):
    assert operator(["run", *odd.args("--render_args", "--num_sets 0")]) == 2
    assert "num_sets must be" in "".join(capsys.readouterr()) and not odd.out.exists()


def test_a_run_draws_lenses_that_blur_until_somebody_confirmed_others(odd: Project, capsys):
    assert operator(["run", *odd.args("--dry_run")]) == 0
    assert "--lens_prior visible" in "".join(capsys.readouterr()) and not odd.out.exists()
    odd.run_upto(4)
    load_script(SCRIPTS[4])(odd.args("--confirm"))
    capsys.readouterr()
    assert operator(["run", *odd.args("--dry_run")]) == 0
    assert "--lens_prior published" in "".join(capsys.readouterr())


def test_a_run_takes_every_phase_that_a_person_runs():
    assert [phase.number for phase in run_all.in_order()] == [1, 2, 3, 4, 5, 6]
    assert phase_named("confirm") not in run_all.in_order()
