"""What BokehFlow and FocusMamba are both built of: gated delta scans over an image, their blocks, and state over time."""

from model.recurrent.config import RecurrenceError
from model.recurrent.recurrence import gated_delta_rule, gated_delta_rule_reference, unit_keys

__all__ = ["RecurrenceError", "gated_delta_rule", "gated_delta_rule_reference", "unit_keys"]
