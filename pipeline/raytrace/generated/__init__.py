"""Scenes from a seed: families of rooms, streets and landscapes, no two of them alike.

    scene = generate("street", seed=17)
    frame = render_frame(scene, 2.5, width=192, height=128)

Everything is drawn: light and hour, textures, furniture, people and animals, things near the lens, the moves of all of
them and of the camera. What it is not: a place for canonical scenes; those are in `raytrace/scenes`.
"""

from collections.abc import Callable

from pipeline.raytrace.generated import nature, room, street
from pipeline.raytrace.world import RayScene, RaytraceError

# What an older version made, it still makes, to the byte. 2: nobody stands inside somebody else or a car, bulbs hang on wires,
# lattices near the lens leave most of the view open, and a dusk without lamps is bright enough to see by.
VERSIONS = (1, 2)
VERSION = VERSIONS[-1]

FAMILIES: dict[str, Callable[[int, float, int], RayScene]] = {
    "room": room.build,
    "street": street.build,
    "nature": nature.build,
}


def generate(family: str, seed: int, *, pace: float = 1.0, version: int = 1) -> RayScene:
    """A scene of a family.

    Args:
        family: one of `FAMILIES`.
        seed: >= 0; everything is drawn from family and seed.
        pace: factor on all speeds, > 0: 1 is lively (a few pixels a frame at 192 px width), 0.2 calm.
        version: of `VERSIONS`; moving clips are of the first.

    Raises:
        RaytraceError: unknown family or version, negative seed or a pace that is not positive.
    """
    if family not in FAMILIES:
        raise RaytraceError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    if not pace > 0:
        raise RaytraceError(f"pace must be > 0, got {pace}")
    if version not in VERSIONS:
        raise RaytraceError(f"version must be one of {', '.join(map(str, VERSIONS))}, got {version}")
    return FAMILIES[family](seed, pace, version)


__all__ = ["FAMILIES", "VERSION", "VERSIONS", "generate"]
