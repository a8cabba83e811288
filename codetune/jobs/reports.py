"""What a job's child process tells its worker: one JSON object a line.

{"report": "stage",    "stage": "train", "number": 3, "of": 6}
{"report": "collected", "path": …}                 the source as this job sees it
{"report": "ground",   "ground": [3, 40]}          stages done, steps of the next one kept
{"report": "progress", "label", "unit", "done", "total", "note", "rate", "left", "ended"}
{"report": "say",      "message": …}
{"report": "result",   "result": {…}}
{"report": "failed",   "message": …, "advice": …}  the user can mend it: not tried again
{"report": "crashed",  "message": …}
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from codetune.progress import Progress, Task

EVERY = 1.0  # seconds between two reports of one task's progress
Report = dict[str, Any]


def lenient(stream: TextIO) -> TextIO:
    """The stream, with marks for what cannot be encoded: names of files may be any bytes."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


@dataclass
class _Clock:
    """When a task began (or was resumed), and when it was last told of."""

    begun: float
    told: float


class Reporter:
    """The child's end of the pipe: stages, progress and the outcome as lines of `stream`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = Progress(self)
        self._stream, self._clock = stream, clock
        self._clocks: dict[int, _Clock] = {}
        self._stages_done = 0
        self._lock = threading.Lock()  # a stage may count in several threads

    def tell(self, report: str, **values: Any) -> None:
        line = json.dumps({"report": report, **values}, ensure_ascii=False, default=str)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def stage(self, stage: str, number: int, of: int) -> None:
        """A stage begins; the `number` ones before it are finished."""
        self.stages_done(number)
        self.tell("stage", stage=stage, number=number, of=of)
        print(f"[{number + 1}/{of}] {stage}", flush=True)  # noqa: T201 - the job's log

    def stages_done(self, number: int) -> None:
        self._stages_done = number
        self.tell("ground", ground=[number, 0])

    def collected(self, path: Path) -> None:
        self.tell("collected", path=str(path))

    # What a Progress speaks to.

    def start(self, task: Task) -> None:
        now = self._clock()
        self._clocks[id(task)] = _Clock(begun=now, told=now)
        self._show(task, now)

    def update(self, task: Task) -> None:
        now = self._clock()
        clock = self._clocks[id(task)]
        if task.begun and task.done == task.begun:
            clock.begun = now
            self.tell("ground", ground=[self._stages_done, round(task.begun)])
        elif now - clock.told < EVERY:
            return
        clock.told = now
        self._show(task, now)

    def finish(self, task: Task) -> None:
        self._show(task, self._clock(), ended=True)
        del self._clocks[id(task)]

    def say(self, message: str) -> None:
        self.tell("say", message=message)
        print(message, flush=True)  # noqa: T201 - the job's log

    def _show(self, task: Task, now: float, *, ended: bool = False) -> None:
        seconds = now - self._clocks[id(task)].begun
        rate = (task.done - task.begun) / seconds if seconds > 0 else 0.0
        left = (task.total - task.done) / rate if task.total is not None and rate > 0 else None
        self.tell(
            "progress",
            label=task.label,
            unit=task.unit,
            done=round(task.done, 3),
            total=task.total,
            note=task.note,
            rate=round(rate, 3),
            left=None if left is None else round(max(0.0, left), 1),
            ended=ended,
        )
