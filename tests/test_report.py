"""The report page: self-contained, complete about what is wrong, and written whatever state the output is in."""

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, write_scene

from pipeline.report import formatting as words
from pipeline.report import page
from pipeline.report.calibration import read_calibration
from pipeline.report.chart import histogram
from pipeline.report.facts import gather
from pipeline.report.thumbnails import make_strip
from pipeline.storage.completion import DoneRecord, fingerprint
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex

HOSTILE = "<script>alert('&')</script>"


class Parsed(HTMLParser):
    """What a browser would take from the page: text, tags, and every place from where it would load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.loads += [
            value for name, value in attrs if name in ("src", "srcset", "poster", "data", "action") and value
        ]
        href = found.get("href")
        if href:
            (self.links if tag == "a" else self.loads).append(href)

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts[-1] == "":
            self.scripts[-1] = data
        elif self.lasttag != "style":
            self.text += data


def _outputs(root: Path) -> Path:
    """Phases 1 to 6 of three sources: "tiny" passes, "bare" has no depth, "short" has too few frames."""
    project = Project(root)
    write_scene(project.raw, "tiny")
    write_scene(project.raw, "bare", depth=False, seed=5)
    write_scene(project.raw, "short", frames=3)
    codes = [project.run(phase, *more) for phase, *more in ((1,), (2,), (3,), (4,), (4, "--confirm"))]
    codes += [project.run(5, "--num_sets", "2"), project.run(6)]
    assert codes == [0, 0, 3, 0, 0, 3, 3]
    return project.out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder that tests only read."""
    return _outputs(tmp_path_factory.mktemp("report"))


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(finished, tmp_path / "output"))


def written(out_root: Path) -> Parsed:
    path = out_root / "report" / "index.html"
    path.unlink(missing_ok=True)
    page.write_page(out_root, path)
    return Parsed(path.read_text())


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_page_is_self_contained(finished: Path):
    html = (finished / "report" / "index.html").read_text()
    parsed = Parsed(html)
    assert parsed.loads and all(load.startswith("data:") for load in parsed.loads)
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert "url(" not in html and "@import" not in html
    # tiny: sharp, depth, of two sets focus, bokeh and two details, a still of its clip, two in the hero; bare: sharp, here and
    # in the row below the hero
    assert len(re.findall(r'<img[^>]* src="data:image/jpeg|srcset="data:image/jpeg', html)) == 15
    assert html.count('src="data:image/webp') == 2 and len(html) < 1_000_000


def test_the_one_script_is_named_by_its_hash_and_no_other_may_run(finished: Path):
    html = (finished / "report" / "index.html").read_text()
    (script,) = Parsed(html).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert not re.search(r"\son\w+=", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)), (
        "no handlers in markup"
    )


def test_equal_outputs_make_equal_pages(finished: Path):
    dates = re.compile(r"page written [^<]*")
    first, second = (dates.sub("", page.render_page(finished)) for _ in range(2))
    assert first == second


def test_the_page_opens_with_images_and_the_project_s_name(finished: Path):
    html = (finished / "report" / "index.html").read_text()
    assert "<title>BokehFlow: " in html and '<p class="brand">BokehFlow</p>' in html
    opening = html[html.index("<body>") : html.index('<section id="problems"')]
    assert 'class="compare"' in opening and "data:image/webp" in opening and 'href="#scene-tiny"' in opening
    assert "1 scene fails, 1 source rejected" in flat(opening), "failures are told beside the images"


def test_every_scene_and_every_reason_appears(finished: Path):
    text = flat(Parsed((finished / "report" / "index.html").read_text()).text)
    report = json.loads((finished / "validation_report.json").read_text())
    assert set(report["scenes"]) == {"tiny", "bare"} and set(report["rejected"]) == {"short"}
    for name, found in report["scenes"].items():
        assert name in text
        for reason in found["reasons"] + found["warnings"]:
            assert flat(reason) in text
    for name, reasons in report["rejected"].items():
        assert name in text and reasons
        assert all(flat(reason) in text for reason in reasons)
    failure = json.loads((finished / "bare" / ".pipeline" / "depth.failed.json").read_text())
    assert flat(failure["reason"]) in text


def test_problems_come_before_everything_but_the_hero(finished: Path):
    html = (finished / "report" / "index.html").read_text()
    html = html[html.index("<nav") :]
    titles = ("1 scene fails", "1 source rejected", "<h2>Warnings", "<h2>Scenes", "<h2>Calibration", "<h2>Measurements")
    places = [html.index(title) for title in titles]
    assert places == sorted(places)


