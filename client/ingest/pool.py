"""Work over processes, with results in order and only a few jobs under way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from common.children import begin_child
from common.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
_AHEAD = 3  # jobs a process has waiting: keeps it busy, and bounds the results held in memory


class Workers:
    """Runs jobs in ``count`` processes, or in this one when ``count`` is 1."""

    def __init__(self, executor: Executor | None, count: int) -> None:
        self._executor = executor
        self._count = count

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Results of ``function`` in the order of ``jobs``. Raises DataError if a process dies."""
        if self._executor is None:
            yield from map(function, jobs)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                waiting.append(self._executor.submit(function, job))
                if len(waiting) >= _AHEAD * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                "a process that read DICOM files died", "Check the free memory and run again with fewer workers"
            ) from None


@contextlib.contextmanager
def start_workers(count: int) -> Iterator[Workers]:
    """``count`` processes; they end with the context, and with this process even if it is killed."""
    if count <= 1:
        yield Workers(None, 1)
        return
    # Not fork: the parent may hold threads, and a fork of a threaded process can hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=begin_child)
    try:
        yield Workers(executor, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
