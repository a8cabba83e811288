"""`clean`: the files worth learning from, as text; every other one is listed with its reason.

    collect's reasons    symlink, submodule, ignored, too_large, … (see sources.collect)
    by name              vendored, binary, data (lock files, tables), generated, minified
    by content           empty, binary, not_text, generated, minified, long_lines, data
    by choice            licence, secret (with `secrets: drop`)
    by comparison        exact_duplicate, near_duplicate

The files are streamed once, past first, through the rules in this order; the first that applies
is the reason. What needs nothing but the file is done in processes. Memory holds one row group
and 2 kB for each kept file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, run_stage
from codetune.corpus.changes import clean_changes
from codetune.corpus.decode import decode
from codetune.corpus.duplicates import Duplicates
from codetune.corpus.examine import Candidate, Dropped, Examining
from codetune.corpus.licences import LicencesByTime, is_licence_file
from codetune.errors import CorpusError
from codetune.progress import Progress
from codetune.syntax.languages import IS_CODE
from codetune.tables import TableWriter, read_rows, read_rows_where
from codetune.workers import Workers

if TYPE_CHECKING:
    from codetune.corpus.config import CorpusOptions

VERSION = 3  # raised when the same inputs give other files
_BATCH = 250_000  # bytes that a process gets at a time
_PACKED = 4  # bytes of content in a byte of files.parquet, about

DOCUMENTS = {
    "id": "string",
    "repo": "string",
    "path": "string",
    "language": "string",
    "licence": "string",
    "text": "string",
    "in_past": "bool",
    "in_present": "bool",
    "previous_path": "string",
    "redactions": "int64",
    "signature": "binary",
}
DROPPED = {
    "path": "string",
    "reason": "string",
    "detail": "string",
    "bytes": "int64",
    "in_past": "bool",
    "in_present": "bool",
}


def clean(
    collected: Artifact,
    options: CorpusOptions,
    folder: Path,
    progress: Progress,
    *,
    workers: Workers | None = None,
) -> Artifact:
    """Decide about every collected file, the same whatever the number of `workers`.

    Raises:
        CorpusError: no code is left.
    """
    return run_stage(
        "clean",
        folder,
        options.model_dump(mode="json") | {"version": VERSION},
        {"collect": collected.digest},
        lambda partial: _Cleaning(collected, options, partial).run(progress, workers or Workers()),
    )


class _Cleaning:
    """One run over one collection."""

    def __init__(self, collected: Artifact, options: CorpusOptions, folder: Path) -> None:
        self.collected, self.options, self.folder = collected, options, folder
        self.tally = _Tally()
        self.duplicates = Duplicates(options.near_duplicates)
        self.licences = LicencesByTime.of_rows(list(_licence_texts(collected)))

    def run(self, progress: Progress, workers: Workers) -> dict[str, Any]:
        """Write both tables; returns the summary."""
        with (
            workers,
            TableWriter(self.folder / "documents.parquet", DOCUMENTS) as documents,
            TableWriter(self.folder / "dropped.parquet", DROPPED) as dropped,
            progress.task("clean", total=self.collected.summary["files"], unit="files") as task,
        ):
            for row in read_rows(self.collected / "skipped.parquet"):
                self.tally.drop(row["reason"])
                dropped.write(row)
            files = self.collected / "files.parquet"
            workers.expect(files.stat().st_size * _PACKED)
            arguments = (self.options, self.licences)
            for examined in workers.map(Examining, arguments, _batches(files)):
                for file, own in examined:
                    task.advance(note=file.path)
                    verdict = self._compare(own)
                    if isinstance(verdict, Dropped):
                        self.tally.drop(verdict.reason)
                        dropped.write(file._asdict() | asdict(verdict))
                    else:
                        size = self.tally.keep(verdict)
                        documents.write(verdict.document, size=size)
        self._check_code()
        return self.tally.summary() | self._commits(progress)

    def _commits(self, progress: Progress) -> dict[str, Any]:
        """Write commits.parquet where the collection has one; its part of the summary."""
        changes = self.collected / "commits.parquet"
        if not changes.exists():
            return {}
        with progress.task("Cleaning commits"):
            target = self.folder / "commits.parquet"
            return {"changes": clean_changes(changes, target, self.options, self.licences)}

    def _compare(self, verdict: Candidate | Dropped) -> Candidate | Dropped:
        """The verdict, changed to a drop where the text is a copy of a kept one."""
        if isinstance(verdict, Dropped):
            return verdict
        document = verdict.document
        # Only a version of the present has a past version to be told apart from.
        version_of = None if document["in_past"] else document["previous_path"]
        found = self.duplicates.find(verdict.digest, verdict.signature, version_of)
        if found is not None:
            return Dropped(*found)
        self.duplicates.add(document["path"], verdict.digest, verdict.signature)
        return verdict

    def _check_code(self) -> None:
        prose = self.options.prose_alone and self.tally.languages
        if prose or any(language in IS_CODE for language in self.tally.languages):
            return
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.tally.dropped.most_common(5))
        files = "1 file" if self.tally.files == 1 else f"{self.tally.files} files"
        raise CorpusError(
            f"No source code is left of {files}" + (f" (dropped: {reasons})." if reasons else "."),
            advice="To train on documents and other texts alone: --set corpus.prose_alone=true."
            if self.tally.languages
            else "Check the path, or relax the options of the corpus section in codetune.yaml.",
        )


@dataclass
class _Tally:
    """What the summary counts."""

    files: int = 0
    kept: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)
    invisible: Counter[str] = field(default_factory=Counter)
    languages: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def drop(self, reason: str) -> None:
        self.files += 1
        self.dropped[reason] += 1

    def keep(self, candidate: Candidate) -> int:
        """Count a kept document; returns its size in bytes of UTF-8."""
        document = candidate.document
        size = len(document["text"].encode())
        self.files += 1
        self.kept += 1
        self.bytes += size
        self.languages[document["language"]].update(files=1, bytes=size)
        self.licences[document["licence"]] += 1
        self.encodings[candidate.encoding] += 1
        self.secrets.update(candidate.secrets)
        if candidate.invisible:
            self.invisible.update(files=1, characters=candidate.invisible)
        return size

    def summary(self) -> dict[str, Any]:
        by_size = sorted(self.languages.items(), key=lambda item: -item[1]["bytes"])
        return {
            "files": self.files,
            "kept": self.kept,
            "dropped": dict(self.dropped.most_common()),
            "bytes": self.bytes,
            "languages": {name: dict(counts) for name, counts in by_size},
            "licences": dict(self.licences.most_common()),
            "encodings": dict(self.encodings.most_common()),
            "redactions": self.secrets.total(),
            "secrets": dict(self.secrets.most_common()),
            "invisible_removed": dict(self.invisible),
        }


def _batches(files: Path) -> Iterator[list[dict[str, Any]]]:
    """The collected rows in runs of about `_BATCH` bytes."""
    run: list[dict[str, Any]] = []
    size = 0
    for row in read_rows(files):
        run.append(row)
        size += len(row["content"])
        if size >= _BATCH:
            yield run
            run, size = [], 0
    yield run


def _licence_texts(collected: Artifact) -> Iterator[tuple[str, str, bool, bool]]:
    """The LICENSE files and when they are there, by a first pass that reads only the paths."""
    table = collected / "files.parquet"
    for row in read_rows_where(table, "path", is_licence_file):
        decoded = decode(row["content"])
        if decoded is not None:
            yield row["path"], decoded.text, row["in_past"], row["in_present"]
