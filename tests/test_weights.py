"""Published weights: found, judged by their headers, hashed by content, named in errors, and kept out of paths."""

import hashlib
import json
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.__main__ import main
from pipeline.engines.base import with_weights
from pipeline.engines.info import EngineInfo, recorded_options, unrecorded
from pipeline.errors import PipelineError, UsageError
from pipeline.phases.base import engine_fields
from pipeline.report.formatting import is_restricted
from pipeline.storage.completion import fingerprint
from pipeline.weights import (
    REGISTRY,
    Condition,
    DamagedWeightsError,
    content_sha256,
    digest,
    find,
    read_torch,
    require,
    weights_folder,
    weights_named,
)
from pipeline.weights.download import download

VITL = "metric_video_depth_anything_vitl.pth"
LORA = "bokehNet.safetensors"


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine, no cache of this user, no network."""
    for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_lora(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("transformer.x_embedder.lora_A.weight", "transformer.x_embedder.lora_B.weight")
    save_file({name: torch.full((4, 8), value) for name in names}, path)
    return path


def write_vda(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"pretrained.cls_token": torch.zeros(1, 1, 64), "head.projects.0.bias": torch.zeros(9000)}, path)
    return path


def write_flux(folder: Path) -> Path:
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    (folder / "tokenizer_2" / "spiece.model").write_bytes(b"words")
    for name in ("vae", "text_encoder"):
        save_file({"a": torch.ones(3)}, folder / name / "model.safetensors")
    for name in ("transformer", "text_encoder_2"):
        shards = {f"w{number}": f"model-{number}.safetensors" for number in (1, 2)}
        for key, file in shards.items():
            save_file({key: torch.ones(5)}, folder / name / file)
        (folder / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder


def test_found_below_the_folder_beside_it_and_in_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = weights_named(VITL)
    assert find(entry, tmp_path).condition is Condition.MISSING
    assert find(entry, tmp_path).path == tmp_path / "checkpoints" / VITL, "where it should be put"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    cached = tmp_path / "hf" / "hub" / "models--depth-anything--Metric-Video-Depth-Anything-Large"
    in_cache = write_vda(cached / "snapshots" / "abc" / VITL)
    assert find(entry, tmp_path).condition is Condition.MISSING, "a snapshot that no reference names is not believed"
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc\n")
    assert find(entry, tmp_path).path == in_cache
    beside = write_vda(tmp_path / VITL)
    assert find(entry, tmp_path).path == beside
    below = write_vda(tmp_path / "checkpoints" / VITL)
    found = find(entry, tmp_path)
    assert (found.path, found.condition, found.size_bytes) == (below, Condition.THERE, below.stat().st_size)


def test_weights_folder_is_the_option_then_the_environment_then_here(monkeypatch: pytest.MonkeyPatch):
    assert weights_folder() == Path(".")
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", "/from/environment")
    assert weights_folder() == Path("/from/environment") and weights_folder("given") == Path("given")


def test_truncated_and_foreign_files_are_damaged(tmp_path: Path):
    def stage_status(title: str, data: bytes) -> str:
        (tmp_path / title).write_bytes(data)
        found = find(weights_named(title), tmp_path)
        assert found.condition is Condition.DAMAGED
        return found.reason

    lora = write_lora(tmp_path / "a.safetensors").read_bytes()
    vda = write_vda(tmp_path / "a.pth").read_bytes()
    assert "whole safetensors" in stage_status(LORA, lora[:-1])
    assert "whole safetensors" in stage_status(LORA, b"")
    assert "whole safetensors" in stage_status(LORA, vda)
    assert "cut short" in stage_status(VITL, vda[:-1000])
    assert "cut short" in stage_status(VITL, b"<html>not found</html>")
    save_file({"a.lora_A.weight": torch.ones(2), "vision.proj": torch.ones(2)}, tmp_path / LORA)
    found = find(weights_named(LORA), tmp_path)
    assert found.condition is Condition.DAMAGED and "'vision.proj'" in found.reason
    (tmp_path / LORA).unlink()
    (tmp_path / LORA).mkdir()
    assert "is not a file" in find(weights_named(LORA), tmp_path).reason


class Code:
    """Would make a folder while it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_reading_executes_nothing_and_takes_only_tensors(tmp_path: Path):
    torch.save({"head.a": Code()}, tmp_path / VITL, pickle_module=pickle)
    assert "without running code" in find(weights_named(VITL), tmp_path).reason
    assert not Path("executed").exists()
    for content in ([torch.ones(2)], {"head.a": 3}, {1: torch.ones(2)}):
        torch.save(content, tmp_path / VITL)
        with pytest.raises(DamagedWeightsError, match="flat dictionary of tensors"):
            read_torch(tmp_path / VITL)


