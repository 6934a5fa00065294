"""Which scenes a data set of photographs holds, and their splits: by scene, and by family."""

from dataclasses import dataclass

from pipeline.optics import SENSOR_WIDTH_MM
from pipeline.photographs.lenses import MAX_RADIUS_SHARE
from pipeline.raytrace import RaytraceError
from pipeline.raytrace.generated import FAMILIES
from pipeline.storage.scene import MAX_SETS, Split

MAX_COC_M = (
    2 * MAX_RADIUS_SHARE * SENSOR_WIDTH_MM / 1000
)  # the label reaches 0 at the largest radius, at any frame size
LICENCE = "made by this project; no weights"
FIRST_SEED = 1_000_000  # scenes of moving clips have seeds below
VERSION = 1  # of generator and layout together: raise it when the same request gives other bytes


@dataclass(frozen=True, kw_only=True)
class PhotographRequest:
    """One scene to generate and photograph.

    Args:
        scene_id: folder name.
        family, seed: which generated scene.
        split: train, val or test.
        width, height: pixels, multiples of 16.
        num_frames, num_sets: >= 1.
        samples: rays per pixel of a photograph, >= 1.
        pace: factor on the scene's speeds, > 0.
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

    def __post_init__(self) -> None:
        for name in ("width", "height", "num_frames", "num_sets", "samples"):
            if getattr(self, name) < 1:
                raise RaytraceError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % 16 or self.height % 16:
            raise RaytraceError(f"width and height must be multiples of 16, got {self.width}x{self.height}")
        if self.num_sets > MAX_SETS:
            raise RaytraceError(f"num_sets must be at most {MAX_SETS}, got {self.num_sets}")


def photograph_requests(
    num_scenes: int, seed: int = 0, *, held_out: tuple[str, ...] = ("nature",), **size: int
) -> list[PhotographRequest]:
    """The scenes of a data set: families in turn, split by scene and by family.

    Args:
        num_scenes: >= 1.
        seed: of the data set, >= 0; others share no scene below 10,000 scenes.
        held_out: families that are test scenes only, so that the test has places that training never showed.
        size: further arguments of `PhotographRequest`.

    Returns:
        Of every eight scenes of a family that is not held out, the fourth is "val" and the eighth "test".
    """
    if num_scenes < 1:
        raise RaytraceError(f"num_scenes must be at least 1, got {num_scenes}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    names = tuple(FAMILIES)
    unknown = sorted(set(held_out) - set(names))
    if unknown or len(set(held_out)) == len(names):
        raise RaytraceError(f"held_out must be some of {', '.join(names)} and not all, got {', '.join(held_out)}")
    requests = []
    for number in range(num_scenes):
        family, of_family = names[number % len(names)], number // len(names)
        inside: Split = "val" if of_family % 8 == 3 else "test" if of_family % 8 == 7 else "train"
        own = 10_000 * seed + number
        requests.append(
            PhotographRequest(
                scene_id=f"{family}_{own:05d}",
                family=family,
                seed=FIRST_SEED + own,
                split="test" if family in held_out else inside,
                **size,
            )
        )
    return requests
