"""What a refocused photograph depends on, checked before anything is read."""

import math
from dataclasses import dataclass, field

from pipeline.engines.bokehnet import LORA as BOKEH_LORA
from pipeline.engines.genfocus.deblur import LORA as DEBLUR_LORA
from pipeline.engines.genfocus.options import FLUX
from pipeline.errors import UsageError

ENGINES = ("bokehnet", "lens")


@dataclass(frozen=True, kw_only=True)
class RefocusSettings:
    """The flags of scripts/refocus.py.

    Args:
        focus_px: (x, y) in the photograph as it is shown; None for its middle.
        k: blur in pixels of radius per 1/m of disparity from the focus; 0 leaves the photograph as it is.
        engine: "bokehnet", or "lens" for the renderer that needs no weights.
        depth: "auto" (given, else vda), "given", "vda", or a path.
        deblur: sharpen first, with DeblurNet.
        long_side: the photograph is brought to this longer side, px; None leaves it.
        steps: of each published network.
        seed: of the noise, unless author_seeds takes that of the published code.
        engine_opts: NAME -> VALUE for every engine at work that knows the name.

    Raises:
        UsageError: a value that is not allowed.
    """

    focus_px: tuple[int, int] | None = None
    k: float = 20.0
    engine: str = "bokehnet"
    depth: str = "auto"
    deblur: bool = True
    long_side: int | None = None
    steps: int = 28
    seed: int = 0
    author_seeds: bool = False
    engine_opts: dict[str, str] = field(default_factory=dict)
    device: str = "auto"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k) and self.k >= 0):
            raise UsageError(f"--K must be finite and >= 0, got {self.k:g}; the authors' demo goes from 0 to 50")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine must be {' or '.join(ENGINES)}, got {self.engine!r}")
        if self.long_side is not None and self.long_side < 16:
            raise UsageError(f"--long_side must be at least 16 px, got {self.long_side}")
        if not 1 <= self.steps <= 1000:
            raise UsageError(f"--steps must be in [1, 1000], got {self.steps}")

    @property
    def in_tokens(self) -> bool:
        """Whether FLUX is at work, which wants sides that are multiples of 16. It is asked of the engines, not of K, so that
        a sweep over K has pictures of one size."""
        return self.deblur or self.engine == "bokehnet"

    def flux_files(self) -> list[str]:
        """The published files that FLUX needs here, by title."""
        conditions = 2 if self.engine_opts.get("conditions") == "2" else 1
        files = [DEBLUR_LORA[conditions]] if self.deblur else []
        if self.engine == "bokehnet" and self.k > 0:
            files.append(BOKEH_LORA)
        return [FLUX, *files] if files else []
