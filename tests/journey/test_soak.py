"""Two minutes of what `python -m tests.journey.soak` does for thirty."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journey.soak import Soak, report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_under_mixed_load_with_kills_nothing_is_lost_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    soak = Soak(tmp_path, f"sqlite:///{tmp_path / 'home' / 'codetune.db'}", minutes=2)
    books = soak.run()
    said = report(books)
    assert not books.problems, said
    assert books.kills.total() >= 3 and len(books.jobs) >= 3, said
    ends = {end for _, end in books.answers}
    assert {"200", "left", "given up", "succeeded"} <= ends, said
