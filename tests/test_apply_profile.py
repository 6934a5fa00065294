"""apply_bokeh --profile: every part of a frame is charged once, and the pictures stay what they are."""

from pathlib import Path

import numpy as np
import torch
from conftest import load_script, moving_frames
from PIL import Image

from model.bokehflow import VARIANTS, BokehFlow
from model.bokehflow.checkpoint import model_bytes
from model.video.profile import NETWORK_PARTS, Profile


def test_time_goes_to_the_innermost_part():
    now = [0.0]
    profile = Profile("cpu", clock=lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    def slow(items):
        for item in items:
            wait(2)
            yield item

    for _ in profile.each("read", slow([1, 2])):
        wait(10)  # nobody's
        with profile.part("network"):
            wait(1)
            with profile.part("renderer"):
                wait(3)
            wait(1)
    assert profile.seconds == {"read": 4, "network": 4, "renderer": 6}
    assert profile.lines(2) == [
        "    3000.0 ms a frame,  43%: renderer",
        "    2000.0 ms a frame,  29%: read",
        "    2000.0 ms a frame,  29%: network",
        "    7000.0 ms a frame: all parts, over 2 frames",
    ]
    assert profile.lines(0) == []


def test_a_profiled_film_is_the_same_film(tmp_path: Path, capsys):
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS["demo"]).eval()
    missing = [name for name in NETWORK_PARTS if not hasattr(net, name)]
    assert not missing, "a part was renamed"
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(model_bytes(net.config, net.state_dict(), 7, {}))
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(moving_frames(2, (48, 32))):
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    flags = [str(tmp_path / "in"), "--checkpoint", str(checkpoint), "--focus", "2", "--device", "cpu"]
    apply = load_script("apply_bokeh")
    assert apply([*flags, "-o", str(tmp_path / "plain")]) == 0
    assert "ms a frame" not in capsys.readouterr().out
    assert apply([*flags, "--profile", "-o", str(tmp_path / "profiled")]) == 0
    said = capsys.readouterr().out
    for part in (
        "read",
        "write",
        "network: depth blocks",
        "network: lens renderer",
        "network: the rest",
        "all parts, over 2",
    ):
        assert part in said
    for name in ("0.png", "1.png"):
        pictures = [np.asarray(Image.open(tmp_path / folder / name)) for folder in ("plain", "profiled")]
        assert np.array_equal(*pictures)
