"""Every format that is read: where a sample of it lies in a finished project, and who reads it.

A reader either returns or raises one of this project's errors. Whatever else comes out of it is a fault.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from conftest import moving_frames, slanted_depth

from pipeline.cluster.plan import Run, all_runs
from pipeline.cluster.profile import load_profile
from pipeline.cluster.worker import Records
from pipeline.errors import LeaseHeldError
from pipeline.media.images import read_picture
from pipeline.phases.calibration import read_calibration
from pipeline.phases.index import IndexSettings, check_source
from pipeline.phases.lenses import read_statistics
from pipeline.phases.registry import scene_phases
from pipeline.phases.scene_check import check_scene
from pipeline.report.page import render_page
from pipeline.run_settings import RunSettings
from pipeline.status import dataset_status, explain
from pipeline.storage.appending import append_record
from pipeline.storage.completion import DoneRecord
from pipeline.storage.journal import Journal
from pipeline.storage.lease import Lease, LeaseTimes, held
from pipeline.storage.scene import Scene, SceneIndex
from torture.subjects import FRAMES, NAME

Reader = Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file that is read.

    Args:
        name: for the table and --format.
        file: relative to the project's root.
        readers: take the project's root.
    """

    name: str
    file: str
    readers: tuple[Reader, ...]


def _settings(root: Path) -> RunSettings:
    return RunSettings(raw_root=root / "data", out_root=root / "output", logs=root / "logs")


def _scene(root: Path) -> Scene:
    return Scene(root / "output", NAME)


def _index(root: Path) -> SceneIndex:
    return SceneIndex.load(root / "output" / "scene_index.json")


def _status(root: Path) -> Any:
    return dataset_status(_settings(root))


def _explain(root: Path) -> Any:
    return [explain(_settings(root), NAME, phase.name) for phase in scene_phases()]


def _report(root: Path) -> str:
    return render_page(root / "output")


def _check(root: Path) -> Any:
    return check_scene(root / "output", _index(root).entries[NAME])


def _raw(root: Path) -> Any:
    settings = IndexSettings(min_frames=FRAMES, workers=1)
    return [
        check_source(root / "raw", name, [name], settings) for name in sorted(p.name for p in (root / "raw").iterdir())
    ]


def _manifest(root: Path) -> Any:
    from model.data.scene_manifest import find_scenes

    return find_scenes(root / "output", "train")


def _lease(root: Path) -> Any:
    path = _scene(root).private_dir / "depth.lease"
    said = held(path)
    try:
        with Lease(path, times=LeaseTimes(expires_s=600)) as lease:
            lease.check()
    except LeaseHeldError:
        pass
    return said


def _journal(root: Path) -> Any:
    path = _scene(root).journal_path("depth")
    journal = Journal(path)
    Journal.head(path)
    return journal.facts


def _cluster(root: Path) -> Any:
    runs = list(all_runs(root / "logs"))
    run = Run.load(root / "logs" / "runs" / "one")
    plans = run.plans("depth")
    return runs, run.outcome(), [(plan, plan.jobs()) for plan in plans], Records(root / "logs" / "records.jsonl").read()


def _image(name: str) -> Reader:
    return lambda root: read_picture(root / "images" / name)


