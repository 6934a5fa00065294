"""The report page in a real browser: what slides, enlarges and stops, no messages, no requests, nothing wider than a phone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Tab, browser
from conftest import Project, write_scene
from test_report_network import write as write_network

from pipeline.__main__ import main

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
]
PHONE, DESKTOP = (375, 812), (1280, 1000)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a finished scene, a rejected one and a network, as a URL."""
    project = Project(tmp_path_factory.mktemp("browser"))
    write_scene(project.raw, "tiny")
    write_scene(project.raw, "a_scene_whose_name_is_long_and_has_no_place_to_break", frames=3)
    project.run_upto(6)
    columns = ["method", *(f"a wide figure, number {number}" for number in range(8))]
    rows = [[f"the method of row {row}", *(f"{column + row}.00" for column in range(8))] for row in range(3)]
    write_network(project.out, table={"columns": columns, "rows": rows, "better": ["", *["higher"] * 8]})
    assert main(["report", "--out_root", str(project.out)]) == 0
    return (project.out / "report" / "index.html").as_uri()


@pytest.fixture(scope="module")
def shared_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(shared_tab: Tab) -> Tab:
    shared_tab.console.clear()
    shared_tab.requests.clear()
    return shared_tab


def click(tab: Tab, selector: str, across: float = 0.5) -> None:
    left, top, width, height = tab.box(selector)
    for kind in ("mousePressed", "mouseReleased"):
        tab.mouse(kind, left + across * width, top + height / 2)


def test_messages_requests_and_forbidden_scripts_are_noticed(tab: Tab, tmp_path: Path, report: str):
    """Without this, the other tests could pass because nothing is ever seen."""
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><img src="http://example.invalid/x.png"><script>console.error("seen")</script>')
    tab.open(page.as_uri(), *DESKTOP)
    assert any("seen" in line for line in tab.console)
    assert tab.requests == ["http://example.invalid/x.png"]
    foreign = Path(report.removeprefix("file://")).read_text().replace('"use strict"', '"use  strict"')
    page.write_text(foreign)
    tab.open(page.as_uri(), *DESKTOP)
    assert any("Content Security Policy" in line for line in tab.console), "a script with one more space may not run"
    assert not tab.run("document.querySelector('.live')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_page_shows_without_messages_requests_or_overflow(tab: Tab, report: str, size: tuple[int, int], dark: bool):
    tab.open(report, *size, dark=dark)
    tab.run("document.querySelectorAll('details').forEach(details => { details.open = true })")
    picture = tab.screenshot(whole=True)
    assert tab.console == [] and tab.requests == []
    paper = float(np.median(picture))
    assert paper < 60 if dark else paper > 200
    assert picture.std() > 8, "a page of one colour shows nothing"
    assert tab.run("document.documentElement.scrollWidth") <= size[0] == picture.shape[1]
    wide = """[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest('.scroll, nav, dialog')).map(e => e.outerHTML.slice(0, 80))"""
    assert tab.run(wide) == []
    broken = "[...document.querySelectorAll('img[src]')].filter(image => !image.naturalWidth).length"
    assert tab.run("document.querySelectorAll('img[src]').length") > 10 and tab.run(broken) == 0


def test_tables_are_usable_on_a_phone(tab: Tab, report: str):
    """Rows are stacked with their column's name beside each value; the table of methods scrolls in its own box."""
    tab.open(report, *PHONE)
    stacked = tab.run(
        "[...document.querySelectorAll('table.stack')].map(t => [t.scrollWidth, t.parentNode.clientWidth])"
    )
    assert len(stacked) == 3 and all(needs <= has for needs, has in stacked)
    label = "getComputedStyle(document.querySelector('#measurements td[data-label=PSNR]'), '::before').content"
    assert tab.run(label) == '"PSNR"'
    needs, has = tab.run("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.compared').parentNode)")
    assert needs > has
    tab.run("document.querySelector('.compared').parentNode.scrollLeft = 150")
    name = "document.querySelector('.compared tbody td').getBoundingClientRect().left"
    assert 0 <= tab.run(name) < 60, "the method's name stays in sight"


@pytest.mark.parametrize("where", [".hero", ".scene"])
def test_the_slider_uncovers_the_sharp_frame(tab: Tab, report: str, where: str):
    tab.open(report, *DESKTOP)
    edge = f"(e => e.offsetLeft / e.parentNode.clientWidth)(document.querySelector('{where} .edge'))"
    assert tab.run(edge) == pytest.approx(0.5, abs=0.02)
    left, top, width, height = tab.box(f"{where} .compare")
    part = np.s_[int(top + 0.2 * height) : int(top + 0.4 * height), int(left + 0.55 * width) : int(left + 0.85 * width)]
    before = tab.screenshot()[part]
    tab.mouse("mousePressed", left + 0.5 * width, top + height / 2)
    for share in (0.6, 0.8, 0.9):
        tab.mouse("mouseMoved", left + share * width, top + height / 2)
    tab.mouse("mouseReleased", left + 0.9 * width, top + height / 2)
    assert tab.run(edge) == pytest.approx(0.9, abs=0.02)
    clip = tab.run(f"getComputedStyle(document.querySelector('{where} .after')).clipPath")
    assert float(clip.removesuffix("%)").split()[-1]) == pytest.approx(90, abs=0.6)
    assert np.any(tab.screenshot()[part] != before), "where the render was, the sharp frame is"
    tab.key("ArrowRight")
    assert tab.run(edge) > 0.9, "and by keyboard"
    assert tab.console == [] and tab.requests == []


def test_images_enlarge_and_close(tab: Tab, report: str):
    tab.open(report, *DESKTOP)
    shown = "(v => v.open && [v.querySelector('img').alt, v.querySelector('img').clientWidth])(viewer)"
    small = tab.run("document.querySelector('.scene .panel img.zoom').clientWidth")
    click(tab, ".scene .panel img.zoom")
    name, width = tab.run(shown)
    assert name == "sharp" and width > 2 * small
    assert tab.run("document.querySelector('#viewer figcaption').textContent") == "tiny: sharp"
    tab.key("ArrowRight")
    assert tab.run(shown)[0] == "depth"
    tab.key("Escape")
    assert tab.run(shown) is False
    tab.run("document.querySelector('.scene .panel img.zoom').focus()")
    tab.key("Enter")
    assert tab.run(shown)[0] == "sharp"
    click(tab, "#viewer")
    assert tab.run(shown) is False
    assert tab.console == [] and tab.requests == []


def test_clips_stop_when_asked_and_for_who_wants_less_motion(tab: Tab, report: str):
    tab.open(report, *DESKTOP)
    kind = "document.querySelector('.hero .motion img').currentSrc.slice(5, 15)"
    assert tab.run(kind) == "image/webp"
    click(tab, ".hero .pause")
    assert tab.run(kind) == "image/jpeg"
    click(tab, ".hero .pause")
    assert tab.run(kind) == "image/webp"
    tab.open(report, *DESKTOP, reduced_motion=True)
    assert tab.run(kind) == "image/jpeg" and tab.run("document.querySelector('.hero .pause').hidden")
