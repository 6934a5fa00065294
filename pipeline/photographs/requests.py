"""Which scenes a data set of photographs holds, and their splits: by scene, and by family."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.optics import SENSOR_WIDTH_MM, Aperture, OpticsError
from pipeline.photographs.lenses import MAX_RADIUS_SHARE
from pipeline.raytrace import RayScene, RaytraceError
from pipeline.raytrace.generated import FAMILIES, VERSION, VERSIONS, generate
from pipeline.raytrace.scenes import BUILDERS
from pipeline.storage.scene import MAX_SETS, Split

MAX_COC_M = (
    2 * MAX_RADIUS_SHARE * SENSOR_WIDTH_MM / 1000
)  # the label reaches 0 at the largest radius, at any frame size
LICENCE = "made by this project; no weights"
HELD_OUT = ("nature",)
FIRST_SEED = 1_000_000  # scenes of moving clips have seeds below
# Scenes of the seed alone, and variations of the demo's, which nobody trains on unless asked to.
PLACES = (*FAMILIES, *BUILDERS)


@dataclass(frozen=True, kw_only=True)
class PhotographRequest:
    """One scene to generate and photograph.

    Args:
        scene_id: folder name.
        family, seed: which scene, one of `PLACES`.
        split: train, val or test.
        width, height: pixels, multiples of 16.
        num_frames, num_sets: >= 1.
        samples: rays per pixel of a photograph, >= 1.
        pace: factor on the scene's speeds, > 0; the demo's scenes have their own.
        blades: of the opening, 0 for a disc, otherwise >= 3.
        pulls: how many of the sets, the last ones, have a focus that travels over the frames; >= 0.
        version: of the generator; an older one still makes the scenes that it made.
    """

    scene_id: str
    family: str
    seed: int
    split: Split
    width: int = 512
    height: int = 288
    num_frames: int = 6
    num_sets: int = 2
    samples: int = 64
    pace: float = 0.25
    blades: int = 0
    pulls: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.family not in PLACES:
            raise RaytraceError(f"family must be one of {', '.join(PLACES)}, got {self.family!r}")
        if self.version not in VERSIONS:
            raise RaytraceError(f"version must be one of {', '.join(map(str, VERSIONS))}, got {self.version}")
        for name in ("width", "height", "num_frames", "num_sets", "samples"):
            if getattr(self, name) < 1:
                raise RaytraceError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % 16 or self.height % 16:
            raise RaytraceError(f"width and height must be multiples of 16, got {self.width}x{self.height}")
        if self.num_sets > MAX_SETS:
            raise RaytraceError(f"num_sets must be at most {MAX_SETS}, got {self.num_sets}")
        if not 0 <= self.pulls <= self.num_sets:
            raise RaytraceError(f"pulls must be in [0, num_sets = {self.num_sets}], got {self.pulls}")
        if self.pulls and self.num_frames < 2:
            raise RaytraceError("a focus pull needs 2 frames or more, got num_frames 1")
        try:
            self.aperture()
        except OpticsError as error:
            raise RaytraceError(str(error)) from None

    def aperture(self) -> Aperture:
        """The opening of every lens."""
        return Aperture(blades=self.blades)

    def scene(self) -> RayScene:
        """What is photographed."""
        if self.family in BUILDERS:
            return BUILDERS[self.family](self.seed)
        return generate(self.family, self.seed, pace=self.pace, version=self.version)

    def recorded(self) -> dict[str, Any]:
        """What metadata and fingerprints say of it; without what came later and was not asked for, as before."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("blades", "pulls")}


def photograph_requests(
    num_scenes: int,
    seed: int = 0,
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    held_out: tuple[str, ...] | None = None,
    first_scene: int = 0,
    **settings: int,
) -> list[PhotographRequest]:
    """The scenes of a data set: families in turn, split by scene and by family.

    Args:
        num_scenes: >= 1.
        seed: of the data set, >= 0; others share no scene below 10,000 scenes.
        families: of `PLACES`.
        held_out: families that are test scenes only, so that the test has places that training never showed; `HELD_OUT`
            where it is None, as far as they are among the families and others are too.
        first_scene: number of the first, >= 0: a set can be continued, or kept apart from another of the same seed.
        settings: further arguments of `PhotographRequest`.

    Returns:
        Of every eight scenes of a family that is not held out, the fourth is "val" and the eighth "test".
    """
    if num_scenes < 1:
        raise RaytraceError(f"num_scenes must be at least 1, got {num_scenes}")
    for name, value in (("seed", seed), ("first_scene", first_scene)):
        if value < 0:
            raise RaytraceError(f"{name} must be >= 0, got {value}")
    if not families or len(set(families)) < len(families) or set(families) - set(PLACES):
        raise RaytraceError(f"families must be different ones of {', '.join(PLACES)}, got {', '.join(families)}")
    if held_out is None:
        held_out = HELD_OUT if set(families) - set(HELD_OUT) else ()
    elif set(held_out) - set(families) or len(set(held_out)) == len(families):
        raise RaytraceError(
            f"held_out must be some of {', '.join(families)} and not all, got {', '.join(held_out) or 'none'}"
        )
    requests = []
    for number in range(first_scene, first_scene + num_scenes):
        family, of_family = families[number % len(families)], number // len(families)
        inside: Split = "val" if of_family % 8 == 3 else "test" if of_family % 8 == 7 else "train"
        own = 10_000 * seed + number
        requests.append(
            PhotographRequest(
                scene_id=f"{family}_{own:05d}",
                family=family,
                seed=FIRST_SEED + own,
                split="test" if family in held_out else inside,
                **settings,
            )
        )
    return requests
