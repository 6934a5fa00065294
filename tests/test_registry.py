"""A phase and an engine that exist only here: one file each, and every part of the project knows them."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project, load_script

import pipeline.engines
import pipeline.phases
from pipeline.__main__ import main as operator
from pipeline.__main__ import parse
from pipeline.cluster.__main__ import main as cluster
from pipeline.cluster.request import choices
from pipeline.commands import run_phase
from pipeline.phases import registry
from pipeline.report.page import render_page

PHASE = '''
"""A test's phase: how bright each sharp frame is."""

import argparse
import json
from dataclasses import asdict, dataclass

from pipeline.engines.base import Deblurrer
from pipeline.engines.flags import engine_from
from pipeline.errors import UsageError
from pipeline.media.images import read_sharp
from pipeline.phases.base import Result, ScenePhase, engine_fields, ordered_missing
from pipeline.phases.dependencies import require
from pipeline.phases.registry import Phase
from pipeline.phases.runner import run_scenes
from pipeline.storage.files import write_json
from pipeline.storage.scene import Modality, Outputs

LIGHT = Modality(folder="light", file="light_{:04d}.json")


@dataclass(frozen=True, kw_only=True)
class Settings:
    gain: float = 1.0

    def __post_init__(self):
        if self.gain <= 0:
            raise UsageError(f"gain must be > 0, got {self.gain}")


class LightPhase(ScenePhase):
    name = "light"

    def __init__(self, settings, engine):
        self.settings, self.engine = settings, engine

    @property
    def info(self):
        return self.engine.info

    def fields(self, scene, entry):
        upstream = {"deblur": require(scene, entry, "deblur").fingerprint}
        return {"phase": "light", "engine": engine_fields(self.engine), "settings": asdict(self.settings), "upstream": upstream}

    def run(self, scene, entry, work):
        for frame in ordered_missing(self.outputs(scene, entry)):
            picture = self.engine.deblur(read_sharp(scene.sharp_path(frame)), 0, work.safe_point)
            work.journal.add(f"{frame:04d}", {})
            write_json(scene.frame_path(LIGHT, frame), {"mean": float(picture.mean() * self.settings.gain)})
        return Result(summary={"frames": entry.num_frames})


def add_flags(parser):
    parser.add_argument("--gain", type=float, default=Settings().gain, help="brightness of 1")


def settings(args):
    return Settings(gain=args.gain)


def run(args, run, presenter):
    return run_scenes(LightPhase(settings(args), engine_from(args, "deblur", Deblurrer)), run)


PHASES = (
    Phase(
        name="light",
        number=7,
        help="how bright each frame is",
        groups=("5-6",),
        outputs=Outputs(modalities=(LIGHT,)),
        title="light",
        role="deblur",
        resources="depth",
        default_engine="dim",
        add_flags=add_flags,
        settings=settings,
        run=run,
    ),
)
'''

ENGINE = '''
"""A test's engine: every frame darker."""

from dataclasses import dataclass

from pipeline.engines.info import EngineInfo, option


class Dim:
    info = EngineInfo(name="dim", role="deblur", version=1, licence="none needed", deterministic=True)

    @dataclass(frozen=True, kw_only=True)
    class Options:
        share: float = option(0.5, "what is left of the light, in (0, 1]", flag="dim_share")

        def __post_init__(self):
            if not 0 < self.share <= 1:
                raise ValueError(f"share must be in (0, 1], got {self.share}")

    def __init__(self, options, device):
        self.options = options

    def shrink(self):
        return False

    def deblur(self, frame, seed, safe_point):
        return (frame * self.options.share).astype("uint8")


ENGINE = Dim
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file in each of two folders that the packages also look into."""
    for name, text, package in (("light", PHASE, pipeline.phases), ("dim", ENGINE, pipeline.engines)):
        folder = tmp_path / f"{name}_module"
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    registry.phases.cache_clear()
    yield
    registry.phases.cache_clear()
    for module in ("pipeline.phases.light", "pipeline.engines.dim"):
        sys.modules.pop(module, None)


def test_a_new_phase_and_engine_work_and_are_told_everywhere(added: None, scene_project: Project, capsys, monkeypatch):
    roots = scene_project.args()
    scene_project.run_upto(2)
    assert run_phase("light", [*roots, "--dim-share", "0.25", "--gain", "2"]) == 0
    made = json.loads((scene_project.out / "tiny" / "light" / "light_0000.json").read_text())
    assert made["mean"] > 0

    assert run_phase("light", [*roots, "--dim-share", "0.25", "--gain", "2"]) == 0
    assert "1 skipped" in capsys.readouterr().out, "done is done"
    assert operator(["status", "--json", *roots]) == 0
    row = json.loads(capsys.readouterr().out)["scenes"]["tiny"]
    assert row["light"]["state"] == "done" and row["light"]["total"] == 18
    assert operator(["status", *roots]) == 0
    assert "light" in capsys.readouterr().out.splitlines()[0], "a column"
    assert operator(["explain", "tiny", "light", *roots]) == 0
    assert "engine.options.share = 0.25" in capsys.readouterr().out
    assert ">light<" in re.sub(r"\s+", "", render_page(scene_project.out)), "the report counts its scenes"

    with monkeypatch.context() as where:
        where.chdir(scene_project.root)
        assert choices()["5-6"] == ("render", "validate", "light") and choices()["light"] == ("light",)
        refused = cluster(["light", "--local", "--dry-run", *roots, "--dim_share", "7"])
        assert refused == 2 and "share must be in (0, 1], got 7.0" in capsys.readouterr().err
        assert cluster(["light", "--local", "--dry-run", *roots, "--gain", "3"]) == 1
        assert "gain 2.0 -> 3.0" in capsys.readouterr().err, "done with other settings"
        assert cluster(["light", "--local", "--dry-run", *roots, "--on_stale", "redo", "--gain", "3"]) == 0
        planned = capsys.readouterr().out
        assert "light: 1 scenes in 1 tasks" in planned and "-m pipeline light" in planned and "--gain 3" in planned


def test_help_lists_them_with_their_real_defaults(added: None, capsys):
    with pytest.raises(SystemExit):
        load_script("02_deblur")(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "dim, genfocus, none, wiener" in text, "the engine among the others"
    assert "share=0.5 what is left of the light, in (0, 1]" in text
    assert "of dim: what is left of the light, in (0, 1]; 0.5 unless given" in text
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert "phase 7: how bright each frame is" in " ".join(capsys.readouterr().out.split())
