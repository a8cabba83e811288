"""An ordered map over processes of our own, which several stages may share.

`multiprocessing` starts its processes by running the caller's main script again, or by forking
a process that may have threads; both break programs that use codetune as a library. Here, a
worker is a plain child that speaks pickles over pipes with its parent, and only with it.

A child takes 0.3 s of a core to start. Stages that follow each other therefore pass the same
`Workers` on, whoever first sees how much there is to do says so (`expect`), so that the children
import what they will need while the parent still reads; and on Linux one child imports it for
all: it forks the others, when it has done so and before it starts any thread.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from codetune.errors import ArtifactError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 16  # processes: above it, the one that writes is the limit
_AHEAD = 4  # items for each process that are read before their turn
_PIPE = 1 << 20  # bytes: what Linux allows everybody
_PATIENCE = 1.0  # seconds for idle processes to end
_PR_SET_PDEATHSIG = 1  # of Linux' prctl(2)


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
            self._stop(_PATIENCE)

    def expect(self, size: int) -> None:
        """Start the processes if `size` bytes of text (so far) are worth it."""
        count = self._wanted or processes_for(size)
        if count > 1 and self._depth and not self._all:
            self._all = _start(count, self._needed)
            for worker in self._all:
                self._free.put(worker)

    def _stop(self, patience: float) -> None:
        """End the processes: those that have nothing to do by themselves, in so many seconds."""
        everyone, self._all, self._free = self._all, [], SimpleQueue()
        if patience:
            for worker in everyone:
                worker.dismiss()
        for process in {worker.process for worker in everyone}:
            _end(process, patience)
        for worker in everyone:
            worker.dismiss()

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
    ) -> Generator[Result, None, None]:
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
            for future in pending:
                future.cancel()
            self._stop(0)  # what they are doing has no taker any more
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
    """The parent's side of one child: `process` is the child, or the one that forked it."""

    def __init__(self, process: subprocess.Popen[bytes], requests: int, answers: int) -> None:
        self.process = process
        self._requests, self._answers = os.fdopen(requests, "wb"), os.fdopen(answers, "rb")

    def prepare(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Say what is to be called from now on."""
        self._send((make, arguments))

    def call(self, item: Any) -> Any:
        """The child's result for one item.

        Raises:
            ArtifactError: the child is gone.
        """
        self._send((None, item))
        try:
            good, value = pickle.load(self._answers)  # noqa: S301 - our own child
        except (EOFError, pickle.UnpicklingError) as error:
            raise _died() from error
        if not good:
            raise value
        return value

    def _send(self, value: Any) -> None:
        try:
            pickle.dump(value, self._requests, protocol=pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
        except BrokenPipeError as error:
            raise _died() from error

    def dismiss(self) -> None:
        """Nothing more will be asked of the child: it ends when it is idle."""
        self._answers.close()
        try:
            self._requests.close()
        except BrokenPipeError:
            return  # what was still to be sent has no reader any more


def _start(count: int, needed: Sequence[str]) -> list[_Worker]:
    """Start `count` children."""
    if sys.platform != "linux":  # where a process that has loaded libraries may not fork
        return [_family(1, needed)[0] for _ in range(count)]
    return _family(count, needed)


def _family(count: int, needed: Sequence[str]) -> list[_Worker]:
    """A child that imports what is needed, and the `count - 1` others that it forks then."""
    requests, answers = ([_pipe() for _ in range(count)] for _ in range(2))
    theirs = [(request[0], answer[1]) for request, answer in zip(requests, answers, strict=True)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    # Memory in large pages: a process that reads all day spends its time on page tables.
    tunables = [os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"]
    environment["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "codetune.workers", json.dumps(theirs), *needed],
        stdin=subprocess.DEVNULL,
        stdout=2,  # a stray print must not end up among the answers of the parent's own caller
        pass_fds=[end for pair in theirs for end in pair],
        env=environment,
    )
    for pair in theirs:
        for end in pair:
            os.close(end)
    ours = zip(requests, answers, strict=True)
    return [_Worker(process, request[1], answer[0]) for request, answer in ours]


def _pipe() -> tuple[int, int]:
    """A pipe that holds a whole item, where the system allows it: nobody waits in its middle."""
    ends = os.pipe()
    if sys.platform == "linux":
        with suppress(OSError):  # more than this user may have
            fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Wait for children who have been dismissed; kill those who are still busy."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()  # and, by its death, those that it forked
        process.wait()


def _died() -> ArtifactError:
    return ArtifactError(
        "A process that shared the work of this stage ended early.",
        advice="The system may have run out of memory: close other programs and run again.",
    )


def main() -> None:
    """The children's side: import, fork, then read, call, answer, until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    first, *others = json.loads(sys.argv[1])
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.set_threshold(200_000, 20, 100)  # much is made here, and little of it in cycles
    gc.freeze()  # what is shared with the forked is not written to
    for number, pair in enumerate(others):
        if os.fork() == 0:
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for end in [*first, *(end for later in others[number + 1 :] for end in later)]:
                os.close(end)
            _serve(*pair)
            os._exit(0)
        for end in pair:
            os.close(end)
    _serve(*first)
    for _ in others:
        os.wait()


def _serve(requests: int, answers: int) -> None:
    made: bool = False
    work: Any = None
    try:
        with os.fdopen(requests, "rb") as asked, os.fdopen(answers, "wb") as told:
            while True:
                make, value = pickle.load(asked)  # noqa: S301 - from our own parent
                if make is not None:
                    made, work = _attempt(make, value)
                    continue
                answer = _attempt(work, (value,)) if made else (False, work)
                pickle.dump(answer, told, protocol=pickle.HIGHEST_PROTOCOL)
                told.flush()
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
