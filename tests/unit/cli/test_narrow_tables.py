"""Tables that are read on narrow terminals, too."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest

from codetune.cli.jobs import _show_table
from codetune.cli.store import show_rows
from codetune.cli.tables import trials_table
from codetune.cli.terminal import moment

JOB: dict[str, Any] = {
    "id": f"job_{'0a' * 12}",
    "kind": "evaluate",
    "state": "running",
    "cancelling": False,
    "owner": "local",
    "source": "/home/ada/work/of/this/year/till",
    "created": "2026-11-22T19:05:11.123+00:00",
    "progress": {"stage": "train", "number": 3, "of": 6, "total": 40, "done": 9, "unit": "steps"},
}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_jobs(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _show_table([JOB])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "…" not in "".join(lines)
    assert JOB["id"] in lines[1] and "till" in lines[1]
    assert ("train 4/6" if width == 140 else "running 4/6") in lines[1]
    assert (moment(JOB["created"]) in lines[1]) is (width > 60)


def test_an_audit_log(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = {
        "at": moment(JOB["created"]),
        "actor": "x" * 30,
        "action": "login.failed",
        "subject": "y" * 30,
    }
    show_rows([row], *row)
    shown = capsys.readouterr().out
    assert "…" not in shown and row["at"] in shown
    assert "".join(shown.split()).count("y") >= 30


def test_trials(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    params = {
        "training.learning_rate": 2e-4,
        "training.rank": 16,
        "training.epochs": 3,
        "dataset.fim_rate": 0.5,
        "dataset.replay_share": 0.2,
    }
    trial = {"trial": 1, "params": params, "validation_loss": 1.23456, "best_in_run": 1.2}
    trials_table(
        {
            "best": {"trial": 0, "params": params},
            "all": [trial | {"steps": 12, "of_steps": 120, "state": "stopped early"}],
        }
    )
    shown = capsys.readouterr().out
    assert "…" not in shown
    for word in ("learning", "replay", "1.2346", "12/120", "stopped early"):
        assert word in shown


def test_a_moment_is_short() -> None:
    this_year = f"{datetime.now().year}-11-22T19:05:11.123"
    assert moment(this_year + "+00:00") == moment(this_year)  # what has no zone is UTC's
    assert re.fullmatch(r"1\d-\d\d \d\d:\d\d", moment(this_year))
    assert moment("2019-06-22T19:05:11+00:00").startswith("2019-06-2")
