"""Ctrl-C and SIGTERM end a command within two seconds, whatever it is doing.

Python raises KeyboardInterrupt only between two calls into C code, and one backward pass of a
large model can take minutes; raised within a `__del__` it is printed and forgotten. All that a
run needs to go on lies on the disk, whole, at any moment (it survives SIGKILL), so when the
ordinary way out is not over in time the process may simply end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 1.6  # seconds for the ordinary way out
SAID = "Stopped. What is finished is kept: run the same command again to go on."
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OVER = b"\0"  # no signal has this number

_watched = threading.Event()  # someone is watching already
_unhurried: set[int] = set()


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came; whoever cleans up after Ctrl-C cleans up after this, too."""


def exit_status(error: BaseException) -> int:
    """What shells expect of a process that a signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
    terminated = isinstance(error.__cause__ or error, TerminatedError)
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def terminate(number: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM that unwinds the stack as Ctrl-C does."""
    raise TerminatedError


@contextmanager
def unhurried(number: int) -> Iterator[None]:
    """Within the block the signal has a handler of its own, which may take its time."""
    _unhurried.add(number)
    try:
        yield
    finally:
        _unhurried.discard(number)


@contextmanager
def ends_soon(patience: float = PATIENCE) -> Iterator[None]:
    """Within the block SIGINT or SIGTERM ends the process after `patience` seconds at the latest.

    Outside the main thread, where signals do not arrive, and within such a block this does
    nothing. A SIGTERM that nobody handles ends the process at once anyway.
    """
    if _watched.is_set() or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The signal's number is written by C code at once, even in the middle of a torch call.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    left = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reading, left, patience), daemon=True)
    watcher.start()
    _watched.set()
    try:
        yield
    finally:
        _watched.clear()
        left.set()
        signal.set_wakeup_fd(before)
        os.write(writing, _OVER)
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int, left: threading.Event, patience: float) -> None:
    while not left.is_set():
        numbers = os.read(reading, 64)
        came = next((number for number in _SIGNALS if number in numbers), None)
        if came is None or came in _unhurried:
            continue
        if not left.wait(patience):
            sys.stderr.write(f"\n{SAID}\n")
            sys.stderr.flush()
            os._exit(128 + came)
