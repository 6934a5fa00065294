"""What can go wrong with training and checkpoints, beside the pipeline's own types."""

from pipeline.errors import PipelineError


class CheckpointError(PipelineError):
    """A checkpoint that is damaged, foreign, or of another network."""


class TrainingDiverged(PipelineError):
    """A loss or a gradient is no longer a number. The message names step, term and samples."""