_EVERYONE = (_status, _explain, _report, _check, _manifest)
FORMATS = (
    Format(name="scene_index", file="output/scene_index.json", readers=(_index, _status, _report)),
    Format(name="done", file=f"output/{NAME}/frames_sharp/.done", readers=_EVERYONE),
    Format(name="done of render", file=f"output/{NAME}/bokeh_renders/.done", readers=_EVERYONE),
    Format(name="metadata", file=f"output/{NAME}/metadata.json", readers=(_check, _report, _manifest)),
    Format(
        name="depth statistics", file=f"output/{NAME}/depth_maps/stats.json",
        readers=(lambda root: read_statistics(_scene(root)), _check, _report),
    ),
    Format(
        name="calibration", file="output/coc_stats.json",
        readers=(lambda root: read_calibration(root / "output" / "coc_stats.json"), _status, _report),
    ),
    Format(name="validation report", file="output/validation_report.json", readers=(_report,)),
    Format(name="network summary", file="output/report/network.json", readers=(_report,)),
    Format(name="split", file=f"output/{NAME}/split.txt", readers=(_check, _manifest)),
    Format(name="journal", file=f"output/{NAME}/.pipeline/depth.jsonl", readers=(_journal, _status, _explain)),
    Format(name="lease", file=f"output/{NAME}/.pipeline/depth.lease", readers=(_lease, _status)),
    Format(name="failure note", file=f"output/{NAME}/.pipeline/render.failed.json", readers=(_status, _report)),
    Format(name="sharp image", file=f"output/{NAME}/frames_sharp/frame_0001.png", readers=(_check, _report)),
    Format(name="depth map", file=f"output/{NAME}/depth_maps/depth_0001.npz", readers=(_check, _report)),
    Format(name="focus map", file=f"output/{NAME}/focus_maps/set_00/focus_0001.npz", readers=(_check, _report)),
    Format(name="bokeh image", file=f"output/{NAME}/bokeh_renders/set_00/bokeh_0001.png", readers=(_check,)),
    Format(name="run", file="logs/runs/one/run.json", readers=(_cluster,)),
    Format(name="plan", file="logs/runs/one/depth_0.json", readers=(_cluster,)),
    Format(name="jobs", file="logs/runs/one/depth_0.jobs", readers=(_cluster,)),
    Format(name="outcome", file="logs/runs/one/outcome.json", readers=(_cluster,)),
    Format(name="task records", file="logs/records.jsonl", readers=(_cluster,)),
    Format(name="profile", file="profile.toml", readers=(lambda root: load_profile(str(root / "profile.toml")),)),
    Format(name="raw png", file="raw/png/1.png", readers=(_raw,)),
    Format(name="raw jpg", file="images/a.jpg", readers=(_image("a.jpg"),)),
    Format(name="raw webp", file="images/a.webp", readers=(_image("a.webp"),)),
    Format(name="raw tiff", file="images/a.tiff", readers=(_image("a.tiff"),)),
    Format(name="raw 16-bit png", file="images/deep.png", readers=(_image("deep.png"),)),
    Format(name="delivered npz", file="raw/npz/depth/001.npz", readers=(_raw,)),
    Format(name="delivered npy", file="raw/npy/depth/001.npy", readers=(_raw,)),
    Format(name="delivered png", file="raw/millimetres/depth/001.png", readers=(_raw,)),
    Format(name="disparity json", file="raw/disparity/depth.json", readers=(_raw,)),
    Format(name="disparity png", file="raw/disparity/disparity/001.png", readers=(_raw,)),
    Format(name="video", file="raw/film.mp4", readers=(_raw,)),
    Format(name="network", file="run/model.safetensors", readers=(lambda root: _network(root / "run"),)),
    Format(name="best checkpoint", file="run2/best.json", readers=(lambda root: _network(root / "run2"),)),
    Format(
        name="checkpoint state", file="run2/checkpoints/step_000002/resume/state.json",
        readers=(lambda root: _checkpoint(root),),
    ),
    Format(name="train log", file="run2/train.jsonl", readers=(lambda root: _train_log(root),)),
    Format(name="weights", file="weights/w.safetensors", readers=(lambda root: _weights(root),)),
    Format(name="pickled weights", file="weights/w.pth", readers=(lambda root: _pickled(root),)),
    Format(name="train config", file="train.toml", readers=(lambda root: _train_settings(root / "train.toml"),)),
)  # fmt: skip


def _network(path: Path) -> Any:
    from model.training.network_file import family_of, load_model

    return family_of(path), load_model(path)


def _checkpoint(root: Path) -> Any:
    from model.training.checkpoint import read_state

    return read_state(root / "run2" / "checkpoints" / "step_000002")


def _train_log(root: Path) -> Any:
    from model.evaluation.report import curves
    from model.training.log import TrainLog

    found = curves(root / "run2", {"loss": "loss"})
    return found, TrainLog._lines_before.__get__(_Path(root / "run2" / "train.jsonl"))(3)


class _Path:
    """What `TrainLog._lines_before` looks at."""

    def __init__(self, path: Path) -> None:
        self._path = path


def _weights(root: Path) -> Any:
    from pipeline.weights.files import safetensors_shapes

    return safetensors_shapes(root / "weights" / "w.safetensors")


def _pickled(root: Path) -> Any:
    from pipeline.weights.files import read_torch

    return {name: tensor.sum() for name, tensor in read_torch(root / "weights" / "w.pth").items()}


def _train_settings(path: Path) -> Any:
    from model.training.settings import load_settings

    return load_settings(path, ())


