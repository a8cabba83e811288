"""Progress events: the terminal's bars, `--json` runs and job rows read one stream.

A stage reports what it does through a `Progress`; where that goes is the caller's business.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass
class Task:
    """One countable piece of work; `total` is None while it is unknown."""

    label: str
    unit: str
    total: float | None
    done: float = 0.0
    note: str = ""
    begun: float = 0.0  # what an interrupted run had done already
    _progress: Progress | None = None
    _told: float = 0.0

    def resume(self, done: float) -> None:
        """Go on from what an interrupted run had done; this is told at once."""
        self.done = self.begun = done
        if self._progress is not None:
            self._progress.sink.update(self)

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        """Say that `amount` more units are done; `note` stands beside the bar (a loss, a file)."""
        self.done += amount
        if note is not None:
            self.note = note
        now = time.monotonic()
        # At most ten updates a second: a bar must never cost more than the work it shows.
        if self._progress is not None and now - self._told > 0.1:
            self._told = now
            self._progress.sink.update(self)


class Sink(Protocol):
    """Where progress goes."""

    def start(self, task: Task) -> None: ...
    def update(self, task: Task) -> None: ...
    def finish(self, task: Task) -> None: ...
    def say(self, message: str) -> None: ...


class Quiet:
    """Shows nothing: tests, and machines that read only the result."""

    def start(self, task: Task) -> None: ...
    def update(self, task: Task) -> None: ...
    def finish(self, task: Task) -> None: ...
    def say(self, message: str) -> None: ...


class Progress:
    """What a stage is given to report with."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink: Sink = sink or Quiet()

    @contextmanager
    def task(self, label: str, *, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """A bar for the length of a `with` block."""
        task = Task(label=label, unit=unit, total=total, _progress=self)
        self.sink.start(task)
        try:
            yield task
        finally:
            self.sink.finish(task)

    def say(self, message: str) -> None:
        """One line that stays: what was found, what was decided, what to look at."""
        self.sink.say(message)
