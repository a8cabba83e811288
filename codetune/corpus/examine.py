"""One file against the rules that need nothing but the file: the part that costs time."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from codetune.corpus.content import judge_text
from codetune.corpus.decode import decode, is_binary
from codetune.corpus.licences import LicencesByTime, is_allowed
from codetune.corpus.paths import judge_path
from codetune.corpus.secrets import redact
from codetune.similarity import exact_digest, shingles, signature_of
from codetune.syntax.languages import language_of

if TYPE_CHECKING:
    from codetune.corpus.config import CorpusOptions
    from codetune.similarity import Signature

_FEWEST_SHINGLES = 24  # the similarity of shorter texts means nothing


class File(NamedTuple):
    """A collected file without its content of `bytes` bytes."""

    path: str
    bytes: int
    in_past: bool
    in_present: bool

    @classmethod
    def of(cls, row: dict[str, Any]) -> File:
        return cls(row["path"], len(row["content"]), row["in_past"], row["in_present"])


@dataclass(frozen=True)
class Dropped:
    """Why a file is not worth learning from."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Candidate:
    """A file that is worth learning from, unless it is a duplicate."""

    document: dict[str, Any]  # a row of documents.parquet
    digest: str
    signature: Signature | None
    encoding: str
    invisible: int
    secrets: Counter[str] = field(default_factory=Counter)


class Examining:
    """Judges rows of files.parquet; every process has one."""

    def __init__(self, options: CorpusOptions, licences: LicencesByTime) -> None:
        self._options, self._licences = options, licences

    def __call__(self, rows: list[dict[str, Any]]) -> list[tuple[File, Candidate | Dropped]]:
        """Each file without its content, and what is decided about it, in the rows' order."""
        return [(File.of(row), examine(row, self._options, self._licences)) for row in rows]


def examine(
    row: dict[str, Any], options: CorpusOptions, licences: LicencesByTime
) -> Candidate | Dropped:
    """Judge a row of files.parquet by its name, its content and the user's choices."""
    path, content = row["path"], row["content"]
    by_name = judge_path(path, options)
    if by_name is not None:
        return Dropped(*by_name)
    if not content:
        return Dropped("empty", "no bytes")
    if is_binary(content):
        return Dropped("binary", "holds NUL bytes")
    decoded = decode(content)
    if decoded is None:
        return Dropped("not_text", "in no encoding that was tried")
    text = decoded.text
    language = language_of(path, text[:4000])
    own = licences.at(row)
    if not options.keep_vendored and own.is_foreign(path):
        return Dropped("vendored", "in a folder of dependencies with a licence of its own")
    by_content = judge_text(text, language, options)
    if by_content is not None:
        return Dropped(*by_content)
    licence = own.of(path, text)
    if options.licences and not is_allowed(licence, options.licences):
        return Dropped("licence", licence)
    redacted = redact(text)
    if redacted.kinds and options.secrets == "drop":
        return Dropped("secret", ", ".join(sorted(redacted.kinds)))
    hashes = shingles(redacted.text)
    signature = signature_of(hashes)
    document = {
        "id": _identity(row["repo"], path, redacted.text),
        "repo": row["repo"],
        "path": path,
        "language": language,
        "licence": licence,
        "text": redacted.text,
        "in_past": row["in_past"],
        "in_present": row["in_present"],
        "previous_path": row["previous_path"],
        "redactions": redacted.kinds.total(),
        "signature": signature.tobytes(),
    }
    return Candidate(
        document,
        exact_digest(redacted.text),
        signature if len(hashes) >= _FEWEST_SHINGLES else None,
        decoded.encoding,
        decoded.invisible,
        redacted.kinds,
    )


def _identity(*parts: str) -> str:
    """16 hexadecimal digits that change with any part: stable across runs."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
