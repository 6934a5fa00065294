"""The report page: one static file that opens from disk, for the operator before confirming and after finishing.

It carries its styles and pictures inside, asks the network for nothing (its own policy forbids it) and runs no script. What
is missing or damaged is shown as such: a page that fails because the data did would be of no use when it is needed.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from pipeline.hints import phase_command
from pipeline.phases.render import MEAN_FOCUS_RANGE
from pipeline.report import formatting as words
from pipeline.report.chart import histogram
from pipeline.report.facts import DatasetFacts, gather
from pipeline.report.network import read_network
from pipeline.report.scene_facts import SceneFacts
from pipeline.report.thumbnails import Strip, depth_gradient, focus_gradient, make_strip
from pipeline.storage.files import write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import SPLITS, Scene

ALL_STRIPS_UP_TO = 60  # scenes; above, failing ones and the first of each split
FIRST_OF_SPLIT = 8
MAX_PICTURE_BYTES = 12_000_000  # of base64: with 1,000 scenes' tables the page stays below 15 MB


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The pictures that were drawn, by scene id, and in words what was left out."""

    by_scene: dict[str, Strip]
    note: str

    @property
    def have_details(self) -> bool:
        return any(shown.detail for strip in self.by_scene.values() for shown in strip.sets)


def write_page(out_root: Path, path: Path) -> None:
    """Write the report of an output folder.

    Args:
        out_root: the output folder, in whatever state.
        path: where the page goes; its folder is made.

    Raises:
        OSError: the page itself cannot be written.
        InputError: the report's folder is a link.
    """
    if path.is_relative_to(out_root):
        refuse_links(out_root, [path])
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name that is not UTF-8 comes as lone surrogates, which do not encode.
    write_shared(path, render_page(out_root).encode(errors="backslashreplace"))


def render_page(out_root: Path) -> str:
    """The page's HTML."""
    facts = gather(out_root)
    strips = draw_strips(facts)
    return _template().render(
        facts=facts,
        strips=strips,
        chart=histogram(facts.calibration),
        network=read_network(out_root),
        depth_colours=depth_gradient(),
        focus_colours=focus_gradient(),
        max_flicker=_max_flicker(facts),
        mean_focus_range=MEAN_FOCUS_RANGE,
        words=words,
        validate_command=phase_command("validate"),
    )


def draw_strips(facts: DatasetFacts) -> Strips:
    """Choose the scenes that get pictures, and draw them until the page's budget is used up."""
    chosen = _chosen(facts)
    drawn: dict[str, Strip] = {}
    used = 0
    for scene in chosen:
        if used >= MAX_PICTURE_BYTES:
            break
        drawn[scene.scene_id] = make_strip(Scene(facts.out_root, scene.scene_id), scene)
        used += drawn[scene.scene_id].num_bytes
    if len(drawn) == len(facts.scenes):
        return Strips(by_scene=drawn, note="")
    then = f", then the first {FIRST_OF_SPLIT} of each split" if len(facts.scenes) > ALL_STRIPS_UP_TO else ""
    note = (
        f"Pictures of {len(drawn):,} of {len(facts.scenes):,} scenes, so that the page stays small: "
        f"failing scenes first{then}. Every scene is in the table of measurements."
    )
    return Strips(by_scene=drawn, note=note)


def _chosen(facts: DatasetFacts) -> list[SceneFacts]:
    """Scenes in the order in which they may have pictures."""
    if len(facts.scenes) <= ALL_STRIPS_UP_TO:
        return list(facts.scenes)
    failing = [scene for scene in facts.scenes if scene.verdict == "failed"]
    others = sorted((scene for scene in facts.scenes if scene.verdict != "failed"), key=lambda scene: scene.scene_id)
    first = [[scene for scene in others if scene.entry.split == split][:FIRST_OF_SPLIT] for split in SPLITS]
    # Failing scenes must not push out every good one: what good looks like is needed to judge them.
    head = failing[: ALL_STRIPS_UP_TO - FIRST_OF_SPLIT]
    return [*head, *(scene for scenes in first for scene in scenes), *failing[len(head) :]]


def _max_flicker(facts: DatasetFacts) -> float:
    """The scale of the flicker bars."""
    names = ("flicker_raw", "flicker_frame", "flicker_output")
    values = [scene.phase("deblur").measured(name) or 0.0 for scene in facts.scenes for name in names]
    return max([*values, 1e-9])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html")
