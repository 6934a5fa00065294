"""Scenes from a seed: families of rooms, streets and landscapes, no two of them alike.

    scene = generate("street", seed=17)
    frame = render_frame(scene, 2.5, width=192, height=128)

Everything is drawn: light and hour, textures, furniture, people and animals, things near the lens, the moves of all of
them and of the camera. What it is not: a place for canonical scenes; those are in `raytrace/scenes`.
"""

from collections.abc import Callable

from pipeline.raytrace.generated import nature, room, street
from pipeline.raytrace.world import RayScene, RaytraceError

FAMILIES: dict[str, Callable[[int, float], RayScene]] = {
    "room": room.build,
    "street": street.build,
    "nature": nature.build,
}


def generate(family: str, seed: int, *, pace: float = 1.0) -> RayScene:
    """A scene of a family.

    Args:
        family: one of `FAMILIES`.
        seed: >= 0; everything is drawn from family and seed.
        pace: factor on all speeds, > 0: 1 is lively (a few pixels a frame at 192 px width), 0.2 calm.

    Raises:
        RaytraceError: unknown family, negative seed or a pace that is not positive.
    """
    if family not in FAMILIES:
        raise RaytraceError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    if not pace > 0:
        raise RaytraceError(f"pace must be > 0, got {pace}")
    return FAMILIES[family](seed, pace)


__all__ = ["FAMILIES", "generate"]
