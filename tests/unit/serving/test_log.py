"""Completions and what became of them are kept, for their owner alone."""

from __future__ import annotations

import pytest

from codetune.errors import NotFoundError
from codetune.serving.log import CompletionLog, Logged, MemoryLog, StoredLog
from codetune.store.completions import Completion, CompletionEvent
from codetune.store.database import Database
from codetune.store.users import LOCAL_USER

TEXTS = {"prefix": "def f(", "suffix": "):\n", "text": "x\0"}


def entry(name: str = "cmpl-1") -> Logged:
    return Logged(name, LOCAL_USER, "shop:1", "tabby", "python", "a.py", 12, 3, 0.05, TEXTS)


def check(log: CompletionLog) -> None:
    log.completion(entry())
    log.event(LOCAL_USER, "cmpl-1", "view", choice=0, details={"view_id": "v"})
    log.event(LOCAL_USER, "cmpl-1", "select", choice=0, details={})
    for owner, name in ((LOCAL_USER, "cmpl-2"), ("usr_other", "cmpl-1")):
        with pytest.raises(NotFoundError, match="no completion"):
            log.event(owner, name, "select", choice=0, details={})


@pytest.mark.parametrize("keep_texts", [False, True])
def test_in_the_database(database: Database, keep_texts: bool) -> None:
    check(StoredLog(database, keep_texts=keep_texts))
    with database.session() as session:
        (kept,) = session.query(Completion).all()
        assert (kept.id, kept.owner_id, kept.model) == ("cmpl-1", LOCAL_USER, "shop:1")
        assert kept.details["tokens"] == 3
        texts = {name: kept.details.get(name) for name in TEXTS}
        assert texts == (TEXTS | {"text": "x"} if keep_texts else dict.fromkeys(TEXTS))
        events = session.query(CompletionEvent).order_by(CompletionEvent.id).all()
        assert [event.kind for event in events] == ["view", "select"]
        assert events[0].details == {"view_id": "v"}


def test_without_a_database_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codetune.serving.log._REMEMBERED", 2)
    log = MemoryLog()
    check(log)
    assert [event["kind"] for event in log.events("cmpl-1")] == ["view", "select"]
    for number in (2, 3):
        log.completion(entry(f"cmpl-{number}"))
    with pytest.raises(NotFoundError):
        log.event(LOCAL_USER, "cmpl-1", "select", choice=0, details={})
    log.event(LOCAL_USER, "cmpl-3", "dismiss", choice=0, details={})
