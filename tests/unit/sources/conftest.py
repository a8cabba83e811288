from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact
from codetune.progress import Progress, Quiet
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.tables import read_rows


class Collected:
    """A finished collection with its rows at hand."""

    def __init__(self, artifact: Artifact, said: list[str]) -> None:
        self.artifact, self.said = artifact, said
        self.rows = list(read_rows(artifact / "files.parquet"))
        self.skipped = {
            row["path"]: row["reason"] for row in read_rows(artifact / "skipped.parquet")
        }

    def paths(self, flag: str = "in_present") -> list[str]:
        return [row["path"] for row in self.rows if row[flag]]

    def content(self, path: str, flag: str = "in_present") -> bytes:
        return next(row["content"] for row in self.rows if row["path"] == path and row[flag])


class _Listening(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Collected]:
    """Collects a source with options given by name."""
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))

    def run(source: Path | str, *, allow_local: bool = True, **options: Any) -> Collected:
        sink = _Listening()
        artifact = collect(
            str(source),
            SourceOptions(**options),
            tmp_path / "out",
            Progress(sink),
            allow_local=allow_local,
        )
        return Collected(artifact, sink.said)

    return run
