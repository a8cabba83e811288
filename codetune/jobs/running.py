"""An attempt under way: what its child has told and what of it the database knows."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codetune.jobs.child import FAILED
from codetune.jobs.process import Child
from codetune.jobs.queue import Claim, Outcome, Queue
from codetune.jobs.reports import Report

_EVERY = 1.0  # seconds between two writes of a job's progress
_EVENT_EVERY = 10.0  # seconds between two kept events of one task whose end is not known
_SHARE = 0.01  # of a task, between two kept events otherwise: a hundred a task, at most


@dataclass
class Attempt:
    """One claim and its child."""

    claim: Claim
    child: Child
    _progress: dict[str, Any] | None = None
    _stage: dict[str, Any] = field(default_factory=dict)
    _events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    _ground: tuple[int, int] | None = None
    _collected: str | None = None
    _outcome: Outcome | None = None
    _released: bool = False
    _written: float = float("-inf")
    _kept: tuple[str, float, float] = ("", 0.0, float("-inf"))  # label, done, when

    def hear(self) -> bool:
        """Read what has come; False when the child will tell nothing more."""
        reports, more = self.child.heard()
        for report in reports:
            self._note(report)
        return more

    def release(self) -> None:
        """Whatever happens to the child from now on is the worker's doing."""
        self._released = True

    def write_down(self, queue: Queue) -> bool:
        """Bring news to the database, and the outcome; True when the job is in other hands."""
        status = self.child.ended()
        if status is not None:
            self.hear()
        now = time.monotonic()
        due = self._progress is not None and now - self._written >= _EVERY
        news = self._events or self._ground or self._collected
        if due or news or (status is not None and self._progress is not None):
            owned = queue.report(
                self.claim,
                progress=self._progress,
                events=self._events,
                ground=self._ground,
                collected=self._collected,
            )
            self._progress = self._ground = self._collected = None
            self._events = []
            self._written = now
            if not owned:
                return True
        if status is None:
            return False
        queue.finish(self.claim, self._after(status))
        return True

    def _note(self, report: Report) -> None:
        kind = report.pop("report")
        match kind:
            case "progress":
                self._note_progress(report)
            case "stage":
                self._stage = self._progress = report
                self._events.append(("stage", report))
            case "say":
                self._events.append(("say", report))
            case "ground":
                stage, step = report["ground"]
                self._ground = max(self._ground or (0, 0), (stage, step))
            case "collected":
                self._collected = report["path"]
            case "result":
                self._outcome = Outcome("succeeded", result=report["result"])
            case "failed" | "crashed":
                self._outcome = Outcome(
                    kind, message=report["message"], advice=report.get("advice", "")
                )

    def _note_progress(self, report: Report) -> None:
        """The newest stands in the job's row; enough of them to draw a curve are kept."""
        self._progress = {**self._stage, **report}
        label, done, when = self._kept
        now, reached = time.monotonic(), report["done"] or 0.0
        if report["label"] == label and not report["ended"]:
            total = report["total"]
            if total and abs(reached - done) < _SHARE * total:
                return
            if not total and now - when < _EVENT_EVERY:
                return
        self._kept = (report["label"], reached, now)
        self._events.append(("progress", self._progress))

    def _after(self, status: int) -> Outcome:
        """What the child's end means."""
        if self._outcome is not None and self._outcome.kind == "succeeded" and status == 0:
            return self._outcome
        if self._released:
            return Outcome("released")
        if self._outcome is not None and self._outcome.kind == "failed" and status == FAILED:
            return self._outcome
        if self._outcome is not None and self._outcome.kind == "crashed":
            return self._outcome
        return Outcome("crashed", message=_words(status))


def _words(status: int) -> str:
    if status - 128 in signal.valid_signals():
        name = signal.Signals(status - 128).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return f"Its process was ended by {name}{hint}."
    return f"Its process ended with exit code {status}."
