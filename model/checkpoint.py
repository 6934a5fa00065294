"""The checkpoint format under the name by which programs outside this repository import it."""

from model.training.checkpoint import load_model, model_bytes

__all__ = ["load_model", "model_bytes"]