def samples(root: Path, repository: Path) -> None:
    """Add to a built project what its own phases do not write."""
    frames = moving_frames(FRAMES, (36, 30))
    images = root / "images"
    images.mkdir()
    for name in ("a.jpg", "a.webp", "a.tiff"):
        cv2.imwrite(str(images / name), frames[0])
    cv2.imwrite(str(images / "deep.png"), frames[0].astype(np.uint16) * 257)
    depth = slanted_depth((36, 30))
    for name in ("png", "npz", "npy", "millimetres", "disparity"):
        folder = root / "raw" / name
        inner = folder / ("disparity" if name == "disparity" else "depth")
        inner.mkdir(parents=True)
        for number, frame in enumerate(frames):
            cv2.imwrite(str(folder / f"{number}.png"), frame)
            target = inner / f"{number:03d}"
            if name in ("png", "npz"):
                np.savez(target.with_suffix(".npz"), depth=depth)
            elif name == "npy":
                np.save(target.with_suffix(".npy"), depth)
            elif name == "millimetres":
                cv2.imwrite(str(target.with_suffix(".png")), (depth * 1000).astype(np.uint16))
            else:
                cv2.imwrite(str(target.with_suffix(".png")), (255 / depth).astype(np.uint8))
        if name == "disparity":
            (folder / "depth.json").write_text('{"kind": "disparity", "near_m": 1.2, "far_m": 25}')
    _film(root / "raw" / "film.mp4", frames)
    _cluster_samples(root, repository)
    _network_samples(root)
    scene = _scene(root)
    lease = Lease(scene.private_dir / "depth.lease")
    (scene.private_dir / "depth.lease").write_bytes(lease._text)
    scene.failure_path("render").write_text('{"phase": "render", "reason": "because", "at": "now"}')
    (root / "output" / "report" / "shown.png").write_bytes((images / "deep.png").read_bytes())
    (root / "output" / "report" / "network.json").write_text(
        '{"schema": 1, "title": "T", "note": "n", "facts": [["a", "b"]], "curves": [["loss", [[0, 1.0], [1, 0.5]]]],'
        ' "table": {"columns": ["a"], "rows": [["1"]], "strong": 0}, "pictures": [{"file": "shown.png", "caption": "c"}]}'
    )
    shutil.copy(next(repository.glob("model/configs/small.toml")), root / "train.toml")
    assert DoneRecord.read(scene.bokeh_dir) is not None


def _film(path: Path, frames: list[Any]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 36, 30, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def _network_samples(root: Path) -> None:
    import torch

    from model.bokehflow import BokehFlow, BokehFlowConfig
    from model.training.checkpoint import FORMAT, digest_of
    from model.training.network_file import network_bytes, tensor_bytes
    from pipeline.storage.completion import fingerprint
    from pipeline.storage.files import write_json

    config = BokehFlowConfig(channels=16, stem_channels=8, heads=1, head_dim=8, depth_blocks=1, bokeh_blocks=1)
    net = BokehFlow(config)
    data = network_bytes("bokehflow", config.to_dict(), {"depth": "metres"}, net.state_dict(), 2, {"run": {"seed": 0}})
    step = root / "run2" / "checkpoints" / "step_000002"
    (step / "resume").mkdir(parents=True)
    (root / "run").mkdir()
    (root / "weights").mkdir()
    for path in (root / "run" / "model.safetensors", step / "model.safetensors"):
        path.write_bytes(data)
    small = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    (root / "weights" / "w.safetensors").write_bytes(tensor_bytes(small, {"origin": "here"}))
    torch.save(small, root / "weights" / "w.pth")
    write_json(root / "run2" / "best.json", {"step": 2, "psnr_db": 20.5})
    fields = {"run": {"seed": 0, "steps": 6}}
    state = {
        "format": FORMAT, "family": "bokehflow", "step": 2, "samples": 4, "fingerprint": fingerprint(fields), "fields": fields,
        "data": "d", "best_score": 20.5, "best_step": 2, "digests": {"model.safetensors": digest_of(data)},
    }  # fmt: skip
    write_json(step / "resume" / "state.json", state)
    for number in range(3):
        append_record(root / "run2" / "train.jsonl", {"kind": "train", "step": number, "loss": 1.5, "lr": 0.001})


def _cluster_samples(root: Path, repository: Path) -> None:
    from pipeline.cluster.plan import Plan, Stage

    shutil.copy(repository / "jobs" / "profiles" / "generic.toml", root / "profile.toml")
    profile = load_profile(str(root / "profile.toml"))
    run = Run(
        folder=root / "logs" / "runs" / "one", stages=(Stage(phase="depth", args=()),), scenes=(NAME,), profile=profile,
        raw_root=root / "data", out_root=root / "output", logs=root / "logs",
    )  # fmt: skip
    run.save()
    plan = Plan(
        path=run.folder / "depth_0.json", phase="depth", round=0, elements=((NAME,),), resources=profile.phases["depth"]
    ).save()
    plan.note_job("17", 0, 1)
    run.finish("finished", "all is well")
    append_record(root / "logs" / "records.jsonl", {"event": "start", "at": 1.5, "exit": 0, "progress": [1, 2]})
