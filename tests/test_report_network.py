"""The page's part about a trained network: what is shown, and what damaged or hostile files come to."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Project

from pipeline.__main__ import main
from pipeline.report.network import best_cells, loss_chart, network_path, read_network
from pipeline.report.page import render_page


def write(out_root: Path, **changes: object) -> Path:
    path = network_path(out_root)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path.parent / "sheet.jpg"), np.zeros((8, 16, 3), np.uint8))
    stored = {
        "schema": 1,
        "title": "A network & its <scenes>",
        "note": "plainly",
        "facts": [["Steps", "120"]],
        "curves": [["total loss", [[0, 2.0], [60, 0.5], [120, 0.2]]]],
        "table": {
            "columns": ["method", "PSNR"],
            "rows": [["unchanged", "30.00"], ["network", "29.00"]],
            "strong": 1,
            "better": ["", "higher"],
        },
        "pictures": [{"file": "sheet.jpg", "caption": "test scenes"}],
        **changes,
    }
    path.write_text(json.dumps(stored))
    return path


def test_a_page_without_a_network_has_no_such_section(scene_project: Project):
    scene_project.run_upto(1)
    assert 'id="network"' not in render_page(scene_project.out)


def test_the_network_is_shown(scene_project: Project):
    scene_project.run_upto(1)
    write(scene_project.out)
    assert main(["report", "--out_root", str(scene_project.out)]) == 0
    page = (scene_project.out / "report" / "index.html").read_text()
    assert 'id="network"' in page and 'href="#network"' in page
    assert "A network &amp; its &lt;scenes&gt;" in page and "total loss, last 0.2" in page
    assert re.findall(r'<b class="best"[^>]*>([^<]*)', page) == ["30.00"], "the best is marked, not the network"
    assert "data:image/jpeg;base64," in page


def test_the_best_of_each_column_is_marked_whoever_has_it():
    rows = [["a", "1.0", "5", "–", "3"], ["b", "2.0", "5", "4", "2"], ["c", "nan", "7", "–", "x"]]
    better = ["", "higher", "lower", "higher", ""]
    assert best_cells(rows, better) == {(1, 1), (0, 2), (1, 2)}, (
        "ties share, what stands alone or says nothing does not"
    )
    assert best_cells(rows, ()) == frozenset()


def test_an_image_that_a_link_leads_out_of_the_output_is_not_embedded(scene_project: Project):
    scene_project.run_upto(1)
    write(scene_project.out)
    picture = network_path(scene_project.out).with_name("sheet.jpg")
    picture.rename(scene_project.root / "secret.jpg")
    picture.symlink_to(scene_project.root / "secret.jpg")
    found = read_network(scene_project.out)
    assert found is not None and "is a link to" in found.problem and not found.pictures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "has schema 2, needs 1"),
        ({"pictures": [{"file": "../../secret.png", "caption": ""}]}, "must be a .jpg or .png beside it"),
        ({"pictures": [{"file": "gone.jpg", "caption": ""}]}, "cannot be shown"),
        ({"curves": [["loss", "nonsense"]]}, "cannot be shown"),
        ({"facts": 3}, "cannot be shown"),
    ],
)
def test_a_damaged_network_summary_is_shown_as_damaged(scene_project: Project, changes: dict, message: str):
    scene_project.run_upto(1)
    write(scene_project.out, **changes)
    found = read_network(scene_project.out)
    if "gone.jpg" in str(changes):  # a missing picture is not a missing summary
        assert found is not None and found.problem
    assert found is not None and message in found.problem
    assert "cannot be shown" in render_page(scene_project.out)


def test_curves_stay_inside_the_chart_on_a_log_scale():
    chart = loss_chart([("loss", [[0, 10.0], [50, 1.0], [100, 0.1]]), ("odd", [[0, float("nan")], [1, -1.0]])])
    assert chart is not None and [curve.name for curve in chart.curves] == ["loss"]
    points = [tuple(map(float, point.split(","))) for point in chart.curves[0].points.split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 == chart.left and x2 == chart.right and y2 == chart.floor
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert [tick.text for tick in chart.y_ticks] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]
    assert loss_chart([]) is None and loss_chart([("one", [[0, 1.0]])]) is None
