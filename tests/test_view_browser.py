"""`python -m pipeline view` in a real browser: a click focuses, the photograph follows, the confirmation is written.

Nothing is asked of anybody but this machine.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from chromium import CHROMIUM, LOOPBACK, Tab, browser
from conftest import REPOSITORY, Project

from pipeline.media.depth_files import read_depth
from pipeline.storage.scene import Scene, calibration_path

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
]
PHONE, DESKTOP = (400, 812), (1280, 900)
SETTLED = """new Promise(done => {
  const look = () => document.body.dataset.busy === '0' ? done(true) : setTimeout(look, 20);
  setTimeout(look, 50);
})"""


@pytest.fixture
def page(scene_project: Project) -> Iterator[str]:
    """The address of the command's page on a measured project; afterwards it must end by itself when it is told to."""
    scene_project.run_upto(4)
    command = [sys.executable, "-u", "-m", "pipeline", "view", "--port", "0", "--device", "cpu", *scene_project.args()]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert "view: ended" in process.communicate(timeout=60)[0] and process.returncode == 0


def pixels(tab: Tab, kind: str) -> np.ndarray:
    left, top, width, height = (int(value) for value in tab.box(f"[data-kind={kind}] .shot"))
    return tab.screenshot()[top : top + height, left : left + width].astype(int)


def slide(tab: Tab, name: str, value: int) -> None:
    tab.run(f"(e => {{ e.value = {value}; e.dispatchEvent(new Event('input')) }})(document.getElementById('{name}'))")
    assert tab.run(SETTLED)


def test_look_and_confirm(scene_project: Project, page: str, tmp_path: Path):
    scene = Scene(scene_project.out, "tiny")
    with browser(tmp_path / "profile") as tab:
        tab.open(page, *DESKTOP)
        assert tab.run(SETTLED)
        before, map_before, depth_before = (pixels(tab, kind) for kind in ("render", "focus", "depth"))

        left, top, width, height = tab.box("[data-kind=render] .shot")
        for across, down in ((0.45, 0.4), (0.8, 0.9)):
            for kind in ("mousePressed", "mouseReleased"):
                tab.mouse(kind, left + across * width, top + down * height)
            assert tab.run(SETTLED)
            depth = read_depth(scene.depth_path(0))
            under = depth[int(down * depth.shape[0]), int(across * depth.shape[1])]
            shown = tab.run(
                "new URLSearchParams(document.querySelector('[data-kind=render] img').dataset.query).get('focus_m')"
            )
            assert float(shown) == float(under), "the focus is the depth that was clicked"
        slide(tab, "f_number", 0)
        slide(tab, "focal", 1000)
        assert np.abs(pixels(tab, "render") - before).mean() > 2
        assert np.abs(pixels(tab, "focus") - map_before).mean() > 2

        asked = len(tab.requests)
        slide(tab, "max_coc", 300)
        kinds = {urlsplit(url).path.rpartition("/")[2] for url in tab.requests[asked:] if url.startswith("http")}
        assert kinds == {"focus", "render", "counted"}, "depth does not depend on it"
        tab.run("document.querySelectorAll('.spot').forEach(spot => spot.remove())")
        depth_now = pixels(tab, "depth")
        assert np.abs(depth_now - depth_before).mean() < 1

        chosen = float(tab.run("look.max_coc_m"))
        tab.run("document.getElementById('confirm').click()")
        assert tab.run(SETTLED)
        assert "Next: python scripts/05_render" in tab.run("said.textContent")
        stats = json.loads(calibration_path(scene_project.out).read_text())
        assert stats["confirmed_max_coc"] == chosen != stats["p95"]

        (scene.depth_dir / ".done").unlink()
        slide(tab, "max_coc", 500)
        tab.run("document.getElementById('confirm').click()")
        assert tab.run(SETTLED)
        assert "no scene has finished depth" in tab.run("said.textContent"), "a refusal is shown"

        hosts = {urlsplit(url.removeprefix("blob:")).hostname for url in tab.requests}
        assert hosts == {LOOPBACK}
        assert all("422" in line for line in tab.console), tab.console


def test_the_page_fits_a_phone(page: str, tmp_path: Path):
    with browser(tmp_path / "profile") as tab:
        for dark in (False, True):
            tab.open(page, *PHONE, dark=dark)
            assert tab.run(SETTLED)
            picture = tab.screenshot(whole=True)
            assert tab.run("document.documentElement.scrollWidth") <= PHONE[0] == picture.shape[1]
            paper = float(np.median(picture))
            assert paper < 60 if dark else paper > 200
        assert tab.console == []
