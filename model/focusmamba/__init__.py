"""FocusMamba: calibrated focus maps from defocused video. `docs/focusmamba.md` tells what it is made of."""

from model.focusmamba.config import VARIANTS, FocusMambaConfig, FocusMambaError, variant
from model.focusmamba.network import FocusMamba, FocusOutput
from model.focusmamba.state import FocusState

__all__ = ["VARIANTS", "FocusMamba", "FocusMambaConfig", "FocusMambaError", "FocusOutput", "FocusState", "variant"]
