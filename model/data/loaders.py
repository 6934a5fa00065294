"""Batches in the order of their sample numbers, read ahead by threads.

Threads, not worker processes: image codecs and zlib release the interpreter lock, errors arrive with their own type and
message, and a signal finds one process to stop. Which samples a process reads follows from the step alone, so a run can
be resumed at any step with any number of processes, as long as the batch is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.errors import UsageError
from pipeline.media.prefetch import map_ahead

Sample = TypeVar("Sample")
AnySample = TypeVar("AnySample", covariant=True)
Collated = TypeVar("Collated")


class SampleSource(Protocol[AnySample]):
    """An endless stream of samples by number; `len` is one epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> AnySample: ...


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the samples of a step are dealt out.

    Args:
        batch_size: samples of one optimiser step over all processes.
        micro_batch_size: samples that one process has in memory at once.
        rank, num_processes: of this process.

    Raises:
        UsageError: they do not divide.
    """

    batch_size: int
    micro_batch_size: int
    rank: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.micro_batch_size < 1:
            raise UsageError(
                f"batch_size and micro_batch_size must be >= 1, got {self.batch_size} and {self.micro_batch_size}"
            )
        if self.batch_size % (self.micro_batch_size * self.num_processes):
            raise UsageError(
                f"batch_size must be a multiple of micro_batch_size times the number of processes, got {self.batch_size} "
                f"for {self.micro_batch_size} x {self.num_processes}"
            )

    @property
    def micro_batches(self) -> int:
        """Backward passes of this process in one optimiser step."""
        return self.batch_size // (self.micro_batch_size * self.num_processes)

    def numbers(self, step: int) -> list[list[int]]:
        """The sample numbers of each of this process's micro-batches in a step."""
        first = step * self.batch_size
        chunks = self.batch_size // self.micro_batch_size
        mine = range(self.rank * self.micro_batches, (self.rank + 1) * self.micro_batches)
        assert chunks == self.micro_batches * self.num_processes, "checked above"
        return [list(range(first + c * self.micro_batch_size, first + (c + 1) * self.micro_batch_size)) for c in mine]


def batches(
    source: SampleSource[Sample],
    collate: Callable[[Sequence[Sample]], Collated],
    plan: BatchPlan,
    first_step: int,
    last_step: int,
    workers: int,
) -> Iterator[Collated]:
    """Micro-batches of steps first_step .. last_step - 1, in order.

    Args:
        source: where samples come from.
        collate: makes one batch of the samples of a micro-batch.
        plan: which of them this process takes.
        first_step, last_step: half-open range of optimiser steps.
        workers: threads that read, >= 1; they change the speed and nothing else.

    Raises:
        InputError: a sample cannot be read, or samples do not go together.
    """
    numbers = (number for step in range(first_step, last_step) for group in plan.numbers(step) for number in group)
    samples = map_ahead(source.__getitem__, numbers, workers, depth=max(2 * plan.micro_batch_size, workers + 1))
    pending: list[Sample] = []
    try:
        for sample in samples:
            pending.append(sample)
            if len(pending) == plan.micro_batch_size:
                yield collate(pending)
                pending = []
    finally:
        samples.close()  # type: ignore[attr-defined]  # a generator: stop its threads with us
