"""A run's folder: one trainer at a time, equal bytes for equal runs, the best checkpoint known after any kill."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_train import losses, scenes, whole_run, write_config  # noqa: F401  fixtures among them

from model import train
from model.training.network_file import find_model, load_model, step_folders, tensor_bytes
from model.training.settings import load_settings
from model.training.trainer import Trainer
from pipeline.signals import StopSignals
from pipeline.storage.appending import append_line
from pipeline.storage.lease import Lease

ELSEWHERE = {"host": "elsewhere", "boot_id": "other", "pid_namespace": "pid:[1]", "pid": 1, "token": "theirs"}


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path: Path):
    """The library writes metadata in the order of a hash that is drawn anew each time."""
    tensors = {f"layer{n}.weight": torch.full((3,), float(n)) for n in range(8)} | {"step": torch.tensor(7)}
    metadata = {f"key{n}": str(n) for n in range(12)}
    made = {tensor_bytes(tensors, dict(sorted(metadata.items(), reverse=bool(n % 2)))) for n in range(12)}
    assert len(made) == 1
    (tmp_path / "x.safetensors").write_bytes(made.pop())
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata() == metadata
        assert {name: opened.get_tensor(name).tolist() for name in opened.keys()} == {  # noqa: SIM118
            name: tensor.tolist() for name, tensor in tensors.items()
        }


def test_equal_runs_give_equal_files(scenes: Path, whole_run: Path, tmp_path: Path):  # noqa: F811
    assert train.main(["--config", str(write_config(tmp_path / "c.toml", scenes, tmp_path / "run"))]) == 0
    for name in ("model.safetensors", "resume/weights.safetensors", "resume/average.safetensors", "resume/state.json"):
        first, second = (folder / "checkpoints/step_000006" / name for folder in (whole_run, tmp_path / "run"))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.parametrize("damage", ["stale", "absent", "garbage"])
def test_kill_between_checkpoint_and_best_is_mended(scenes: Path, whole_run: Path, tmp_path: Path, damage: str):  # noqa: F811
    shutil.copytree(whole_run, tmp_path / "run")
    best = tmp_path / "run" / "best.json"
    expected = best.read_bytes()
    if damage == "absent":
        best.unlink()
    else:
        best.write_text(json.dumps({"step": 2, "psnr_db": 1.0}) if damage == "stale" else '{"step": 2')
    append_line(tmp_path / "run" / "train.jsonl", '{"kind": "train", "st')
    assert train.main(["--config", str(write_config(tmp_path / "c.toml", scenes, tmp_path / "run"))]) == 0
    assert best.read_bytes() == expected
    assert find_model(tmp_path / "run") == tmp_path / "run" / find_model(whole_run).relative_to(whole_run)
    assert losses(tmp_path / "run") == losses(whole_run)


def test_what_a_killed_trainer_left_goes(scenes: Path, whole_run: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    before = {path for path in out.rglob("*") if "tensorboard" not in path.parts}
    names = ("settings.json", "stopped.json", "best.json", "train.jsonl", "pictures/step_000002.png")
    left = [(out / name).with_name(f".{Path(name).name}.0123456789ab-7-0.tmp") for name in names]
    for path in left:
        path.write_bytes(b"half")
    foreign = out / ".notes.md.tmp"
    foreign.touch()
    assert train.main(["--config", str(write_config(tmp_path / "c.toml", scenes, out))]) == 0
    assert {path for path in out.rglob("*") if "tensorboard" not in path.parts} == before | {foreign}


def test_second_trainer_in_a_folder_is_refused(scenes: Path, tmp_path: Path, capsys):  # noqa: F811
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    (tmp_path / "run").mkdir()
    with Lease(tmp_path / "run" / "train.lease"):
        assert train.main(["--config", str(config)]) == 1
    assert "train is in work by" in capsys.readouterr().err
    assert not step_folders(tmp_path / "run") and not (tmp_path / "run" / "train.jsonl").exists()


def test_trainer_that_lost_its_folder_writes_nothing_more(scenes: Path, tmp_path: Path, monkeypatch, capsys):  # noqa: F811
    out = tmp_path / "run"
    config = write_config(tmp_path / "c.toml", scenes, out)
    step = Trainer._step
    before: dict[Path, bytes] = {}

    def overtaken(self, at, stream):
        done = step(self, at, stream)
        if at == 2:  # after the checkpoint of step 2
            (out / "train.lease").write_text(json.dumps(ELSEWHERE))
            kept = [path for path in out.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
            before.update({path: path.read_bytes() for path in kept if path.name != "train.log"})
        return done

    monkeypatch.setattr(Trainer, "_step", overtaken)
    assert train.main(["--config", str(config)]) == 1
    assert "nothing more is written" in capsys.readouterr().err
    kept = [path for path in out.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    assert {path: path.read_bytes() for path in kept if path.name != "train.log"} == before
    assert [number for number, _ in step_folders(out)] == [2] and (out / "train.lease").exists()


def test_fingerprint_covers_the_start_and_what_dropout_is_drawn_for(scenes: Path, whole_run: Path, tmp_path: Path):  # noqa: F811
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", init_from=str(whole_run))
    with_dropout = Trainer(load_settings(config), StopSignals())._fields["run"]
    assert with_dropout["init_from"] == load_model(whole_run).digest
    assert with_dropout["micro_batch_size"] == 1
    plain = load_settings(config, ["model.dropout=0.0", "run.init_from=''"])
    without = Trainer(plain, StopSignals())._fields["run"]
    assert "init_from" not in without and "micro_batch_size" not in without
