"""The wheel, installed in an environment of its own with no more than it declares, and used outside the checkout."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_scene
from packaging.requirements import Requirement

from pipeline.extras import EXTRA_OF

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PROFILES = sorted((REPOSITORY / "jobs" / "profiles").glob("*.toml"))


def copied(tree: Path) -> Path:
    """What a package is built from. In the checkout setuptools would leave stale files that the next wheel carries."""
    for name in ("pipeline", "model", "jobs"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    return tree


def build(folder: Path) -> Path:
    """The wheel, without asking the network."""
    tree = copied(folder / "tree")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(tree)], check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


def top_levels(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    """Its files and folders as they lie in site-packages."""
    names = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    return (Path(str(distribution.locate_file(name))) for name in sorted(names))


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of all distributions that these requirements bring along, extras aside."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        if one.name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(one.name)
        waiting += [Requirement(text) for text in importlib.metadata.requires(one.name) or ()]
    return found


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and a folder of the user's to run in."""

    bin: Path
    site: Path
    home: Path

    def run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        argv = [str(self.bin / command), *args]
        return subprocess.run(argv, cwd=self.home, env=environment, capture_output=True, text=True, check=False)

    def python(self, code: str) -> str:
        done = self.run("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def environment(folder: Path, wheel: Path, *extras: str) -> Installed:
    """What `pip install 'bokehflow[...]'` makes: of this environment's packages those that it declares, by link."""
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    for name in closure(wanted):
        for path in top_levels(importlib.metadata.distribution(name)):
            if not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    home = folder / "home"
    home.mkdir()
    return Installed(bin=python.parent, site=site, home=home)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def clustered(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With submitit, and a raw scene in the user's folder."""
    made = environment(tmp_path_factory.mktemp("clustered"), wheel, "cluster")
    write_scene(made.home / "data", "bear", 16)
    return made


def test_the_wheel_holds_code_and_its_data_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"pipeline", "model", "bokehflow"}
    travels = {
        path.relative_to(REPOSITORY).as_posix()
        for room in ("pipeline", "model")
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "pipeline/py.typed",
        "model/py.typed",
        "pipeline/report/templates/page.html",
        "pipeline/view/page/view.html",
        "pipeline/view/page/view.js",
        "model/configs/demo.toml",
    } <= travels
    assert travels <= {*names}, "whatever lies beside the code goes with it"
    assert {f"pipeline/cluster/profiles/{path.name}" for path in PROFILES} <= {*names}


def test_there_is_one_version(bare: Installed):
    versions_of = "print(pipeline.__version__, importlib.metadata.version('bokehflow'))"
    code = f"import importlib.metadata, pipeline; print(pipeline.__file__); {versions_of}"
    where, versions = bare.python(code).splitlines()
    assert Path(where).is_relative_to(bare.site), "this would test the checkout"
    import pipeline

    assert versions == f"{pipeline.__version__} {pipeline.__version__}"


def test_the_lens_renderer_needs_numpy_and_pytorch_alone(bare: Installed):
    """The README's example, and no package beyond what PyTorch itself brings."""
    readme = (REPOSITORY / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example
    trace = (
        "import sys; print(tuple(photograph.shape)); print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    shape, loaded = bare.python(f"{example[1]}\n{trace}").splitlines()
    assert shape == "(1, 3, 96, 160)"
    others = closure(PROJECT["dependencies"]) - closure(["numpy", "torch"])
    packages = {
        path.name.partition(".")[0] for name in others for path in top_levels(importlib.metadata.distribution(name))
    }
    assert {"PIL", "cv2", "rich", "scipy"} <= packages
    assert not packages & {*loaded.split()}


def test_a_lens_needs_no_pytorch(bare: Installed):
    code = "import sys; from pipeline.optics import Lens; Lens(f_m=0.05, f_number=2, focus_m=3); print('torch' in sys.modules)"
    assert bare.python(code).strip() == "False"


def test_shipped_profiles_come_along_and_a_projects_own_come_first(bare: Installed):
    names = "from pipeline.cluster.profile import known_profiles, profile_path; "
    code = f"{names}print(*map(profile_path, known_profiles()), sep='\\n')"
    shipped = [Path(line) for line in bare.python(code).splitlines()]
    assert [path.read_text() for path in shipped] == [path.read_text() for path in PROFILES]
    assert all(path.is_relative_to(bare.site) for path in shipped)
    own = bare.home / "jobs" / "profiles"
    own.mkdir(parents=True)
    shutil.copy(shipped[0], own / shipped[0].name)
    shutil.copy(shipped[0], own / "mine.toml")
    try:
        found = [Path(line) for line in bare.python(code).splitlines()]
        assert [path.stem for path in found] == sorted([*(path.stem for path in PROFILES), "mine"])
        assert [path.stem for path in found if path.is_relative_to(bare.home)] == [shipped[0].stem, "mine"]
    finally:
        shutil.rmtree(bare.home / "jobs")


def test_the_table_of_extras_is_that_of_the_package():
    """Every optional package is in the table, under an extra that brings it; packages are named as they are imported."""
    distribution = {"av": "av", "scenedetect": "scenedetect-headless"}
    extras = {
        extra: {Requirement(text).name for text in wanted} for extra, wanted in PROJECT["optional-dependencies"].items()
    }
    for package, extra in EXTRA_OF.items():
        assert distribution.get(package, package) in extras[extra], package
    optional = set().union(*(wanted for extra, wanted in extras.items() if extra not in ("all", "dev")))
    assert optional == {distribution.get(package, package) for package in EXTRA_OF}
    assert extras["all"] == {"bokehflow"}
    assert set(re.findall(r"\w+", PROJECT["optional-dependencies"]["all"][0])) - {"bokehflow"} == {*extras} - {
        "all",
        "dev",
        "kernels",  # a gigabyte, and CUDA builds of PyTorch bring it
    }


@pytest.mark.parametrize(
    "command", ["bokehflow", "bokehflow-train", "bokehflow-evaluate", "bokehflow-apply", "bokehflow-refocus"]
)
def test_console_commands_explain_themselves(bare: Installed, command: str):
    done = bare.run(command, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("extra", "argv"),
    [
        ("cluster", ["python", "-m", "pipeline.cluster", "1-4", "--local", "--dry_run"]),
        ("train", ["bokehflow-train", "--config", "demo"]),
    ],
)
def test_a_missing_extra_is_one_line(bare: Installed, extra: str, argv: list[str]):
    done = bare.run(*argv)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().endswith(f"pip install 'bokehflow[{extra}]'") and len(done.stderr.splitlines()) == 1


def test_a_video_without_its_extra_is_one_line(bare: Installed):
    """Not a rejected scene: nothing is wrong with the video."""
    index = "from pipeline.phases.index import IndexSettings, check_source; import pathlib, pipeline.cli as cli; "
    index += "cli.main(lambda: check_source(pathlib.Path(), 'film', ['film.mp4'], IndexSettings()))"
    (bare.home / "film.mp4").write_bytes(b"")
    try:
        done = bare.run("python", "-c", index)
    finally:
        (bare.home / "film.mp4").unlink()
    assert done.stderr.strip().endswith("pip install 'bokehflow[video]'") and len(done.stderr.splitlines()) == 1


def test_status_of_an_empty_folder(bare: Installed):
    done = bare.run("bokehflow", "status")
    assert done.returncode == 2 and "scene_index.json" in done.stderr, done.stderr


def test_phases_run_by_name_and_as_cluster_tasks_outside_the_checkout(clustered: Installed):
    nowhere = clustered.run("bokehflow", "index", "--raw_root", "nowhere")
    assert nowhere.returncode == 2 and "scripts/" not in nowhere.stderr
    done = clustered.run("bokehflow", "index")
    assert done.returncode == 0, done.stderr
    assert "Next: python -m pipeline deblur" in done.stdout and "scripts/" not in done.stdout
    told = clustered.run("python", "-m", "pipeline.cluster", "deblur", "--engine", "none", "--local", "--dry_run")
    assert told.returncode == 0, told.stderr
    assert "python -m pipeline deblur --raw_root" in told.stdout
    done = clustered.run("python", "-m", "pipeline.cluster", "deblur", "--engine", "none", "--local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clustered.home / "output" / "bear" / "frames_sharp" / ".done").is_file()
    status = clustered.run("bokehflow", "status")
    assert "deblur: 1 done" in status.stdout, status.stdout + status.stderr


@pytest.mark.slow
def test_all_phases_run_outside_the_checkout(clustered: Installed):
    done = clustered.run("python", "-m", "pipeline.cluster", "test", "--local")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (clustered.home / "output" / "report" / "index.html").read_text()
    assert "bear" in page and "scripts/" not in page


@pytest.mark.slow
def test_pip_installs_it_in_an_empty_environment(tmp_path: Path):
    """As a user does, dependencies downloaded in the tested versions; a gigabyte where PyTorch comes with CUDA."""
    venv.create(tmp_path / "env", with_pip=True)
    bin = tmp_path / "env" / "bin"
    pip = [str(bin / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(REPOSITORY / "constraints.txt")]
    subprocess.run([*pip, str(copied(tmp_path / "tree"))], check=True, capture_output=True, text=True)
    fresh = Installed(bin=bin, site=next((tmp_path / "env" / "lib").glob("python*")) / "site-packages", home=tmp_path)
    test_there_is_one_version(fresh)
    test_the_lens_renderer_needs_numpy_and_pytorch_alone(fresh)
    test_status_of_an_empty_folder(fresh)
