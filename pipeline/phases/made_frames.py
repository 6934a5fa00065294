"""Phase 5 at part of the cost: which frames the engine renders, and the rest from those beside them.

Focus maps are those of every frame, exact as ever; only pictures are made. Every frame has its sharp picture, so before
anything is rendered the interpolator is tried on those, where the truth is known: a frame that it would get badly wrong, as at
a cut, is rendered. Lenses stay the same through a set, so between two rendered frames only depth and things move.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.measures import psnr
from pipeline.media.images import Picture, read_sharp
from pipeline.phases.base import Work, retry_on_oom
from pipeline.storage.scene import Scene


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """Which frames of a scene come from where.

    Args:
        rendered: by the engine, ascending; the first and the last frame are among them.
        made: by the interpolator -> PSNR, dB, with which it made the sharp frame of that number.
        refused: frames that would have been made, and whose sharp frame came out too badly.
    """

    rendered: tuple[int, ...]
    made: dict[int, float]
    refused: tuple[int, ...] = ()


class FrameMaker:
    """Makes the frames between rendered ones.

    Args:
        scene: its files.
        engine: the interpolator.
        safe point and warnings: of `work`.
    """

    def __init__(self, scene: Scene, engine: Interpolator, work: Work) -> None:
        self._scene, self._engine, self._work = scene, engine, work
        # The same array for the same file, so that engines know what they have seen.
        self._pictures: OrderedDict[Path, Picture] = OrderedDict()

    def plan(self, num_frames: int, every: int, min_sharp_db: float) -> FramePlan:
        """Every n-th frame and the last are rendered, and those whose sharp frame cannot be made to `min_sharp_db`."""
        kept = sorted({*range(0, num_frames, every), num_frames - 1})
        made: dict[int, float] = {}
        refused = []
        facts = self._work.journal.facts
        for frame in sorted(set(range(num_frames)) - set(kept)):
            self._work.safe_point()
            key = f"made/{frame:04d}"
            if key not in facts:
                context = self._context(frame, kept, self._sharp, self._sharp(frame), None)
                tried = self._made(context, frame)
                found = min(psnr(tried, self._sharp(frame), 255), 99.0)  # equal frames: infinity is no JSON
                self._work.journal.add(key, {"sharp_psnr_db": round(found, 3)})
            value = float(facts[key]["sharp_psnr_db"])
            if value >= min_sharp_db:
                made[frame] = value
            else:
                refused.append(frame)
        return FramePlan(rendered=tuple(sorted({*kept, *refused})), made=made, refused=tuple(refused))

    def make(
        self, frame: int, set_index: int, plan: FramePlan, sharp: Picture, radius_px: npt.NDArray[np.float32]
    ) -> Picture:
        """The picture of a lens set, from the rendered ones as they are stored."""
        rendered = partial(self._rendered, set_index)
        return self._made(self._context(frame, plan.rendered, rendered, sharp, radius_px), frame)

    def _made(self, context: Context, frame: int) -> Picture:
        from pipeline.media.convert import unit_to_image

        made = retry_on_oom(
            self._engine,
            lambda: self._engine.interpolate(context, self._work.safe_point),
            lambda text: self._work.reporter.warning(f"{self._scene.scene_id} frame {frame}: {text}"),
        )
        picture: Any = unit_to_image(made, context.before)
        return picture  # type: ignore[no-any-return]

    def _context(
        self, frame: int, rendered: Sequence[int], read: Any, sharp: Picture, radius_px: npt.NDArray[np.float32] | None
    ) -> Context:
        before, after = self._engine.reach
        numbers = [number for number in rendered if number < frame][-before:]
        numbers += [number for number in rendered if number > frame][:after]
        return Context(
            frames=tuple(read(number) for number in numbers),
            indices=tuple(numbers),
            target=frame,
            guides=tuple(self._sharp(number) for number in numbers),
            guide=sharp,
            radius_px=radius_px,
        )

    def _sharp(self, frame: int) -> Picture:
        return self._read(self._scene.sharp_path(frame))

    def _rendered(self, set_index: int, frame: int) -> Picture:
        return self._read(self._scene.bokeh_path(set_index, frame))

    def _read(self, path: Path) -> Picture:
        """From memory, as long as it is one of the last few."""
        if path not in self._pictures:
            self._pictures[path] = read_sharp(path)
        self._pictures.move_to_end(path)
        while len(self._pictures) > 6 * (sum(self._engine.reach) + 1):
            self._pictures.popitem(last=False)
        return self._pictures[path]
