"""What a person chooses for one film: engine, depth, lens, focus, output. Checked as far as it goes without the film."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from model.video.focus import Anchor, FocusPull
from pipeline.errors import UsageError
from pipeline.optics import SENSOR_WIDTH_MM, Aperture
from pipeline.optics.aperture import FARTHEST_RIM

EngineName = Literal["auto", "lens", "bokehflow"]
DISC = Aperture()
F_NUMBERS = (0.5, 64.0)
FOCAL_MM = (1.0, 2000.0)
STRENGTH_PERCENT = (0.05, 10.0)
# With this lens a person at arm's length stands out and a street does not; what the network was given before it had a default.
USUAL_F_NUMBER, USUAL_FOCAL_MM = 2.0, 50.0
USUAL_STRENGTH_PERCENT = 1.5  # in the middle of what the prior `visible` draws, docs/optics.md


@dataclass(frozen=True, kw_only=True)
class ApplySettings:
    """How to look at a film, and through what.

    Args:
        engine: "lens" (optics on depth), "bokehflow" (a trained network), or "auto": the network if there is a checkpoint.
        depth: "auto", "given", "vda", "bokehflow", or a path to delivered depth; a network sees its own unless one is named.
        checkpoint: of the network, where one is wanted; None for the one that comes with the code.
        f_number, focal_mm: of the lens; None for a usual value, or for what `strength_percent` asks for.
        strength_percent: blur radius that 95 % of the film stays below, in percent of the frame's width; the f-number follows.
        sensor_mm: width of the sensor along the frame's width; 24 for a full-frame camera held upright.
        aperture: shape of the opening.
        cat_eye: how far the barrel's rim shades it in the corners, in radii; see `pipeline.optics.cat_eye`.
        focus: keyframes.
        focus_px: (x, y) of a pixel of the first frame; what it shows is focused.
        focus_track: points that are followed, each from its time on. At most one of the three is given.
        temporal_s: time over which a followed focus is steadied.
        device: auto, cpu, cuda or cuda:N.
        fps: of folders of pictures.
        audio: copy the sound.
        find_cuts: start afresh at every cut of a film.
        overwrite: replace an existing output.
        max_frames: stop after so many; None for all.
        resize_px: longer side of what is worked on and written; None for the film's own. Only ever smaller.
        bits: 8 or 10 a channel; None for as many as the film has.
        side_by_side: the film and the result beside each other.
        depth_video: write the depth as colours too, to a video or folder.
        save_depth: keep estimated depth in this folder, in the form that --depth reads.
        profile: say at the end what a frame cost, part by part.
    """

    engine: EngineName = "auto"
    depth: str = "auto"
    checkpoint: Path | None = None
    f_number: float | None = None
    focal_mm: float | None = None
    strength_percent: float | None = None
    sensor_mm: float = SENSOR_WIDTH_MM
    aperture: Aperture = DISC
    cat_eye: float = 0.0
    focus: FocusPull | None = None
    focus_px: tuple[int, int] | None = None
    focus_track: tuple[Anchor, ...] = ()
    temporal_s: float = 0.3
    device: str = "auto"
    fps: float = 24.0
    audio: bool = True
    find_cuts: bool = True
    overwrite: bool = False
    max_frames: int | None = None
    resize_px: int | None = None
    bits: int | None = None
    side_by_side: bool = False
    depth_video: Path | None = None
    save_depth: Path | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise UsageError(f"--engine must be one of {', '.join(get_args(EngineName))}, got {self.engine!r}")
        check_range("--f_number", self.f_number, F_NUMBERS)
        check_range("--focal_mm", self.focal_mm, FOCAL_MM)
        check_range("--strength", self.strength_percent, STRENGTH_PERCENT)
        check_range("--cat_eye", self.cat_eye, (0, FARTHEST_RIM))
        check_range("--sensor_mm", self.sensor_mm, (1, 100))
        check_range("--temporal", self.temporal_s, (0, 10))
        check_range("--max_frames", self.max_frames, (1, 10**9))
        check_range("--resize", self.resize_px, (16, 16384))
        if self.bits not in (None, 8, 10):
            raise UsageError(f"--bits must be 8 or 10, got {self.bits}")
        if self.strength_percent is not None and self.f_number is not None:
            raise UsageError("give --f_number or --strength, which finds one, and not both")
        if sum((self.focus is not None, self.focus_px is not None, bool(self.focus_track))) > 1:
            raise UsageError("give at most one of --focus, --focus_px, --focus_track and --focus_pull")
        self._check_network()

    def _check_network(self) -> None:
        """No checkpoint is given that nothing wants, and a network is asked only what it can."""
        if self.engine_name == "bokehflow":
            if self.strength_percent is not None:
                raise UsageError("--strength goes with --engine lens; a network is told --f_number and --focal_mm")
            if self.aperture != DISC or self.cat_eye:
                raise UsageError(
                    "--blades, --rotation, --roundness and --cat_eye go with --engine lens; the network has a round opening"
                )
        elif self.checkpoint is not None and self.depth != "bokehflow":
            raise UsageError(
                f"--engine lens with --depth {self.depth} has no use for --checkpoint; leave one of them out"
            )

    @property
    def engine_name(self) -> Literal["lens", "bokehflow"]:
        """What "auto" comes to: a checkpoint is given to be used."""
        if self.engine != "auto":
            return self.engine
        return "bokehflow" if self.checkpoint is not None else "lens"

    @property
    def hands_depth_in(self) -> bool:
        """Whether the network is given depth instead of seeing it."""
        return self.engine_name == "bokehflow" and self.depth not in ("auto", "bokehflow")

    @property
    def wants_network(self) -> bool:
        """Whether pictures or depth come from a network."""
        return "bokehflow" in (self.engine_name, self.depth)

    @property
    def lens_alone(self) -> bool:
        """Whether something was asked for that only the lens engine does."""
        return self.strength_percent is not None or self.aperture != DISC or bool(self.cat_eye)

    @property
    def wanted_strength(self) -> float | None:
        """Percent of the width that the lens engine solves its f-number for; None when the f-number is given."""
        if self.f_number is not None or self.engine_name == "bokehflow":
            return None
        if self.strength_percent is None and self.focal_mm is not None:
            return None  # a lens was asked for, by one of its numbers
        return self.strength_percent or USUAL_STRENGTH_PERCENT


def check_range(name: str, value: float | None, allowed: tuple[float, float]) -> None:
    """UsageError with the flag and the allowed range, unless the value is inside or None."""
    low, high = allowed
    if value is not None and not low <= value <= high:
        raise UsageError(f"{name} must be in [{low:g}, {high:g}], got {value:g}")
