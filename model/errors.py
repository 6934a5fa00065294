"""What can go wrong with training and checkpoints, beside the pipeline's own types."""

from pipeline.errors import PipelineError

# To somebody whose run diverged
ADVICE = "Nothing was saved after the last checkpoint; try a lower optim.lr, a longer warm-up or run.precision=float32"


class CheckpointError(PipelineError):
    """A checkpoint that is damaged, foreign, or of another network."""


class TrainingDivergedError(PipelineError):
    """A loss, a gradient or a prediction is no longer a number. The message names step and term, or clip and frame."""
