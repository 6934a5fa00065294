"""The checkpoint format under the name by which programs outside this repository import it."""

from model.bokehflow.checkpoint import load_bokehflow, model_bytes
from model.training.network_file import load_model

__all__ = ["load_bokehflow", "load_model", "model_bytes"]
