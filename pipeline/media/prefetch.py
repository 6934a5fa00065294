"""Decoding ahead of the engine and encoding behind it, in bounded queues, so that a GPU never waits for a disk.

Threads, not processes: zlib, the picture codecs and file I/O all release the interpreter lock.
"""

import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar

from pipeline.orphans import die_with_parent

T = TypeVar("T")
_END = object()
# Any thread may be the one that takes a signal, and Python's handlers run in the main one, once it wakes.
WAKE_S = 0.5


def prefetch(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Run an iterable in a thread, at most `depth` items ahead. Its exceptions come out where the item would have."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    abandoned = threading.Event()

    def offer(value: Any) -> bool:
        while not abandoned.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer((item, None)):
                    return
            offer((_END, None))
        except BaseException as error:
            offer((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = ready.get(timeout=WAKE_S)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        abandoned.set()
        thread.join()


def map_ahead(function: Callable[[Any], T], items: Iterable[Any], workers: int = 2, depth: int = 4) -> Iterator[T]:
    """`map` in a few threads, in order, at most `depth` results ahead of the consumer."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: list[Future[T]] = []
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= depth:
                yield _result(pending.pop(0))
        while pending:
            yield _result(pending.pop(0))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(job: Future[T]) -> T:
    """What a job returns or raises, waiting in short turns so that signals are heard."""
    while not job.done():
        wait([job], timeout=WAKE_S)
    return job.result()


def _one_thread() -> None:
    """Several workers share the cores already; none of what they compute depends on the number of threads."""
    die_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # what PyTorch goes by when it is imported, if it is
    import cv2

    cv2.setNumThreads(1)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def map_processes(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """Call `function` with each tuple of arguments in fresh processes, results in order; one call, or one worker, runs here.

    Fresh interpreters rather than forks, which would inherit the locks of OpenCV's and PyTorch's threads. Closing the
    iterator cancels what has not begun. They end with this process, even when it is killed.
    """
    workers = min(workers, len(calls))
    if workers <= 1:
        yield from (function(*call) for call in calls)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread)
    try:
        for job in [pool.submit(function, *call) for call in calls]:
            yield _result(job)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class WriteBehind:
    """A few threads that encode and write, with at most `depth` jobs outstanding.

    The first failure is raised at the next `submit` or at the end of the `with` block; jobs already begun are finished
    either way, so that what is on disk is whole.
    """

    def __init__(self, workers: int = 2, depth: int = 6) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        self._depth = depth
        self._pending: set[Future[None]] = set()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; waits while the queue is full."""
        self._collect(self._depth - 1)
        self._pending.add(self._pool.submit(job))

    def drain(self) -> None:
        """Wait until everything queued is on disk."""
        self._collect(0)

    def _collect(self, allowed: int) -> None:
        while True:
            finished = {future for future in self._pending if future.done()}
            self._pending -= finished
            for future in finished:
                future.result()
            if len(self._pending) <= allowed:
                return
            wait(self._pending, timeout=WAKE_S, return_when=FIRST_COMPLETED)

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None or not issubclass(kind, Exception):
                self.drain()  # a stop is no failure: what the engine finished is kept
        finally:
            self._pool.shutdown(wait=True)
