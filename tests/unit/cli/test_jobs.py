"""`codetune jobs` and `codetune worker` as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codetune.cli.jobs import jobs
from codetune.errors import ConflictError, NotFoundError, SourceError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "shop"
    source.mkdir()
    for number in range(4):
        lines = (f"def price_{number}_{i}(item):\n    return item * {i}\n" for i in range(20))
        (source / f"m{number}.py").write_text("\n".join(lines))
    return tmp_path / "home"


def call(*arguments: str) -> str:
    result = CliRunner().invoke(jobs, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def as_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(*arguments, "--json"))
    return found


def test_from_the_queue_to_its_log(home: Path) -> None:
    job = as_json("submit", "ingest", "shop", "--set", "corpus.prose_alone=true")
    assert (job["state"], job["owner"], job["source"]) == ("queued", "local", f"{Path.cwd()}/shop")
    with pytest.raises(SourceError, match="nothing does not exist"):
        call("submit", "ingest", "nothing")
    Path("nothing").mkdir()
    wrong = as_json("submit", "ingest", "nothing")["id"]
    Path("nothing").rmdir()
    assert "No worker is running yet" in call("submit", "ingest", "shop", "--priority", "-1")
    assert "Nothing" not in call("list", "--state", "queued")
    assert call("logs", job["id"]) == ""
    done = subprocess.run(
        [sys.executable, "-m", "codetune", "worker", "--once"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stderr.count("attempt 1 in process") == 3

    shown = as_json("show", job["id"])
    assert (shown["state"], shown["attempts"], shown["progress"]["stage"]) == (
        "succeeded",
        1,
        "clean",
    )
    assert shown["result"]["summary"]["kept"] == 4
    assert Path(shown["result"]["artifact"]).is_dir()
    assert shown["config"] == {"corpus": {"prose_alone": True}}
    assert call("logs", job["id"]) == "[1/2] collect\n[2/2] clean\n"
    events = [json.loads(line) for line in call("logs", job["id"], "-f", "--json").splitlines()]
    assert events[0]["kind"] == "log" and events[-1]["data"]["state"] == "succeeded"
    assert "does not exist" in call("show", wrong)
    assert as_json("list", "--state", "failed")["jobs"][0]["id"] == wrong
    table = call("list")
    assert job["id"] in table and "No worker runs." in table

    assert as_json("retry", wrong)["state"] == "queued"
    assert "is cancelled" in call("cancel", wrong)
    with pytest.raises(ConflictError, match="has succeeded already"):
        call("cancel", job["id"])
    with pytest.raises(NotFoundError, match="There is no job 'x'"):
        call("show", "x")


def test_what_has_ended_is_forgotten_on_request(home: Path) -> None:
    waits, ended = (as_json("submit", "ingest", "shop")["id"] for _ in range(2))
    call("cancel", ended)
    assert "0 jobs are forgotten" in call("forget", "--days", "1")
    assert as_json("forget", "--days", "0") == {"forgotten": 1}
    assert [job["id"] for job in as_json("list")["jobs"]] == [waits]


def test_who_ends_the_following_is_told_that_the_job_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = as_json("submit", "ingest", "shop")["id"]
    assert "started" not in call("show", job), "it waits"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codetune.jobs.service.Jobs.follow", interrupted)
    result = CliRunner().invoke(jobs, ["logs", job, "--follow"])
    assert result.exit_code == 130
    assert result.stderr == "Not followed any more; the job itself is left as it is.\n"
