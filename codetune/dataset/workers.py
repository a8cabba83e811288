"""An ordered map over processes of our own.

`multiprocessing` starts its processes by running the caller's main script again, or by forking
a process that may have threads; both break programs that use codetune as a library. Here, a
worker is a plain child that speaks pickles over pipes with its parent, and only with it.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any, Self, TypeVar

from codetune.errors import DatasetError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 16  # processes: above it, the one that writes is the limit
_AHEAD = 2  # items for each process that are read before their turn


def processes_for(size: int, small: int = 3_000_000) -> int:
    """How many processes are worth their start for `size` bytes of text."""
    if size < small:
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, _MOST)


class Workers:
    """Processes that live as long as the `with` block; none with one process."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._all: list[_Worker] = []
        self._free: SimpleQueue[_Worker] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.stop()

    def prepare(
        self, make: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...]
    ) -> None:
        """Start the processes and have them call `make(*arguments)`; its errors come with `map`."""
        if self.processes <= 1:
            return
        while len(self._all) < self.processes:
            self._all.append(_Worker())
            self._free.put(self._all[-1])
        for worker in self._all:
            worker.prepare(make, arguments)

    def map(
        self,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        items: Iterable[Item],
    ) -> Iterator[Result]:
        """`make(*arguments)` in every process, then its call on each item, in the items' order.

        Everything must be picklable, `make` by its name. With one process nothing is started.

        Raises:
            DatasetError: a process was killed from outside (by the system, for lack of memory).
        """
        if self.processes <= 1:
            yield from map(make(*arguments), items)
            return
        self.prepare(make, arguments)
        pending: deque[Future[Any]] = deque()
        threads = ThreadPoolExecutor(self.processes)
        try:
            for item in items:
                pending.append(threads.submit(self._run, item))
                if len(pending) >= _AHEAD * self.processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            for worker in self._all:
                worker.stop()  # what they are doing has no taker any more
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _run(self, item: Any) -> Any:
        worker = self._free.get()
        try:
            return worker.call(item)
        finally:
            self._free.put(worker)


class _Worker:
    """The parent's side of one child process."""

    def __init__(self) -> None:
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codetune.dataset.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def prepare(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Say what is to be called from now on."""
        self._send((make, arguments))

    def call(self, item: Any) -> Any:
        self._send((None, item))
        try:
            good, value = pickle.load(_open(self._process.stdout))  # noqa: S301 - our own child
        except (EOFError, pickle.UnpicklingError) as error:
            raise _died(self._process) from error
        if not good:
            raise value
        return value

    def _send(self, value: Any) -> None:
        stream = _open(self._process.stdin)
        try:
            pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
            stream.flush()
        except BrokenPipeError as error:
            raise _died(self._process) from error

    def stop(self) -> None:
        """End the child, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        _open(self._process.stdout).close()
        try:
            _open(self._process.stdin).close()
        except BrokenPipeError:
            return  # what was still to be sent has no reader any more


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _died(process: subprocess.Popen[bytes]) -> DatasetError:
    return DatasetError(
        f"A process that builds the dataset ended early (exit status {process.wait()}).",
        advice="The system may have run out of memory: close other programs and run again.",
    )


def main() -> None:
    """The child's side: read, call, answer, until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not end up among the answers
    requests = sys.stdin.buffer
    gc.set_threshold(200_000, 20, 100)  # much is made here, and little of it in cycles
    made: bool = False
    work: Any = None
    try:
        while True:
            make, value = pickle.load(requests)  # noqa: S301 - from our own parent
            if make is not None:
                made, work = _attempt(make, value)
                continue
            answer = _attempt(work, (value,)) if made else (False, work)
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return


def _attempt(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether it went well, and the result or the error."""
    try:
        return True, call(*arguments)
    except Exception as error:
        return False, error


if __name__ == "__main__":
    main()
