"""Everything that can be set about a LIFT network, and its named sizes.

A checkpoint stores `to_dict()`, so a field's name and meaning are a file format: add, do not rename.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Attention = Literal["full", "window"]
Alpha = Literal["token", "frame"]
Prior = Literal["none", "dis", "classical", "proposals"]
RefineOn = Literal["coarse", "blend"]

PAD_TO = 32  # sides are padded to multiples: the encoder's 16 and the patches' 2
PATCH = 2  # s16 positions a token covers, each way
NORM_GROUPS = 8


class LiftError(ValueError):
    """An input or setting that the network cannot work with; the message says what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class LiftConfig:
    """Size and switches of one network. The defaults are the published design, but for `warp_s1` and `alpha`.

    Args:
        frames_before, frames_after: context frames on either side of the target, at most; the target is not central in the
            published layout (8 and 6).
        c1, c2, c4, c8, c16: channels of the encoder at strides 1, 2, 4, 8, 16.
        dim, heads, layers, dropout: of the temporal transformer.
        attention: "full" over the frames, or "window" of `attention_window` frames around each.
        alpha: how frames are weighed: "token", a softmax per patch, or "frame", one number per frame (published).
        use_context: the transformer's feature F_ctx; False leaves flow and synthesis with the two neighbours alone.
        use_s1: full-size features in the refinement; False enlarges s4 features instead.
        warp_s1: these features and the frames go to the refinement warped along the flow; False is the published form.
        flow8, flow8_blocks, flow4, flow4_blocks: width and residual blocks of the two flow scales.
        synthesis: width of ContextNet. refine, refine_tail: widths of the refinement.
        refine_blocks: residual blocks of the refinement.
        prior: "none" (published), or "dis": optical flow between the neighbours (Kroeger et al. 2016, as OpenCV has it),
            moved to the target's instant, is what the flow stages start from; "classical": that, and the picture that the
            pipeline's engine `flow` makes of it, which the network's own is mixed with, pixel by pixel. For networks
            trained in minutes, which then learn what is wrong with it rather than everything. "proposals": also the warped
            pictures which that engine chooses from; the network chooses among all of them anew (model.lift.choice).
        mix: width of that mixing. mix_warped: it sees the warped neighbours too, whose difference says where they are wrong.
        prior_detail: what the prior shows in finer detail than a stage's grid is kept: stages add to it, and only what they add
            is enlarged.
        cost_radius: the flow stages also see how well both neighbours' features agree for every motion of up to that many
            cells more to one side and less to the other, a symmetric cost volume (Park et al. 2020); 0 (published) for none.
        bicubic: the full-size frames are warped bicubically, which keeps what bilinear warps blur; published bilinear.
        choice: width of the choice among proposals.
        warp_features: the flow stages see the neighbours' features warped with the flow so far, as PWC-Net does, and the
            warped pictures; without it (published) they compare features at the same place.
        refine_on: what the refinement adds to: the "coarse" picture enlarged (published), or the full-size "blend" of the
            warped neighbours plus what ContextNet changed.
        t_min, t_max: instants between the neighbours (0 to 1) that it is trained for; others are refused.
    """

    frames_before: int = 8
    frames_after: int = 6
    c1: int = 32
    c2: int = 64
    c4: int = 128
    c8: int = 192
    c16: int = 256
    dim: int = 256
    heads: int = 8
    layers: int = 3
    dropout: float = 0.1
    attention: Attention = "full"
    attention_window: int = 5
    alpha: Alpha = "token"
    use_context: bool = True
    use_s1: bool = True
    warp_s1: bool = True
    flow8: int = 256
    flow8_blocks: int = 3
    flow4: int = 128
    flow4_blocks: int = 2
    synthesis: int = 64
    refine: int = 64
    refine_blocks: int = 2
    refine_tail: int = 32
    prior: Prior = "none"
    prior_detail: bool = False
    cost_radius: int = 0
    bicubic: bool = False
    mix: int = 16
    mix_warped: bool = False
    choice: int = 32
    warp_features: bool = False
    refine_on: RefineOn = "coarse"
    t_min: float = 0.5
    t_max: float = 0.5

    def __post_init__(self) -> None:
        for name in (
            "frames_before", "frames_after", "c1", "c2", "c4", "c8", "c16", "dim", "heads", "layers",
            "attention_window", "mix", "choice", "flow8", "flow4", "synthesis", "refine", "refine_tail",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise LiftError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("flow8_blocks", "flow4_blocks", "refine_blocks", "cost_radius"):
            if getattr(self, name) < 0:
                raise LiftError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name, kind in (("attention", Attention), ("alpha", Alpha), ("prior", Prior), ("refine_on", RefineOn)):
            if getattr(self, name) not in get_args(kind):
                raise LiftError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.dim % self.heads or self.dim % NORM_GROUPS:
            raise LiftError(f"dim must be a multiple of heads ({self.heads}) and {NORM_GROUPS}, got {self.dim}")
        for name, groups in (
            ("c16", 2), ("flow8", NORM_GROUPS), ("flow4", NORM_GROUPS), ("refine", NORM_GROUPS), ("refine_tail", 4),
            ("choice", NORM_GROUPS),
        ):  # fmt: skip
            if getattr(self, name) % groups:
                raise LiftError(f"{name} must be a multiple of {groups}, got {getattr(self, name)}")
        if not self.attention_window % 2:
            raise LiftError(f"attention_window must be odd, got {self.attention_window}")
        if not 0 <= self.dropout < 1:
            raise LiftError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 < self.t_min <= self.t_max < 1:
            raise LiftError(f"t_min and t_max must be 0 < t_min <= t_max < 1, got {self.t_min} and {self.t_max}")
        if self.cost_radius and not self.warp_features:
            raise LiftError(
                "cost_radius needs features that are warped with the flow so far: warp_features must be true"
            )
        if self.prior_detail and self.prior == "none":
            raise LiftError("prior_detail keeps detail of a prior, and prior is none")
        if self.mix_warped and not (self.warp_s1 and self.prior == "classical"):
            raise LiftError('mix_warped needs warp_s1 = true and prior = "classical"')
        if self.refine_on == "blend" and not self.warp_s1:
            raise LiftError('refine_on = "blend" needs the warped frames: warp_s1 must be true')

    @property
    def context_frames(self) -> int:
        return self.frames_before + self.frames_after

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LiftConfig":
        """Of a checkpoint or a config file.

        Raises:
            LiftError: a key that this version does not know, or a value that is not allowed.
        """
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                raise LiftError(f"unknown setting {key!r}; known are {', '.join(known)}")
        return cls(**values)


# What trains on a CPU core: narrow, and with the options that a short training needs.
_NANO = LiftConfig(
    c1=8, c2=16, c4=24, c8=32, c16=48, dim=48, heads=4, layers=2, dropout=0.0,
    flow8=48, flow8_blocks=2, flow4=32, flow4_blocks=2, synthesis=16, refine=16, refine_blocks=2, refine_tail=8,
    prior="proposals", prior_detail=True, cost_radius=3, bicubic=True, warp_features=True,
    refine_on="blend", t_min=0.25, t_max=0.75,
)  # fmt: skip
_VARIANTS = {"base": LiftConfig(), "nano": _NANO}


def variant(name: str) -> LiftConfig:
    """A named size.

    Raises:
        LiftError: there is none of that name.
    """
    if name not in _VARIANTS:
        raise LiftError(f"variant must be one of {', '.join(_VARIANTS)}, got {name!r}")
    return _VARIANTS[name]
