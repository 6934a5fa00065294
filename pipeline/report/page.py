"""The report page: one static file that opens from disk, for the operator before confirming and after finishing.

It carries its styles, pictures and one short script inside and asks the network for nothing: its own policy forbids that, and
any other script than this one, which it names by its hash. Without scripts everything is there, but nothing slides or enlarges.
What is missing or damaged is shown as such: a page that fails because the data did would be of no use when it is needed.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from pipeline.hints import phase_command
from pipeline.phases.render import MEAN_FOCUS_RANGE
from pipeline.report import formatting as words
from pipeline.report.causes import Cause, by_cause
from pipeline.report.chart import histogram
from pipeline.report.colours import SKY, css, depth_gradient, focus_gradient
from pipeline.report.facts import DatasetFacts, gather
from pipeline.report.hero import make_hero
from pipeline.report.motion import make_clip
from pipeline.report.network import read_network
from pipeline.report.scene_facts import SceneFacts
from pipeline.report.thumbnails import THUMB_WIDTH, Strip, make_strip, with_clip
from pipeline.storage.files import write_shared
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import SPLITS, Scene

ALL_STRIPS_UP_TO = 60  # scenes; above, failing ones and the first of each split
FIRST_OF_SPLIT = 8
MAX_PICTURE_BYTES = 12_000_000  # of base64: with 1,000 scenes' tables the page stays below 15 MB
MAX_CLIPS = 12  # scenes in motion; a clip reads 48 files
LARGE_WIDTH, LARGE_UP_TO = 640, 16  # pictures of few scenes are wider, for whoever enlarges them
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The pictures that were drawn, by scene id, and in words what was left out."""

    by_scene: dict[str, Strip]
    note: str

    @property
    def have_details(self) -> bool:
        return any(shown.detail for strip in self.by_scene.values() for shown in strip.sets)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is wrong and what to look at, a line per cause."""

    failures: tuple[Cause, ...]
    rejections: tuple[Cause, ...]
    warnings: tuple[Cause, ...]

    @staticmethod
    def of(facts: DatasetFacts) -> "Findings":
        """Reasons of a scene stay together, since one follows from another; warnings are counted each for itself."""
        failed = [(scene.scene_id, scene.reasons) for scene in facts.scenes if scene.verdict == "failed"]
        return Findings(
            failures=by_cause(failed),
            rejections=by_cause(
                (entry.scene_id, [str(reason) for reason in entry.reasons] or ["no reason was recorded"])
                for entry in facts.rejected
            ),
            warnings=by_cause((scene.scene_id, [text]) for scene in facts.scenes for text in scene.warnings),
        )


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
    script = (_TEMPLATES / "page.js").read_text()
    return _template().render(
        facts=facts,
        findings=Findings.of(facts),
        strips=strips,
        hero=make_hero(facts, strips.by_scene),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        chart=histogram(facts.calibration),
        network=read_network(out_root),
        depth_colours=depth_gradient(),
        focus_colours=focus_gradient(),
        sky_colour=css(SKY),
        max_flicker=_max_flicker(facts),
        mean_focus_range=MEAN_FOCUS_RANGE,
        words=words,
        validate_command=phase_command("validate"),
    )


def draw_strips(facts: DatasetFacts) -> Strips:
    """Choose the scenes that get pictures, and draw them until the page's budget is used up."""
    chosen = _chosen(facts)
    width = LARGE_WIDTH if len(chosen) <= LARGE_UP_TO else THUMB_WIDTH
    drawn: dict[str, Strip] = {}
    used = clips = 0
    for scene in chosen:
        if used >= MAX_PICTURE_BYTES:
            break
        strip = make_strip(Scene(facts.out_root, scene.scene_id), scene, width)
        if clips < MAX_CLIPS:
            strip = _in_motion(facts, scene, strip)
            clips += strip.clip is not None
        drawn[scene.scene_id] = strip
        used += strip.num_bytes
    if len(drawn) == len(facts.scenes):
        return Strips(by_scene=drawn, note="")
    then = f", then the first {FIRST_OF_SPLIT} of each split" if len(facts.scenes) > ALL_STRIPS_UP_TO else ""
    note = (
        f"Pictures of {len(drawn):,} of {len(facts.scenes):,} scenes, so that the page stays small: "
        f"failing scenes first{then}. Every scene is in the table of measurements."
    )
    return Strips(by_scene=drawn, note=note)


def _in_motion(facts: DatasetFacts, scene: SceneFacts, strip: Strip) -> Strip:
    if not strip.complete or strip.best_set is None or strip.scale is None:
        return strip
    where = Scene(facts.out_root, scene.scene_id)
    return with_clip(strip, make_clip(where, scene.entry.num_frames, strip.best_set, strip.scale))


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
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
