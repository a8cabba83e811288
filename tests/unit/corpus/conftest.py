from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact, run_stage
from codetune.corpus.clean import clean
from codetune.corpus.config import CorpusOptions
from codetune.progress import Progress
from codetune.sources.collect import FILES, SKIPPED
from codetune.tables import TableWriter, read_rows
from codetune.workers import Workers
from tests.unit.corpus.files import File


class Cleaned:
    """A finished cleaning with its rows at hand."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.summary = artifact.summary
        self.documents = list(read_rows(artifact / "documents.parquet"))
        self.dropped_rows = list(read_rows(artifact / "dropped.parquet"))
        self.dropped = {row["path"]: row["reason"] for row in self.dropped_rows}
        self.texts = {row["path"]: row["text"] for row in self.documents}

    @property
    def kept(self) -> list[str]:
        return [row["path"] for row in self.documents]


@pytest.fixture
def cleaned(tmp_path: Path) -> Callable[..., Cleaned]:
    """Cleans files (given in the order of `collect`: past first) with options given by name."""

    def run(
        *files: File,
        skipped: tuple[tuple[str, str], ...] = (),
        processes: int | None = None,
        **options: Any,
    ) -> Cleaned:
        def write(folder: Path) -> dict[str, Any]:
            with TableWriter(folder / "files.parquet", FILES) as table:
                for file in files:
                    table.write(file.row(), size=len(file.content))
            with TableWriter(folder / "skipped.parquet", SKIPPED) as table:
                for path, reason in skipped:
                    flags = {"in_past": True, "in_present": True}
                    table.write({"path": path, "reason": reason, "detail": "", "bytes": 0, **flags})
            return {"files": len(files)}

        key = {"files": [str(file) for file in files], "skipped": skipped}
        collected = run_stage("collect", tmp_path / "collected", key, {}, write)
        made = CorpusOptions(**options)
        folder = tmp_path / ("out" if processes is None else f"out-{processes}")
        artifact = clean(collected, made, folder, Progress(), workers=Workers(processes))
        return Cleaned(artifact)

    return run
