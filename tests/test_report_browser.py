"""The report page in a real browser: no console messages, no requests, and something to see in light, dark and narrow."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Project, write_scene

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
]


@dataclass(frozen=True)
class Visit:
    picture: np.ndarray
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path, width: int = 1280, dark: bool = False) -> Visit:
    """Open a file in headless Chromium, which can resolve no host, and see what it shows and asks for."""
    folder.mkdir()
    shot, net_log = folder / "shot.png", folder / "net.json"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --enable-logging=stderr"
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={net_log}",
            f"--screenshot={shot}",
            f"--window-size={width},1600",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
        check=False,
    )
    picture = cv2.imread(str(shot))
    assert picture is not None, done.stderr[-2000:]
    return Visit(
        picture=picture,
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        requests=_requests_of_pages(net_log.read_text()),
    )


def _requests_of_pages(net_log: str) -> list[str]:
    """URLs that a page asked for. The browser's own housekeeping has "not an origin" for an initiator."""
    _, events_begin, text = net_log.partition('"events": [\n')
    assert events_begin, "Chromium writes an event a line"
    events = []
    for line in text.partition('\n"polledData"')[0].splitlines():
        try:
            events.append(json.loads(line.rstrip(",").removesuffix("]")))
        except json.JSONDecodeError:  # the last line, where the browser was gone before its log was closed
            assert not net_log.rstrip().endswith("}"), line
    started = [event.get("params", {}) for event in events]
    asked = [params for params in started if params.get("initiator", "not an origin") != "not an origin"]
    return [params["url"] for params in asked if "url" in params]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("browser"))
    write_scene(project.raw, "tiny")
    write_scene(project.raw, "short", frames=3)
    project.run_upto(6)
    return project.out / "report" / "index.html"


def test_console_messages_and_requests_are_noticed(tmp_path: Path):
    """Without this, the other tests could pass because nothing is ever seen."""
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><img src="http://example.invalid/x.png"><script>console.error("seen")</script>')
    found = visit(page, tmp_path / "visit")
    assert any("seen" in line for line in found.console)
    assert "http://example.invalid/x.png" in found.requests


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (420, False), (420, True)])
def test_page_renders_without_messages_or_requests(report: Path, tmp_path: Path, width: int, dark: bool):
    found = visit(report, tmp_path / "visit", width, dark)
    assert found.console == [] and found.requests == []
    assert found.picture.shape[:2] == (1600, width)
    paper = float(np.median(found.picture))
    assert paper < 60 if dark else paper > 200
    assert found.picture.std() > 8, "a page of one colour shows nothing"
