"""A contact sheet of finished scenes: all in focus beside the first photograph, with the scene's name."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipeline.media.images import read_sharp
from pipeline.storage.scene import Scene

TILE, MARGIN, COLUMNS = (256, 144), 4, 3


def contact_sheet(out_root: Path, scene_ids: list[str], path: Path, limit: int = 60) -> int:
    """Write a JPEG with up to `limit` of the scenes that are there; returns how many it shows."""
    scenes = [Scene(out_root, name) for name in scene_ids]
    shown = [scene for scene in scenes if scene.bokeh_path(0, 0).exists()][:limit]
    width, height = 2 * TILE[0] + MARGIN, TILE[1] + MARGIN
    rows = max(1, -(-len(shown) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * (width + MARGIN), rows * height), (20, 20, 20))
    draw = ImageDraw.Draw(sheet)
    for number, scene in enumerate(shown):
        x, y = (number % COLUMNS) * (width + MARGIN), (number // COLUMNS) * height
        for part, source in enumerate((scene.sharp_path(0), scene.bokeh_path(0, 0))):
            tile = Image.fromarray(np.asarray(read_sharp(source))).resize(TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, (x + part * TILE[0], y))
        draw.text((x + 4, y + 2), scene.scene_id, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    sheet.save(path, quality=88)
    return len(shown)
