"""What became of completions: counted once each, and how much of an accepted one stayed."""

from __future__ import annotations

import pytest

from codetune.serving.fates import RATIOS, STAYED, Remains
from codetune.serving.log import Logged, StoredLog
from codetune.store.completions import CompletionEvent
from codetune.store.database import Database
from codetune.store.users import LOCAL_USER

BEFORE = "import shop\n\n\ndef total(prices):\n    "
GIVEN = "return sum(prices)"


class Clock:
    """Seconds that a test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(clock: Clock, *, line: bool = False, text: str = GIVEN, prefix: str = BEFORE) -> Remains:
    """A completion that was accepted just now."""
    remains = Remains(clock)
    remains.show("c", "ada", "shop.py", "adapter", prefix, text)
    remains.accept("c", line=line)
    return remains


@pytest.mark.parametrize(
    ("now", "ratio"),
    [
        (BEFORE + GIVEN, 0.0),
        (BEFORE + GIVEN + "\n\n\ndef more():\n    pass\n", 0.0),
        (BEFORE + "return max(prices)", 3 / len(GIVEN)),
        (BEFORE + "return round(sum(prices), 2)\n", 6 / len(GIVEN)),
        (BEFORE, 1.0),
        ("x = 1\n" * 50 + BEFORE + GIVEN, 0.0),
        (BEFORE.replace("prices", "costs") + GIVEN, None),  # its place is not to be seen
    ],
)
def test_how_much_was_changed(now: str, ratio: float | None) -> None:
    clock = Clock()
    remains = shown(clock)
    clock.now = 31.0
    found = remains.look("ada", "shop.py", now)
    assert [one.ratio for one in found] == ([] if ratio is None else [pytest.approx(ratio)])
    if found:
        assert (found[0].completion, found[0].kind, found[0].seconds) == ("c", "adapter", 31.0)
        assert remains.look("ada", "shop.py", now) == [], "told once"


def test_only_accepted_ones_of_the_same_user_and_file_after_a_while() -> None:
    clock = Clock()
    remains = shown(clock)
    remains.show("d", "ada", "shop.py", "adapter", BEFORE, GIVEN)  # not accepted
    clock.now = 29.0
    assert remains.look("ada", "shop.py", BEFORE + GIVEN) == []
    clock.now = 31.0
    assert remains.look("bob", "shop.py", BEFORE + GIVEN) == []
    assert remains.look("ada", "other.py", BEFORE + GIVEN) == []
    assert remains.look("ada", None, BEFORE + GIVEN) == []
    assert [one.completion for one in remains.look("ada", "shop.py", BEFORE + GIVEN)] == ["c"]
    remains = shown(clock)
    clock.now += 1801.0
    assert remains.look("ada", "shop.py", BEFORE + GIVEN) == [], "too late"


def test_of_an_accepted_line_the_rest_does_not_count() -> None:
    clock = Clock()
    remains = shown(clock, line=True, text=GIVEN + "\n\n\ndef never_taken():\n    pass")
    clock.now = 60.0
    assert [one.ratio for one in remains.look("ada", "shop.py", BEFORE + GIVEN)] == [0.0]


def test_what_could_stand_anywhere_is_not_looked_for() -> None:
    clock = Clock()
    remains = shown(clock, prefix="    ")
    clock.now = 60.0
    assert remains.look("ada", "shop.py", "    " + GIVEN) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codetune.serving.fates._MOST", 3)
    clock = Clock()
    remains = Remains(clock)
    for number in range(5):
        remains.show(f"c{number}", "ada", "shop.py", "base", BEFORE, GIVEN)
        remains.accept(f"c{number}", line=False)
    clock.now = 60.0
    found = remains.look("ada", "shop.py", BEFORE + GIVEN)
    assert [one.completion for one in found] == ["c2", "c3", "c4"]


def test_it_is_kept_with_the_completion_and_counted_once(database: Database) -> None:
    clock = Clock()
    log = StoredLog(database, remains=Remains(clock))

    def complete(name: str, prefix: str) -> None:
        texts = {"prefix": prefix, "suffix": "\n", "text": GIVEN}
        log.completion(
            Logged(name, LOCAL_USER, "shop:1", "tabby", path="a.py", texts=texts, kind="adapter")
        )

    complete("one", BEFORE)
    for kind in ("view", "view", "select", "select"):
        log.event(LOCAL_USER, "one", kind, choice=0, details={})
    clock.now = 45.0
    complete("two", BEFORE + "return max(prices)\n\n\n")
    fates = log.fates()["adapter"]
    assert fates.events == {"view": 1, "select": 1}
    assert sum(fates.edits.counts) == 1
    assert fates.edits.counts[RATIOS.index(0.25)] == 1, "3 of 18 characters"
    with database.session() as session:
        (event,) = session.query(CompletionEvent).where(CompletionEvent.kind == STAYED)
    assert event.completion_id == "one"
    assert event.details == {"edit_ratio": round(3 / 18, 4), "seconds": 45}
