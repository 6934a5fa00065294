"""What the page opens with: the scene that shows best what a lens does, and a row of others."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.media.images import read_sharp
from pipeline.report.embed import Thumbnail, jpeg_thumbnail
from pipeline.report.facts import DatasetFacts
from pipeline.report.motion import Clip
from pipeline.report.scene_facts import SceneFacts, SetFacts
from pipeline.report.thumbnails import THUMB_WIDTH, Strip
from pipeline.storage.ownership import refuse_links
from pipeline.storage.scene import Scene

HERO_WIDTH = 960
GALLERY = 6  # scenes in the row


@dataclass(frozen=True, kw_only=True)
class GalleryPicture:
    """A scene through its best lens, or sharp where nothing is rendered yet."""

    scene_id: str
    picture: Thumbnail
    caption: str


@dataclass(frozen=True, kw_only=True)
class Hero:
    """Sharp and rendered frame of one scene, its clip, and the row. Before the renders there is the row alone."""

    scene: SceneFacts | None
    lens: SetFacts | None
    sharp: Thumbnail
    bokeh: Thumbnail
    clip: Clip | None
    gallery: tuple[GalleryPicture, ...]


def make_hero(facts: DatasetFacts, strips: dict[str, Strip]) -> Hero | None:
    """Choose by how much the lens changes the picture; failing scenes only where there are no others.

    Returns:
        None when no scene has a picture.
    """
    shown = [scene for scene in facts.scenes if scene.scene_id in strips and strips[scene.scene_id].sharp.uri]
    good = [scene for scene in shown if scene.verdict != "failed"] or shown
    if not good:
        return None
    best = max(good, key=lambda scene: _rank(strips[scene.scene_id]))
    strip = strips[best.scene_id]
    others = [scene for scene in good if scene is not best or strip.best_set is None]
    gallery = tuple(_gallery_picture(facts, scene, strips[scene.scene_id]) for scene in others[:GALLERY])
    if strip.best_set is None:
        return Hero(scene=None, lens=None, sharp=Thumbnail(), bokeh=Thumbnail(), clip=None, gallery=gallery)
    scene = Scene(facts.out_root, best.scene_id)
    sharp = _picture(scene, scene.sharp_path(strip.frame), HERO_WIDTH)
    bokeh = _picture(scene, scene.bokeh_path(strip.best_set, strip.frame), HERO_WIDTH)
    lens = best.sets[strip.best_set]
    return Hero(scene=best, lens=lens, sharp=sharp, bokeh=bokeh, clip=strip.clip, gallery=gallery)


def _rank(strip: Strip) -> tuple[bool, float]:
    """A scene in motion first, then by what its best lens does."""
    change = strip.sets[strip.best_set].change if strip.best_set is not None else -1.0
    return strip.clip is not None, change


def _gallery_picture(facts: DatasetFacts, shown: SceneFacts, strip: Strip) -> GalleryPicture:
    scene = Scene(facts.out_root, shown.scene_id)
    if strip.best_set is None:
        picture, caption = _picture(scene, scene.sharp_path(strip.frame), THUMB_WIDTH), "sharp"
    else:
        picture = _picture(scene, scene.bokeh_path(strip.best_set, strip.frame), THUMB_WIDTH)
        caption = shown.sets[strip.best_set].words
    return GalleryPicture(scene_id=shown.scene_id, picture=picture, caption=caption)


def _picture(scene: Scene, path: Path, width: int) -> Thumbnail:
    """Read again, for the size that is wanted here; a scene may change while its page is drawn."""
    try:
        refuse_links(scene.dir.parent, [path])
        return jpeg_thumbnail(read_sharp(path), width)
    except (InputError, OSError) as error:
        return Thumbnail(problem=str(error))
