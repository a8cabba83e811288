from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from codetune.cli.doctor import doctor
from codetune.errors import SourceError


def _answer(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(doctor, options)
    return result.exit_code, result.output


def test_a_machine_that_can_do_everything() -> None:
    status, output = _answer("--json")
    answer = json.loads(output)
    found = {check["name"]: check for check in answer["checks"]}
    assert (status, answer["ok"]) == (0, True)
    assert {"software", "memory", "git", "grammars"} <= set(found)
    assert "python" in found["grammars"]["found"] and not found["git"]["advice"]
    assert "up to about" in _answer()[1] and "B parameters" not in _answer()[1]
    assert _answer()[1].endswith("Ready.  Next: codetune tune PATH\n")


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[int, ...]:
        raise SourceError("git is missing.")

    monkeypatch.setattr("codetune.sources.git.git_version", missing)
    status, output = _answer()
    assert status == 2 and "Install git" in output and "Ready" not in output


def test_a_git_too_old_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codetune.sources.git.git_version", lambda: (2, 36))
    status, output = _answer()
    assert status == 0 and "2.37 or newer" in output
