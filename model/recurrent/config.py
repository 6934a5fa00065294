"""What the shared blocks ask of a network's config, and the constants they agree on."""

from typing import Literal, Protocol

Backend = Literal["auto", "torch", "triton", "fla", "reference"]

STRIDE = 4  # pixels per token, each way: the stem's two strides of 2
NORM_GROUPS = 8
DIRECTIONS = 4  # raster, reverse raster, column, reverse column


class RecurrenceError(ValueError):
    """A shape or backend that the recurrence cannot work with; the message says what was given and what is allowed."""


class StreamConfig(Protocol):
    """Widths and switches of a stream of blocks; a family's config describes them."""

    @property
    def channels(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def stem_channels(self) -> int: ...
    @property
    def ffn_mult(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def enable_dahg(self) -> bool: ...
    @property
    def dahg_lambda(self) -> float: ...
    @property
    def enable_tsp(self) -> bool: ...
    @property
    def memory_tokens(self) -> int: ...
    @property
    def max_state_norm(self) -> float: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def backend(self) -> Backend: ...