def test_lenses_and_confirmation_are_told(finished: Path):
    text = flat(Parsed((finished / "report" / "index.html").read_text()).text)
    stats = json.loads((finished / "coc_stats.json").read_text())
    for lens_set in Scene(finished, "tiny").lens_sets():
        assert words.lens_words(lens_set.lens.f_m, lens_set.lens.f_number, lens_set.lens.focus_m) in text
    assert f"confirmed by {stats['confirmed']['by']}" in text
    assert words.micrometres(stats["confirmed_max_coc"]) in text
    record = DoneRecord.read(Scene(finished, "tiny").sharp_dir)
    assert record and record.fingerprint[:8] in text
    assert f"{record.summary['flicker_raw']:.2f}" in text and f"{record.summary['psnr_db']:.1f} dB" in text


def test_hostile_text_is_text(out: Path):
    entry = {"accepted": False, "scene_id": HOSTILE, "source": HOSTILE, "notes": [], "files": []}
    edit(
        out / "scene_index.json",
        lambda index: index["scenes"].update({HOSTILE: entry | {"reasons": [f'"{HOSTILE}', "a\udcff.png"]}}),
    )
    edit(out / "tiny" / "frames_sharp" / ".done", lambda done: done.update(licence=HOSTILE, warnings=[HOSTILE]))
    edit(out / "coc_stats.json", lambda stats: stats["confirmed"].update(by=HOSTILE, at=HOSTILE))
    edit(out / "validation_report.json", lambda report: report["scenes"]["bare"]["reasons"].append(HOSTILE))
    parsed = written(out)
    assert parsed.tags.count("script") == 1 and HOSTILE not in parsed.scripts[0]
    assert parsed.text.count(HOSTILE) >= 8


def test_before_the_first_phase_there_is_a_page(tmp_path: Path):
    assert "python scripts/01_validate_dataset.py" in written(tmp_path / "output").text


def test_page_after_phase_1_alone(project: Project):
    write_scene(project.raw, "tiny")
    assert project.run(1) == 0
    parsed = written(project.out)
    text = flat(parsed.text)
    assert "not validated" in text and "not measured yet" in text and "not made yet" in text
    assert "1 waiting" in text and "python scripts/04_calibrate_coc.py" in text
    assert gather(project.out).count("failed") == 0


def test_unconfirmed_calibration_names_the_command(out: Path):
    edit(out / "coc_stats.json", lambda stats: stats.update(confirmed_max_coc=None, confirmed=None))
    text = flat(written(out).text)
    assert "not confirmed yet" in text and "python scripts/04_calibrate_coc.py --confirm" in text


def test_depth_that_changed_after_confirmation_is_told(out: Path):
    def other_sky(done: dict[str, Any]) -> None:
        done["fields"]["engine"]["version"] = 2
        done["fingerprint"] = fingerprint(done["fields"])

    edit(out / "tiny" / "depth_maps" / ".done", other_sky)
    text = flat(written(out).text)
    assert "confirmed for other depth" in text and "changed after max_coc was confirmed" in text
    assert "render stale" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"confirmed_max_coc": "x", "histogram": {"edges": [1, 0]}}'])
def test_damaged_calibration(out: Path, content: str):
    (out / "coc_stats.json").write_text(content)
    parsed = written(out)
    assert "damaged" in parsed.text and str(out / "coc_stats.json") in parsed.text
    assert "--on_stale redo" in parsed.text and "svg" not in parsed.tags


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"schema": 1}'])
@pytest.mark.parametrize("folder", ["frames_sharp", "depth_maps", "bokeh_renders"])
def test_damaged_done_record_costs_one_scene_only(out: Path, folder: str, content: str):
    path = out / "tiny" / folder / ".done"
    path.write_text(content)
    parsed = written(out)
    assert str(path) in parsed.text and "damaged record" in parsed.text
    assert "bare" in parsed.text and gather(out).count("failed") == 2


@pytest.mark.parametrize(
    "nonsense",
    [{"summary": 3}, {"summary": {"flicker_raw": "x", "psnr_db": None}}, {"warnings": "abc"}, {"upstream": 7}],
)
def test_done_record_with_nonsense_inside(out: Path, nonsense: dict[str, Any]):
    for folder in ("frames_sharp", "depth_maps", "bokeh_renders"):
        edit(out / "tiny" / folder / ".done", lambda done: done.update(nonsense))
    assert "tiny" in written(out).text


