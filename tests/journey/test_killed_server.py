"""Server and workers killed in the middle of a tuning job: the same model comes out.

`python -m tests.journey.killed --moments 10 FOLDER` does more of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import new_database
from tests.journey.killed import Expected, disturbed, moments, undisturbed

# A worker that falls asleep in a transaction holds the job's row for so long.
_SOON = "&options=-c%20idle_in_transaction_session_timeout%3D2000"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_whose_server_is_killed_ends_with_the_same_bytes(
    expected: Expected, database_url: str, tmp_path: Path
) -> None:
    chosen = moments(3, 14, "beside")
    assert {one.victim for one in chosen} == {"server", "worker", "both"}
    assert disturbed(expected, tmp_path / "home", database_url, "beside", chosen).killed == chosen


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_whose_worker_on_another_machine_dies_or_sleeps_ends_with_the_same_bytes(
    expected: Expected, postgres: str, tmp_path: Path
) -> None:
    chosen = moments(2, 33, "elsewhere")
    assert {one.victim for one in chosen} == {"worker", "frozen"}
    with new_database(postgres) as url:
        url += _SOON
        one = disturbed(expected, tmp_path / "home", url, "elsewhere", chosen)
    assert one.killed == chosen
