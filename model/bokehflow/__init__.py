"""BokehFlow: recurrent, linear-time depth of field for video. `docs/bokehflow.md` tells what it is made of."""

from model.bokehflow.config import VARIANTS, BokehFlowConfig, BokehFlowError, variant
from model.bokehflow.lens import LensBatch
from model.bokehflow.network import BokehFlow, BokehFlowOutput
from model.bokehflow.temporal import BokehFlowState
from model.recurrent.recurrence import gated_delta_rule, gated_delta_rule_reference, unit_keys

__all__ = [
    "VARIANTS",
    "BokehFlow",
    "BokehFlowConfig",
    "BokehFlowError",
    "BokehFlowOutput",
    "BokehFlowState",
    "LensBatch",
    "gated_delta_rule",
    "gated_delta_rule_reference",
    "unit_keys",
    "variant",
]
