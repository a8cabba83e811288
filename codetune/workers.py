"""An ordered map over processes of our own, which several stages may share.

`multiprocessing` starts its processes by running the caller's main script again, or by forking
a process that may have threads; both break programs that use codetune as a library. Here, a
worker is a plain child that speaks pickles over pipes with its parent, and only with it.

A child takes 0.2 s to start. Stages that follow each other therefore pass the same `Workers` on,
and whoever first sees how much there is to do says so (`expect`): the children import what they
will need while the parent still reads.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any, Self, TypeVar

from codetune.errors import ArtifactError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 16  # processes: above it, the one that writes is the limit
_AHEAD = 2  # items for each process that are read before their turn


class Workers:
    """Processes that live as long as the outermost `with` block; none for little work.

    `processes` is fixed, or None: one a core as soon as `expect` is told of enough work. The
    children import the modules `needed` when they start.
    """

    def __init__(self, processes: int | None = None, needed: Sequence[str] = ()) -> None:
        self._wanted, self._needed = processes, needed
        self._depth = 0
        self._all: list[_Worker] = []
        self._free: SimpleQueue[_Worker] = SimpleQueue()

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._stop()

    def expect(self, size: int) -> None:
        """Start the processes if `size` bytes of text (so far) are worth it."""
        count = self._wanted or processes_for(size)
        if count > 1 and self._depth:
            while len(self._all) < count:
                self._all.append(_Worker(self._needed))
                self._free.put(self._all[-1])

    def _stop(self) -> None:
        for worker in self._all:
            worker.stop()
        self._all, self._free = [], SimpleQueue()

    def prepare(
        self, make: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...]
    ) -> None:
        """Have all processes call `make(*arguments)`; its errors come with `map`."""
        self.expect(0)
        for worker in self._all:
            worker.prepare(make, arguments)

    def map(
        self,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        items: Iterable[Item],
    ) -> Iterator[Result]:
        """`make(*arguments)` in every process, then its call on each item, in the items' order.

        Everything must be picklable, `make` by its name. Without processes the caller does it all.

        Raises:
            ArtifactError: a process was killed from outside (by the system, for lack of memory).
        """
        self.prepare(make, arguments)
        if not self._all:
            yield from map(make(*arguments), items)
            return
        pending: deque[Future[Any]] = deque()
        threads = ThreadPoolExecutor(len(self._all))
        try:
            for item in items:
                pending.append(threads.submit(self._run, item))
                if len(pending) >= _AHEAD * len(self._all):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            self._stop()  # what they are doing has no taker any more
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _run(self, item: Any) -> Any:
        free = self._free  # after a failure there is another one
        worker = free.get()
        try:
            return worker.call(item)
        finally:
            free.put(worker)


def processes_for(size: int, small: int = 1_000_000) -> int:
    """How many processes are worth their start for `size` bytes of text."""
    if size < small:
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, _MOST)


class _Worker:
    """The parent's side of one child process."""

    def __init__(self, needed: Sequence[str]) -> None:
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codetune.workers", *needed],
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


def _died(process: subprocess.Popen[bytes]) -> ArtifactError:
    return ArtifactError(
        f"A process that shared the work of this stage ended early (exit status {process.wait()}).",
        advice="The system may have run out of memory: close other programs and run again.",
    )


def main() -> None:
    """The child's side: read, call, answer, until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not end up among the answers
    requests = sys.stdin.buffer
    for name in sys.argv[1:]:
        importlib.import_module(name)
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
