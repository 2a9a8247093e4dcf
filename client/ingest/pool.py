"""Work over processes, with results in order and only a few jobs under way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from common.children import begin_child
from common.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
_START_SECONDS = 2.0  # what starting processes takes
_AHEAD = 3  # jobs a process has waiting: keeps it busy, and bounds the results held in memory


class Workers:
    """Runs jobs in this process, in threads of it, or in ``count`` processes, which start when first needed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: Executor | None = None

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job], total: int | None = None) -> Iterator[Result]:
        """Results of ``function`` in the order of ``jobs``, which are ``total``.

        They are done here until processes would save more, at the pace so far, than starting them takes. With no
        ``total`` as much work is taken to be ahead as is done.
        """
        started = time.monotonic()
        pending = iter(jobs)
        for done, job in enumerate(pending, start=1):
            yield function(job)
            spent = time.monotonic() - started
            ahead = spent if total is None else spent * (total / done - 1)
            if ahead * (1 - 1 / self.count) > _START_SECONDS:
                yield from self.map_apart(function, pending)

    def map_apart(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The same in processes from the first job on, whatever it costs; here if ``count`` is 1.

        Raises DataError if a process dies.
        """
        if self.count <= 1:
            yield from map(function, jobs)
            return
        if self._processes is None:
            # Not fork: the parent may hold threads, and a fork of a threaded process can hang.
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self.count, mp_context=context, initializer=begin_child)
        try:
            yield from self._ordered(self._processes, function, jobs)
        except BrokenProcessPool:
            raise DataError(
                "a process that read DICOM files died", "Check the free memory and run again with fewer workers"
            ) from None

    def map_threads(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The same in ``count`` threads, for a function that shares nothing and spends its time in numpy."""
        if self.count <= 1:
            yield from map(function, jobs)
            return
        threads = ThreadPoolExecutor(self.count)
        try:
            yield from self._ordered(threads, function, jobs)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _ordered(self, executor: Executor, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            waiting.append(executor.submit(function, job))
            if len(waiting) >= _AHEAD * self.count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """End the processes."""
        if self._processes is not None:
            self._processes.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def start_workers(count: int) -> Iterator[Workers]:
    """Up to ``count`` processes or threads; they end with the context, and with this process even if it is killed."""
    workers = Workers(count)
    try:
        yield workers
    finally:
        workers.close()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
