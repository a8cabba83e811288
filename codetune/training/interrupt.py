"""Ctrl-C ends a run within two seconds, however long one pass of a large model takes.

Python raises KeyboardInterrupt only between two calls into torch, and one backward pass can
take minutes. All that a run needs to go on lies on the disk, whole, at any moment (it survives
SIGKILL), so when Python does not get to it in time the process may simply end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 1.5  # seconds for the ordinary way out
_EXIT_CODE = 128 + signal.SIGINT
_OVER = b"\0"  # no signal has this number


@contextmanager
def ends_soon(patience: float = PATIENCE) -> Iterator[None]:
    """Within the block SIGINT ends the process after `patience` seconds at the latest.

    Outside the main thread, where signals do not arrive, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The signal's number is written by C code at once, even in the middle of a torch call.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    left = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reading, left, patience), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.write(writing, _OVER)
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int, left: threading.Event, patience: float) -> None:
    while not left.is_set():
        if signal.SIGINT not in os.read(reading, 64):
            continue
        if not left.wait(patience):
            sys.stderr.write("Interrupted. Run again, and it goes on from the last checkpoint.\n")
            sys.stderr.flush()
            os._exit(_EXIT_CODE)