@pytest.mark.parametrize(
    "content", [None, "", "[1]", '{"scenes": 5}', '{"scenes": {"tiny": [], "bare": {"reasons": 4}}}']
)
def test_missing_or_damaged_validation_report(out: Path, content: str | None):
    path = out / "validation_report.json"
    path.unlink() if content is None else path.write_text(content)
    text = flat(written(out).text)
    if content is None:
        assert "not validated yet" in text and "measured by validation" in text
    elif content in ("", "[1]"):
        assert str(path) in text


@pytest.mark.parametrize(
    "content", [None, "", "{}", '{"sets": 3}', '{"sets": [{"f": -1, "N": 2, "S_focus": 1, "max_coc": 1}]}']
)
def test_missing_or_damaged_metadata(out: Path, content: str | None):
    path = out / "tiny" / "metadata.json"
    path.unlink() if content is None else path.write_text(content)
    facts = next(scene for scene in gather(out).scenes if scene.scene_id == "tiny")
    assert facts.verdict == "failed" and any("metadata" in reason for reason in facts.reasons)
    assert "metadata" in written(out).text


def test_damaged_pictures_leave_a_hole_with_the_reason(out: Path):
    scene = Scene(out, "tiny")
    scene.sharp_path(9).write_bytes(b"no picture")
    scene.depth_path(9).write_bytes(b"no array")
    np.savez(scene.focus_path(0, 9), other=np.zeros(3))
    np.savez(scene.focus_path(1, 9), focus_map=np.array(["text"]))
    for frame in (0, 9):
        scene.bokeh_path(1, frame).unlink()
    facts = next(scene for scene in gather(out).scenes if scene.scene_id == "tiny")
    strip = make_strip(scene, facts)
    assert strip.frame == 9
    shown = [strip.sharp, strip.depth, strip.sets[0].focus, strip.sets[1].focus, strip.sets[1].bokeh]
    assert all(picture.problem and not picture.uri for picture in shown)
    assert [picture.absent for picture in shown] == [False, False, False, False, True]
    assert strip.sets[0].bokeh.uri
    assert "frame_0009.png" in written(out).text


def test_interrupted_render_shows_the_frame_that_exists(out: Path):
    scene = Scene(out, "tiny")
    for frame in range(2, 18):
        scene.bokeh_path(0, frame).unlink()
    facts = next(scene for scene in gather(out).scenes if scene.scene_id == "tiny")
    assert make_strip(scene, facts).frame == 0


def test_work_after_validation_is_noticed(out: Path):
    report = out / "validation_report.json"
    os.utime(report, (1e9, 1e9))
    assert "a phase ran after the last validation" in written(out).text


def test_non_commercial_licences_stand_out(out: Path):
    edit(
        out / "tiny" / "frames_sharp" / ".done", lambda done: done.update(licence="FLUX.1 [dev] Non-Commercial License")
    )
    text = flat(written(out).text)
    assert "Made with restricted weights" in text and "non-commercial FLUX.1 [dev] Non-Commercial License" in text


def _many(out: Path, number: int, failing: int) -> None:
    """Copies of "tiny" under other names by hard links; the first `failing` lost a file."""
    index = SceneIndex.load(out / "scene_index.json")
    tiny = index.entries["tiny"]
    entries = {}
    for position in range(number):
        name = f"copy_{position:03d}"
        shutil.copytree(out / "tiny", out / name, copy_function=os.link)
        if position < failing:
            (out / name / "frames_sharp" / "frame_0000.png").unlink()
        split = ("train", "val", "test")[position % 3]
        entries[name] = SceneEntry(**{**vars(tiny), "scene_id": name, "split": split})
    SceneIndex(raw_root=index.raw_root, settings=index.settings, entries=entries).save(out / "scene_index.json")


def test_many_scenes_show_failing_ones_and_the_first_of_each_split(out: Path):
    _many(out, 70, failing=5)
    parsed = written(out)
    cards = [name for name in parsed.ids if name.startswith("scene-")]
    assert len(cards) == 5 + 3 * page.FIRST_OF_SPLIT
    assert {f"scene-copy_{number:03d}" for number in range(5)} <= set(cards)
    assert "Pictures of 29 of 70 scenes" in flat(parsed.text)
    assert all(f"copy_{number:03d}" in parsed.text for number in range(70))
    assert all(link[1:] in parsed.ids for link in parsed.links)


