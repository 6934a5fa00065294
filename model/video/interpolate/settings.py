"""What a person chooses for a film with more frames. Checked as far as it goes without the film."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from model.video.settings import check_range
from pipeline.engines.interpolation.tiles import OVERLAP_PX
from pipeline.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class InterpolateSettings:
    """Which frames, by which engine.

    Args:
        factor: frames for each frame of the source; None where `fps` is given.
        fps: frames a second of the output, at even times; None where `factor` is given.
        interpolator: an engine's name, or "auto" for the best that is there.
        options: of that engine, NAME -> VALUE.
        checkpoint: of LIFT: model.safetensors, a checkpoint or a run folder.
        cuts: a file with the frames, or seconds, at which new shots begin; None looks for them.
        find_cuts: False takes the film as one shot.
        tile_px: side of the tiles that large frames are cut into; 0 for none, None as the frames' size suggests.
        source_fps: of folders of pictures.
        bits: 8 or 10 a channel; None for as many as the film has.
        device, audio, overwrite: as everywhere.
    """

    factor: int | None = None
    fps: Fraction | None = None
    interpolator: str = "auto"
    options: dict[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None
    cuts: Path | None = None
    find_cuts: bool = True
    tile_px: int | None = None
    source_fps: float = 24.0
    bits: int | None = None
    device: str = "auto"
    audio: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.factor is None) == (self.fps is None):
            raise UsageError("give either --factor or --fps")
        check_range("--factor", self.factor, (2, 64))
        if self.fps is not None:
            check_range("--fps", float(self.fps), (0.01, 1000))
        if self.tile_px:
            check_range("--tile", self.tile_px, (2 * OVERLAP_PX, 16384))
        if self.bits not in (None, 8, 10):
            raise UsageError(f"--bits must be 8 or 10, got {self.bits}")
        if self.cuts is not None and not self.find_cuts:
            raise UsageError("give --cuts or --no_cuts, not both")
        if self.checkpoint is not None and self.interpolator not in ("auto", "lift"):
            raise UsageError(f"--checkpoint goes with --interpolator lift, got {self.interpolator}")
