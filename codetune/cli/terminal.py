"""What the command line shows: bars on a terminal, plain lines elsewhere, one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as BarTask
from rich.table import Column, Table
from rich.text import Text

from codetune.progress import Progress, Quiet, Task

_ROOM_FOR_ALL = 100  # columns of a terminal that shows rate and elapsed time, too


class _Rate(TextColumn):
    """Units a second, in thousands where that reads better."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: BarTask) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        if not speed:
            return Text("")
        return Text(f"{_short(speed)} {unit}/s", style="dim")


class _Note(TextColumn):
    """What a task says beside its bar, in one line; it ends in "…" where there is no room."""

    def __init__(self) -> None:
        super().__init__("", table_column=Column())

    def render(self, task: BarTask) -> Text:
        note = str(task.fields.get("note", ""))
        return Text(note, style="dim", no_wrap=True, overflow="ellipsis")


class _Bars(RichProgress):
    """Bars that fit the terminal: bar and note shrink, what counts is never cut."""

    def __init__(self, console: Console) -> None:
        self._terminal = console
        self._if_wide = (_Rate(), TimeElapsedColumn(table_column=Column(no_wrap=True)))
        self._all: tuple[str | ProgressColumn, ...] = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            *self._if_wide,
            TextColumn("left"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            _Note(),
        )
        super().__init__(*self._all, console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[BarTask]) -> Table:
        wide = self._terminal.width >= _ROOM_FOR_ALL  # a window may change its size meanwhile
        self.columns = tuple(one for one in self._all if wide or one not in self._if_wide)
        return super().make_tasks_table(tasks)


class TerminalSink:
    """Bars on standard error; a bar appears only when its work takes a moment."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = _Bars(console)
        self.shown: dict[int, TaskID] = {}

    def start(self, task: Task) -> None:
        if not self.shown:
            self.bars.start()
        self.shown[id(task)] = self.bars.add_task(
            task.label, total=task.total, unit=task.unit, note=task.note
        )

    def update(self, task: Task) -> None:
        self.bars.update(
            self.shown[id(task)], completed=round(task.done), total=task.total, note=task.note
        )

    def finish(self, task: Task) -> None:
        self.bars.remove_task(self.shown.pop(id(task)))
        if not self.shown:
            self.bars.stop()

    def say(self, message: str) -> None:
        self.console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        self.bars.stop()


class PlainSink(Quiet):
    """Only the lines that stay, for logs and pipes."""

    def say(self, message: str) -> None:
        click.echo(message, err=True)


@contextmanager
def progress_shown(*, quiet: bool) -> Iterator[Progress]:
    """A Progress for one command: bars on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield Progress()
    elif sys.stderr.isatty():
        sink = TerminalSink(Console(stderr=True))
        try:
            yield Progress(sink)
        finally:
            sink.close()
    else:
        yield Progress(PlainSink())


def print_json(value: Any) -> None:
    """The one JSON object of a `--json` run."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _short(number: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def moment(when: str) -> str:
    """A moment in ISO 8601 as people read it, by this machine's clock: 11-22 19:05."""
    read = datetime.fromisoformat(when)
    local = (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone()
    return f"{local:%m-%d %H:%M}" if local.year == datetime.now().year else f"{local:%Y-%m-%d}"


def size(number: float) -> str:
    """Bytes as people write them: 1.5 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} bytes"
