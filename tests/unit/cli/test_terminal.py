"""What a terminal shows of work that goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from codetune.cli.terminal import TerminalSink
from codetune.progress import Progress


def bar(width: int) -> str:
    """The line of a training in a terminal of this width."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    sink = TerminalSink(console)
    with Progress(sink).task("Training (lora)", total=240, unit="steps") as task:
        (row,) = sink.bars.tasks
        for done in (4, 8):
            task.done, task.note = done, "loss 2.325, 3,298 tokens/s"
            sink.update(task)
        sink.bars.stop()  # what it draws by itself
        with console.capture() as shown:
            console.print(sink.bars.make_tasks_table([row]))
    (line,) = shown.get().splitlines()
    return line


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_bar_shrinks_and_what_counts_is_whole(width: int) -> None:
    line = bar(width)
    assert len(line.rstrip()) <= width
    assert "Training (lora)" in line
    assert " 8/240 " in line
    assert "left 0:" in line or "left -:--:--" in line
    assert " loss" in line
    assert ("steps/s" in line) is (width >= 100)
    assert ("3,298 tokens/s" in line) is (width == 140)