def test_pictures_stop_at_the_budget(out: Path, monkeypatch: pytest.MonkeyPatch):
    _many(out, 12, failing=0)
    monkeypatch.setattr(page, "MAX_PICTURE_BYTES", 30_000)
    parsed = written(out)
    cards = [name for name in parsed.ids if name.startswith("scene-")]
    assert 1 <= len(cards) < 12
    assert "so that the page stays small" in parsed.text


def test_the_page_needs_its_own_folder_and_is_atomic(finished: Path, tmp_path: Path):
    path = tmp_path / "somewhere" / "else" / "index.html"
    page.write_page(finished, path)
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("lens", "said"),
    [
        ((0.0501, 1.79, 2.43), "50 mm, f/1.8, focus 2.4 m"),
        ((0.0849, 8.0, 0.853), "85 mm, f/8, focus 0.85 m"),
        ((0.024, 1.404, 15.88), "24 mm, f/1.4, focus 16 m"),
        ((0.0042, 11.3, 0.996), "4.2 mm, f/11, focus 1.0 m"),
        ((0.05, 9.96, 9.96), "50 mm, f/10, focus 10 m"),
    ],
)
def test_lenses_are_described_in_words(lens: tuple[float, float, float], said: str):
    assert words.lens_words(*lens) == said


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("FLUX.1 [dev] non-commercial", True),
        ("CC-BY-NC-4.0", True),
        ("for research only", True),
        ("Noncommercial use", True),
        ("Apache-2.0", False),
        ("none needed", False),
        ("as the delivered depth", False),
    ],
)
def test_restricted_licences(licence: str, restricted: bool):
    assert words.is_restricted(licence) is restricted


def test_numbers_are_formatted_for_reading():
    assert [words.data_size(value) for value in (0, 999, 1000, 361e6, 1.234e12, None)] == [
        "0 B", "999 B", "1.0 kB", "361 MB", "1.2 TB", "–",
    ]  # fmt: skip
    assert words.span(4.38, 28.8) == "4.4 to 29 m" and words.span(None, 1.0) == "–"
    assert words.span(0.79, 1000.0) == "0.79 m to sky" and words.span(1000.0, 1000.0) == "sky"
    assert words.moment("2026-11-21T00:03:05+0000") == "2026-11-21 00:03 UTC"
    assert words.moment("yesterday") == "yesterday"
    assert [words.number(value) for value in (1, "1", True, float("nan"), 10**400)] == [1.0, None, None, None, None]


def test_histogram_marks_what_was_measured_and_confirmed(out: Path):
    calibration = read_calibration(out / "coc_stats.json")
    chart = histogram(calibration)
    assert chart and len(chart.bars) == 60
    assert [mark.kind for mark in chart.marks].count("confirmed") == 1
    assert any("confirmed = p95" in mark.text for mark in chart.marks)
    share = calibration.share_above(calibration.percentiles_m["p95"])
    assert share is not None and abs(share - 0.05) < 0.01
    edit(out / "coc_stats.json", lambda stats: stats.update(confirmed_max_coc=stats["max"] * 1.3))
    chart = histogram(read_calibration(out / "coc_stats.json"))
    assert chart and "confirmed" in [mark.kind for mark in chart.marks], "a value beyond the data is still shown"
    assert {"p50", "p90", "p95", "p99"} == {mark.text[:3] for mark in chart.marks if mark.kind != "confirmed"}


def test_histogram_labels_do_not_touch(out: Path):
    def crowd(stats: dict[str, Any]) -> None:
        top = stats["histogram"]["edges"][-1]
        for number, name in enumerate(("p50", "p90", "p95", "p99")):
            stats[name] = top * (0.90 + 0.02 * number)
        stats["confirmed_max_coc"] = top * 0.95

    edit(out / "coc_stats.json", crowd)
    chart = histogram(read_calibration(out / "coc_stats.json"))
    assert chart and len(chart.marks) == 5
    boxes = []
    for mark in chart.marks:
        start = mark.label_x if mark.anchor == "start" else mark.label_x - 7 * len(mark.text)
        boxes.append((mark.label_y, start, start + 7 * len(mark.text)))
    assert all(start >= 0 and end <= chart.width for _, start, end in boxes)
    for number, (row, start, end) in enumerate(boxes):
        for other_row, other_start, other_end in boxes[number + 1 :]:
            assert row != other_row or end <= other_start or other_end <= start


def test_no_module_of_the_report_imports_validation():
    """validate imports page, so the reverse would be a cycle."""
    folder = Path(page.__file__).parent
    assert not any(re.search(r"phases\.validate", path.read_text()) for path in folder.glob("*.py"))
