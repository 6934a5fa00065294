"""Every command of the README runs, in the order in which it stands there."""

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from conftest import REPOSITORY, moving_frames, write_scene

import pipeline

README = (REPOSITORY / "README.md").read_text()
STAMPED = ("pyproject.toml", "constraints.txt", "environment.yml")  # what the environment is made from
MAKE_TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python ")]


def write_clip(path: Path) -> None:
    """A short video with its depth in a folder of its name."""
    write_scene(path.parent, path.stem, 3)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 72, 48, "yuv420p"
        for picture in moving_frames(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def test_readme_commands_run_on_a_users_folder(tmp_path: Path):
    write_scene(tmp_path / "data", "bear", 16)
    write_scene(tmp_path / "data", "street", 16, seed=4)
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    assert len(commands()) >= 10
    for command in commands():
        argv = [sys.executable, *command.split()[1:]]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "output" / "report" / "index.html").exists()
    assert (tmp_path / "output" / "bear" / "bokeh_renders" / "set_03" / "bokeh_0015.png").exists()


def test_readme_python_runs():
    for block in blocks("python"):
        scope: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), scope)
        assert tuple(scope["photograph"].shape) == (1, 3, 96, 160)


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_named_in_the_readme_exist():
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE):
        assert target in MAKE_TARGETS, target


def test_clean_demo_removes_the_demo_and_nothing_else(tmp_path: Path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "Makefile").write_text((REPOSITORY / "Makefile").read_text())
    own = [tmp_path / name / "scene" / "file" for name in ("data", "output", "runs", "logs")]
    for path in (*own, *(tmp_path / "demo" / path.relative_to(tmp_path) for path in own)):
        path.parent.mkdir(parents=True)
        path.write_text("kept")
    subprocess.run(["make", "clean-demo"], cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "demo").exists() and all(path.exists() for path in own)


def test_the_demo_writes_below_its_folder_alone():
    recipe = re.search(r"^demo: env\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    for line in recipe[1].splitlines():
        if "$(RUN)/" in line or "-m pipeline" in line:
            assert "$(ROOTS)" in line or "--raw_root demo/data" in line, line
    assert 'out_dir = "demo/' in (REPOSITORY / "model" / "configs" / "demo.toml").read_text()


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"`((?:scripts|docs|benchmarks)/[\w./]+)`", README):
        assert (REPOSITORY / name).exists(), name


def test_setup_script_is_idempotent_and_says_what_it_found():
    """On this machine's finished environment it only checks."""
    stamp = REPOSITORY / ".venv" / ".bokehflow"
    made_from = b"".join((REPOSITORY / name).read_bytes() for name in STAMPED)
    if not stamp.exists() or stamp.read_text().strip() != hashlib.sha256(made_from).hexdigest():
        pytest.skip(
            f"the environment was not made by scripts/00_setup_env.sh from these {', '.join(STAMPED)}: make env"
        )
    before = stamp.stat().st_mtime_ns
    done = subprocess.run(
        ["bash", "scripts/00_setup_env.sh", "--venv"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout and "ready" in done.stdout
    assert stamp.stat().st_mtime_ns == before


PIP = """#!/bin/bash
case "$*" in
*"-m pip"*)
    printf '%s\\n' 'Obtaining file:///x' 'Collecting torch==2.13.0 (from x)' '  Downloading torch-2.13.whl (188 MB)' \
        'Requirement already satisfied: rich' 'Collecting jinja2>=3.1' 'Installing collected packages: torch, jinja2'
    exit $PIP_EXIT ;;
*) echo "torch checked" ;;
esac
"""


@pytest.mark.parametrize("pip_exit", [0, 1])
def test_setup_script_shows_how_far_it_is_and_stops_where_pip_does(tmp_path: Path, pip_exit: int):
    for name in (*STAMPED, "scripts/00_setup_env.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": sys.executable, "PIP_EXIT": str(pip_exit)}
    done = subprocess.run(
        ["bash", "scripts/00_setup_env.sh", "--venv"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    pins = sum("==" in line for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    assert f"2 of about {pins} packages" in done.stdout and "unpacking" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / ".venv" / ".bokehflow").exists() == ("ready." in done.stdout) == (pip_exit == 0)
    assert (done.returncode == 0) == (pip_exit == 0)


def test_setup_script_refuses_an_unknown_flag():
    done = subprocess.run(
        ["bash", "scripts/00_setup_env.sh", "--docker"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "usage" in done.stderr


def test_constraints_pin_every_dependency():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [one for name in sorted(extras) if name != "all" for one in extras[name]]
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    for requirement in wanted:
        assert re.split(r"[<>=]", requirement)[0].lower() in pinned, requirement


def names_in_code(page: str) -> set[str]:
    return set(re.findall(r"`([\w./]+)`", (REPOSITORY / page).read_text()))


def resolves(name: str) -> bool:
    """Whether a path, or a dotted name of a module and what is in it, exists."""
    if "/" in name:
        return (REPOSITORY / name).exists()
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def test_names_in_contributing_exist():
    """A stranger's questions are answered with names that are there."""
    named = {
        name for name in names_in_code("CONTRIBUTING.md") if re.match(r"(pipeline|model|scripts|docs|tests)[./]", name)
    }
    assert len(named) >= 12
    assert [name for name in sorted(named) if not resolves(name)] == []


def test_the_version_is_cited():
    assert f"version: {pipeline.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert f"## [{pipeline.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()
