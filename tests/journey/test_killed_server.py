"""The server killed in the middle of a tuning job: restarted, the same model comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journey.killed import compare


@pytest.mark.slow
def test_a_job_whose_server_is_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Two moments here; `python -m tests.journey.killed --moments 10 FOLDER` for more."""
    run = compare(tmp_path, 2, seed=5)
    assert [moment.order for moment in run.killed]
