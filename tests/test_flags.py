"""Flags: one spelling with two forms, defaults from the settings, and the same refusals before a submission as in a script."""

import pytest
from conftest import REPOSITORY, SCRIPTS, Project, load_script

from pipeline.arguments import ArgumentParser
from pipeline.cluster.__main__ import main as cluster
from pipeline.cluster.preflight import check_flags
from pipeline.errors import UsageError
from pipeline.phases.registry import phase_named, phases


def test_hyphens_are_taken_for_underscores_in_flags_and_nowhere_else():
    parser = ArgumentParser()
    parser.add_argument("--out_root")
    parser.add_argument("--render_args")
    parser.add_argument("--scene", action="append")
    given = ["--out-root=a-b", "--render-args", "--num-sets 2", "--scene", "my-clip"]
    args = parser.parse_args(given)
    assert (args.out_root, args.render_args, args.scene) == ("a-b", "--num-sets 2", ["my-clip"])


def test_every_command_takes_both_forms(scene_project: Project, capsys):
    scene_project.run_upto(1)
    for number in SCRIPTS:
        if number != 4:  # it has nothing to say before there is depth
            assert load_script(SCRIPTS[number])(scene_project.args("--dry-run")) in (0, 1, 3)
    assert cluster(["deblur", "--local", "--dry-run", "--scenes-per-task", "2", *scene_project.args()]) == 0
    assert not (scene_project.out / "tiny" / "frames_sharp").exists()


def test_no_command_has_a_parser_of_its_own():
    """Whoever uses argparse's class directly takes one spelling only."""
    places = [path for folder in ("pipeline", "model", "scripts") for path in (REPOSITORY / folder).rglob("*.py")]
    own = [path.name for path in places if "argparse.ArgumentParser(description" in path.read_text()]
    assert not own


WRONG = [
    ("index", "--min_frames 0", "min_frames must be at least 1, got 0"),
    ("index", "--workers 0", "workers must be at least 1, got 0"),
    ("deblur", "--engine nobody", "there is no deblur engine 'nobody'; allowed are: genfocus, none, wiener"),
    ("deblur", "--engine genfocus --deblur_conditions 7", "conditions must be 1 or 2, got 7"),
    ("deblur", "--engine genfocus --engine_opt conditions=7", "conditions must be 1 or 2, got 7"),
    ("deblur", "--engine genfocus --steps many", "engine option steps must be a int, got 'many'"),
    ("deblur", "--steps 8", "engine 'wiener' has no option 'steps'"),
    ("deblur", "--engine_opt sigma_px", "--engine_opt takes NAME=VALUE, got 'sigma_px'"),
    ("deblur", "--engine_opt sigma_px=9", "sigma_px must be in (0, 5], got 9.0"),
    ("deblur", "--reach 16", "reach must be in [1, window - 1 = 15], got 16"),
    ("deblur", "--temporal resample", "engine 'wiener' draws none"),
    ("deblur", "--temporal resample --engine genfocus --engine_opt author_seeds=true", "engine 'genfocus' draws none"),
    ("deblur", "--device nowhere", "--device must be auto, cpu, cuda or cuda:N, got 'nowhere'"),
    ("depth", "--chunk 0", "chunk must be at least 1 frame, got 0"),
    ("depth", "--engine vda --engine_opt encoder=vitz", "encoder must be one of vits, vitb, vitl, got 'vitz'"),
    ("calibrate", "--sensor_width_mm 0", "sensor_width_mm must be > 0 mm, got 0.0"),
    ("calibrate", "--confirm long", "'long' is no length"),
    ("render", "--num_sets 0", "num_sets must be in [1, 100], got 0"),
    ("render", "--engine bokehnet --guidance some", "guidance must be physical or normalised, got 'some'"),
    ("render", "--engine_opt blades=2", "blades must be 0 (a disc) or at least 3, got 2"),
    ("validate", "--workers 0", "workers must be at least 1, got 0"),
    ("validate", "--nonsense", "unrecognized arguments: --nonsense"),
]


@pytest.mark.parametrize(("name", "flags", "message"), WRONG, ids=[f"{name} {flags}" for name, flags, _ in WRONG])
def test_what_a_script_refuses_is_refused_before_anything_is_submitted(name: str, flags: str, message: str):
    with pytest.raises(UsageError) as refused:
        check_flags(phase_named(name), tuple(flags.split()))
    assert message in str(refused.value)


def test_every_phase_has_a_wrong_flag_here():
    assert {name for name, _, _ in WRONG} == {phase.name for phase in phases() if not phase.confirms}


def test_flags_that_fit_are_what_was_asked_for():
    asked = check_flags(phase_named("deblur"), ("--engine", "genfocus", "--steps", "4", "--no-temporal-avg"))
    assert (asked.engine, asked.options, asked.settings["temporal"]) == ("genfocus", {"steps": 4}, "none")
    assert check_flags(phase_named("render"), ("--device", "cuda")).engine == "lens", "a login node needs no GPU"