def test_a_diffusers_folder_must_be_whole(tmp_path: Path):
    entry = weights_named("FLUX.1-dev")
    folder = write_flux(tmp_path / "FLUX.1-dev")
    assert find(entry, tmp_path).condition is Condition.THERE
    shard = folder / "transformer" / "model-2.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert "model-2.safetensors is not a whole" in find(entry, tmp_path).reason
    shard.unlink()
    assert "lacks model-2.safetensors" in find(entry, tmp_path).reason
    shard.write_bytes(whole)
    (folder / "transformer" / "model.safetensors.index.json").write_text("[]")
    assert "is not an index" in find(entry, tmp_path).reason
    (folder / "transformer" / "model.safetensors.index.json").unlink()
    (folder / "vae" / "model.safetensors").unlink()
    assert "vae has no weights" in find(entry, tmp_path).reason
    vocabulary = folder / "tokenizer_2" / "spiece.model"
    vocabulary.unlink()
    assert "tokenizer_2 has no vocabulary" in find(entry, tmp_path).reason
    vocabulary.write_bytes(b"words")
    (folder / "scheduler" / "config.json").unlink()
    assert "scheduler is missing" in find(entry, tmp_path).reason
    (folder / "model_index.json").unlink()
    assert "layout of diffusers" in find(entry, tmp_path).reason


def test_digest_is_of_the_content_and_not_of_the_place(tmp_path: Path):
    entry = weights_named(LORA)
    here, there = tmp_path / "here", tmp_path / "there"
    write_lora(here / LORA)
    path = write_lora(there / LORA)
    first = content_sha256(find(entry, here))
    assert first == content_sha256(find(entry, there)) == hashlib.sha256(path.read_bytes()).hexdigest()
    write_lora(there / LORA, value=2.0)
    assert content_sha256(find(entry, there)) != first


def test_digest_of_a_folder_sees_names_settings_and_shards(tmp_path: Path):
    entry = weights_named("FLUX.1-dev")
    folder = write_flux(tmp_path / "FLUX.1-dev")
    seen = [content_sha256(find(entry, tmp_path))]
    (folder / "README.md").write_text("changes nothing")
    (folder / "flux1-dev.safetensors").write_bytes(b"the same weights in another layout, unused")
    assert content_sha256(find(entry, tmp_path)) == seen[0]
    (folder / "scheduler" / "config.json").write_text('{"shift": 3}')
    seen.append(content_sha256(find(entry, tmp_path)))
    save_file({"w2": torch.zeros(5)}, folder / "transformer" / "model-2.safetensors")
    seen.append(content_sha256(find(entry, tmp_path)))
    assert len(set(seen)) == 3


def test_digest_is_computed_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    computed = []
    really = hashlib.file_digest
    monkeypatch.setattr(digest.hashlib, "file_digest", lambda *args: computed.append(1) or really(*args))
    path = write_lora(tmp_path / LORA)
    first = digest.file_sha256(path)
    assert digest.file_sha256(path) == first and len(computed) == 1
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time, as a copy tool may leave it
    while path.stat().st_ctime_ns == stat.st_ctime_ns:  # a file system's clock ticks every few milliseconds
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest.file_sha256(path) != first
    for kept in (tmp_path / "cache" / "bokehflow" / "digests").iterdir():
        kept.write_text("torn")
    assert digest.file_sha256(path) != first and len(computed) == 3


def test_digest_without_a_cache_is_only_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write_lora(tmp_path / LORA)
    assert digest.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Options:
    steps: int = 28
    weights: str = unrecorded("")


class WithWeights:
    """Only what engine_fields looks at."""

    info = EngineInfo(name="some", role="bokeh", version=1, licence="unknown", deterministic=True)
    Options = Options

    def __init__(self, options: Options) -> None:
        self.options = options
        self.info = with_weights(type(self).info, require([weights_named(LORA)], weights_folder(options.weights)))


def test_fingerprint_knows_the_content_and_no_path(tmp_path: Path):
    for place, value in (("one", 1.0), ("two", 1.0), ("three", 3.0)):
        write_lora(tmp_path / place / LORA, value)
    one, two, three = (engine_fields(WithWeights(Options(weights=place))) for place in ("one", "two", "three"))
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)
    assert one["options"] == recorded_options(Options()) == {"steps": 28}
    assert list(one["weights"]) == [LORA] and "one" not in json.dumps(one)
    assert is_restricted(WithWeights(Options(weights="one")).info.licence)
    assert WithWeights.info.weights == {}, "the class still speaks of no weights"


def test_a_known_checksum_is_compared(tmp_path: Path):
    path = write_lora(tmp_path / LORA)
    entry = weights_named(LORA)
    right = replace(entry, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert with_weights(WithWeights.info, [find(right, tmp_path)]).weights == {LORA: right.sha256}
    with pytest.raises(UsageError, match="is not what was published as"):
        with_weights(WithWeights.info, [find(replace(entry, sha256="0" * 64), tmp_path)])
    with pytest.raises(UsageError, match="it should be 0000"):
        download([replace(entry, sha256="0" * 64)], tmp_path)


def test_missing_weights_are_one_error_with_the_table(tmp_path: Path):
    write_lora(tmp_path / LORA)
    with pytest.raises(UsageError) as caught:
        require([weights_named(LORA), weights_named(VITL)], tmp_path)
    text = str(caught.value)
    assert LORA in text and "there" in text and "CC-BY-NC-4.0" in text and "missing" in text
    assert f"python -m pipeline weights {VITL} --download --weights {tmp_path}" in text
    write_vda(tmp_path / VITL)
    assert [item.path for item in require([weights_named(LORA), weights_named(VITL)], tmp_path)] == [
        tmp_path / LORA,
        tmp_path / VITL,
    ]


def test_command_prints_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_lora(tmp_path / LORA)
    (tmp_path / VITL).write_bytes(b"PK")
    assert main(["weights"]) == 0
    text = capsys.readouterr().out
    rows = text.split("\n\n")[0].splitlines()
    assert len(rows) == 1 + len(REGISTRY) + 1, "a heading, each entry, one reason"
    for entry, row in zip(REGISTRY, rows[1:], strict=False):
        assert entry.title in row and entry.licence in row
        assert row.split()[-1] == {LORA: "there", VITL: "damaged"}.get(entry.title, "missing")
    assert "cut short" in rows[-1]
    assert "python -m pipeline weights FLUX.1-dev deblurNet.safetensors metric_video" in text
    assert main(["weights", "vda"]) == 0
    assert "FLUX" not in capsys.readouterr().out
    assert main(["weights", "dva"]) == 2
    assert "allowed are: FLUX.1-dev, RealVisXL_V5.0, alex_shift_tolerant.pth" in capsys.readouterr().err


def test_download_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(Path("nothing").resolve()))
    for name in (VITL, "FLUX.1-dev"):
        assert main(["weights", name, "--download"]) == 1
        error = capsys.readouterr().err
        assert f"{name} could not be fetched from https://huggingface.co/" in error and "copy it" in error
    assert main(["weights", "genfocus", "--download"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("offline" in line for line in lines), "a line for each that is lacking"


def test_a_hub_that_nobody_answers_for_is_not_asked_again_and_again(tmp_path, monkeypatch, capsys):
    """Its client would try for half a minute and say so each time."""
    import huggingface_hub

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *given, **more: pytest.fail("asked the hub's client")
    )
    assert main(["weights", VITL, "--download", "--weights", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "offline (Connection refused)" in line and str(tmp_path / "checkpoints" / VITL) in line


def test_download_puts_files_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub's client is replaced: what is tested is which files are asked for, where they go, and what is made of them."""
    import huggingface_hub

    monkeypatch.setattr("pipeline.weights.download.why_offline", lambda: None)
    asked = []

    def fetch(repo: str, name: str, local_dir: Path, force_download: bool) -> None:
        asked.append((repo, name, force_download))
        write_vda(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert main(["weights", "vda", "--download", "--weights", "models"]) == 0
    assert asked == [("depth-anything/Metric-Video-Depth-Anything-Large", VITL, False)], "only what the default needs"
    path = tmp_path / "models" / "checkpoints" / VITL
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["weights", VITL, "--download", "--weights", "models"]) == 0
    assert asked[1][2], "a damaged file is fetched again"
    assert main(["weights", VITL, "--download", "--weights", "models"]) == 0 and len(asked) == 2


def test_download_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    monkeypatch.setattr("pipeline.weights.download.why_offline", lambda: None)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, name, local_dir, force_download: write_vda(local_dir / name)
    )
    with pytest.raises(PipelineError, match="downloaded and is still damaged"):
        download([weights_named(LORA)], tmp_path)
